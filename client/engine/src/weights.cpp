#include "weights.h"

#include <cmath>

#include <cmpool/base/assert.h>

namespace cmpool::engine {

namespace {

constexpr double kRotationBase = 10000.0;

void fill_rotations(const ModelConfig& config, std::vector<float>& cosine, std::vector<float>& sine) {
    const std::uint32_t pairs = config.head_dim() / 2;
    for (std::uint32_t pair = 0; pair < pairs; ++pair) {
        const double turn = std::pow(kRotationBase, -2.0 * pair / config.head_dim());
        for (std::size_t position = 0; position < config.context; ++position) {
            const double angle = static_cast<double>(position) * turn;
            cosine[position * pairs + pair] = static_cast<float>(std::cos(angle));
            sine[position * pairs + pair] = static_cast<float>(std::sin(angle));
        }
    }
}

LayerWeights empty_layer(const ModelConfig& config) {
    return {.attention_gain = std::vector<float>(config.dim),
            .query = Matrix(config.dim, config.dim),
            .key = Matrix(config.kv_dim(), config.dim),
            .value = Matrix(config.kv_dim(), config.dim),
            .output = Matrix(config.dim, config.dim),
            .feed_gain = std::vector<float>(config.dim),
            .gate = Matrix(config.hidden, config.dim),
            .down = Matrix(config.dim, config.hidden),
            .up = Matrix(config.hidden, config.dim)};
}

}  // namespace

Matrix::Matrix(std::size_t outputs, std::size_t inputs)
    : outputs_(outputs), inputs_(inputs), lines_(lanes_up(outputs) / kLanes * inputs) {}

void Matrix::set_row(std::size_t output, std::span<const float> weights) {
    CMPOOL_ASSERT(output < outputs_ && weights.size() == inputs_);
    Line* panel = lines_.data() + output / kLanes * inputs_;
    for (std::size_t input = 0; input < inputs_; ++input) panel[input].lane[output % kLanes] = weights[input];
}

Weights::Weights(const ModelConfig& config)
    : embedding(std::size_t{config.vocab} * config.dim),
      final_gain(config.dim),
      classifier(config.vocab, config.dim),
      cosine(std::size_t{config.context} * (config.head_dim() / 2)),
      sine(cosine.size()) {
    layers.reserve(config.layers);
    for (std::uint32_t layer = 0; layer < config.layers; ++layer) layers.push_back(empty_layer(config));
    fill_rotations(config, cosine, sine);
}

}  // namespace cmpool::engine
