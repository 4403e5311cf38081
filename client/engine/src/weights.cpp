#include "weights.h"

#include <cmpool/base/assert.h>

namespace cmpool::engine {

Matrix::Matrix(std::size_t outputs, std::size_t inputs)
    : outputs_(outputs), inputs_(inputs), lines_(lanes_up(outputs) / kLanes * inputs) {}

void Matrix::set(std::size_t output, std::size_t input, float weight) noexcept {
    lines_[output / kLanes * inputs_ + input].lane[output % kLanes] = weight;
}

void Matrix::set_row(std::size_t output, std::span<const float> weights) {
    CMPOOL_ASSERT(output < outputs_ && weights.size() == inputs_);
    for (std::size_t input = 0; input < inputs_; ++input) set(output, input, weights[input]);
}

FeedWeights::FeedWeights(std::size_t dim, std::size_t hidden)
    : gate(hidden, dim), down(dim, hidden), up(hidden, dim) {}

LayerWeights::LayerWeights(const ModelConfig& config, std::uint32_t layer)
    : attention_gain(config.dim),
      query(config.query_dim(), config.latent.query_rank == 0 ? config.dim : config.latent.query_rank),
      output(config.dim, config.mixed_dim()),
      feed_gain(config.dim) {
    if (config.is_latent()) {
        const LatentConfig& sizes = config.latent;
        latent = {.compress = Matrix(sizes.width(), config.dim),
                  .gain = std::vector<float>(sizes.rank),
                  .absorb = std::vector<Matrix>(config.heads, Matrix(sizes.rank, sizes.unrotated)),
                  .expand = std::vector<Matrix>(config.heads, Matrix(sizes.value, sizes.rank)),
                  .query_gain = std::vector<float>(sizes.query_rank)};
        if (sizes.query_rank > 0) latent.query = Matrix(sizes.query_rank, config.dim);
    } else {
        key = Matrix(config.kv_dim(), config.dim);
        value = Matrix(config.kv_dim(), config.dim);
    }
    if (config.head_norms) {
        query_gain.resize(config.head_dim());
        key_gain.resize(config.head_dim());
    }
    if (config.is_dense(layer)) {
        feed = FeedWeights(config.dim, config.hidden);
        return;
    }
    router = Matrix(config.experts.count, config.dim);
    if (config.experts.shared_hidden > 0) feed = FeedWeights(config.dim, config.experts.shared_hidden);
    experts.assign(config.experts.count, FeedWeights(config.dim, config.experts.hidden));
}

Weights::Weights(const ModelConfig& config)
    : embedding(std::size_t{config.vocab} * config.dim),
      final_gain(config.dim),
      classifier(config.vocab, config.dim) {
    layers.reserve(config.layers);
    for (std::uint32_t layer = 0; layer < config.layers; ++layer) layers.emplace_back(config, layer);
}

void Weights::share_embedding() {
    const std::size_t dim = classifier.inputs();
    for (std::size_t token = 0; token < classifier.outputs(); ++token)
        classifier.set_row(token, std::span(embedding).subspan(token * dim, dim));
}

}  // namespace cmpool::engine
