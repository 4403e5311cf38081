#include "arithmetic.h"
#include "weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <cmpool/base/rng.h>
#include <cmpool/engine/model.h>
#include <cmpool/engine/tokenizer.h>

namespace cmpool::engine {

namespace {

constexpr std::uint32_t kContext = 8192;

// Attention takes 4 dim^2 and the feed-forward 8 dim^2 values a layer, the two tables 2 vocab dim.
ModelConfig config_for(std::uint64_t parameters) {
    const std::uint32_t layers = parameters < 1'000'000 ? 2 : parameters < 100'000'000 ? 6 : 16;
    const std::uint32_t head_dim = parameters < 1'000'000 ? 16 : parameters < 10'000'000 ? 32 : 64;
    const double square = 12.0 * layers;
    const double width =
        (std::sqrt(kByteVocab * double{kByteVocab} + square * static_cast<double>(parameters)) - kByteVocab) /
        square;
    const auto heads = std::max(1U, static_cast<std::uint32_t>(std::lround(width / head_dim)));
    const std::uint32_t dim = heads * head_dim;
    return {.dim = dim,
            .hidden = (dim * 8 / 3 + 15) / 16 * 16,
            .layers = layers,
            .heads = heads,
            .kv_heads = heads,
            .vocab = kByteVocab,
            .context = kContext,
            .shared_embedding = false};
}

/// Uniform weights of a given standard deviation.
class WeightSource {
public:
    explicit WeightSource(std::uint64_t seed) noexcept : rng_(seed) {}

    void fill(std::span<float> out, double deviation) noexcept {
        const double scale = deviation * std::sqrt(12.0) * 0x1p-53;
        for (float& weight : out)
            weight = static_cast<float>((static_cast<double>(rng_.next() >> 11) - 0x1p52) * scale);
    }
    // Outputs then vary as much as inputs do, so activations neither fade nor grow.
    void fill(Matrix& matrix, double gain = 1.0) {
        std::vector<float> row(matrix.inputs());
        for (std::size_t output = 0; output < matrix.outputs(); ++output) {
            fill(std::span(row), gain / std::sqrt(static_cast<double>(row.size())));
            matrix.set_row(output, row);
        }
    }

private:
    Rng rng_;
};

void fill_layer(LayerWeights& layer, WeightSource& source) {
    std::ranges::fill(layer.attention_gain, 1.0f);
    std::ranges::fill(layer.feed_gain, 1.0f);
    // Sharper queries: a token attends to few others, so what it says depends on which they are.
    source.fill(layer.query, 2.0);
    source.fill(layer.key);
    for (Matrix* matrix : {&layer.value, &layer.output, &layer.feed.gate, &layer.feed.down, &layer.feed.up})
        source.fill(*matrix);
}

}  // namespace

Result<Model> Model::synthetic(std::uint64_t parameters, std::uint64_t seed) {
    if (parameters < kSyntheticParametersMin || parameters > kSyntheticParametersMax) {
        return fail(Errc::Invalid, "expected a synthetic model of {} to {} parameters, saw {}",
                    kSyntheticParametersMin, kSyntheticParametersMax, parameters);
    }
    const ModelConfig config = config_for(parameters);
    auto weights = std::make_shared<Weights>(config);
    WeightSource source(seed);
    source.fill(std::span(weights->embedding), 1.0);
    for (auto& layer : weights->layers) fill_layer(layer, source);
    std::ranges::fill(weights->final_gain, 1.0f);
    source.fill(weights->classifier);
    auto identity = fmt::format("{} synthetic {} seed {}", kArithmetic, parameters, seed);
    return Model(config, std::move(identity), std::move(weights));
}

}  // namespace cmpool::engine
