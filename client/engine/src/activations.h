#pragma once

#include "kernels.h"

#include <cstddef>
#include <span>
#include <vector>

namespace cmpool::engine {

/// Rows of activations, each with room for whole panels.
class Activations {
public:
    Activations(std::size_t rows, std::size_t width) : stride_(lanes_up(width)), data_(rows * stride_) {}

    [[nodiscard]] float* row(std::size_t index) noexcept { return data_.data() + index * stride_; }
    [[nodiscard]] Rows<float> from(std::size_t index = 0) noexcept { return {row(index), stride_}; }
    [[nodiscard]] Rows<const float> read(std::size_t index = 0) noexcept { return {row(index), stride_}; }

private:
    std::size_t stride_;
    std::vector<float> data_;
};

/// out = in / rms(in) * gain; both may be the same.
void rms_norm(const float* in, std::span<const float> gain, float epsilon, float* out) noexcept;

}  // namespace cmpool::engine
