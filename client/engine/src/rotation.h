#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <cmpool/engine/model.h>

namespace cmpool::engine {

/// Cosines and sines for the rows of a step, made once for all layers.
class Rotation {
public:
    /// Turns widths of `width` floats.
    Rotation(const RotationConfig& config, std::size_t width);

    void clear() noexcept;
    /// The next row is at this position.
    void add(std::size_t position);
    /// Turns `count` widths of row `row`, `stride` floats apart.
    void turn(std::size_t row, float* values, std::size_t count, std::size_t stride) const noexcept;

private:
    std::vector<double> turns_;  // of each pair, by position
    double amplitude_;
    std::vector<float> cosine_, sine_;  // [rows][pairs]
};

/// How far each pair of a width turns from one position to the next, in radians.
[[nodiscard]] std::vector<double> turns_of(const RotationConfig& config, std::size_t width);

}  // namespace cmpool::engine
