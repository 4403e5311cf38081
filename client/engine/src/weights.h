#pragma once

#include "kernels.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <cmpool/engine/model.h>

namespace cmpool::engine {

/// A weight matrix for y = W x, kept in panels; unused lanes of the last panel are zero.
class Matrix {
public:
    Matrix() = default;
    Matrix(std::size_t outputs, std::size_t inputs);

    void set_row(std::size_t output, std::span<const float> weights);
    [[nodiscard]] std::size_t outputs() const noexcept { return outputs_; }
    [[nodiscard]] std::size_t inputs() const noexcept { return inputs_; }
    [[nodiscard]] Panels panels() const noexcept {
        return {lines_.data(), inputs_, lanes_up(outputs_) / kLanes, inputs_};
    }

private:
    std::size_t outputs_ = 0;
    std::size_t inputs_ = 0;
    std::vector<Line> lines_;
};

struct LayerWeights {
    std::vector<float> attention_gain;
    Matrix query, key, value, output;
    std::vector<float> feed_gain;
    Matrix gate, down, up;
};

/// All that a forward pass reads. Rotations are those of position p and pair i at [p * pairs + i].
struct Weights {
    std::vector<float> embedding;  // [vocab][dim]
    std::vector<LayerWeights> layers;
    std::vector<float> final_gain;
    Matrix classifier;
    std::vector<float> cosine, sine;

    /// Zero weights of the right shapes, and the rotation tables.
    explicit Weights(const ModelConfig& config);
};

}  // namespace cmpool::engine
