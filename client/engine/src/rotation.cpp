#include "rotation.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace cmpool::engine {

std::vector<double> turns_of(const RotationConfig& config, std::size_t width) {
    const auto d = static_cast<double>(width);
    std::vector<double> turns(width / 2);
    for (std::size_t pair = 0; pair < turns.size(); ++pair)
        turns[pair] = std::pow(config.base, -2.0 * static_cast<double>(pair) / d);
    if (config.factor == 1) return turns;

    // The pair that turns `count` times within the original context.
    const auto pair_of = [&](double count) {
        return d * std::log(config.original_context / (count * 2 * std::numbers::pi)) /
               (2 * std::log(config.base));
    };
    const double low = std::max(std::floor(pair_of(config.fast)), 0.0);
    double high = std::min(std::ceil(pair_of(config.slow)), d - 1);
    if (high == low) high += 0.001;
    for (std::size_t pair = 0; pair < turns.size(); ++pair) {
        const double stretched = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
        turns[pair] *= stretched / config.factor + (1 - stretched);
    }
    return turns;
}

Rotation::Rotation(const RotationConfig& config, std::size_t width)
    : turns_(turns_of(config, width)), amplitude_(config.amplitude) {}

void Rotation::clear() noexcept {
    cosine_.clear();
    sine_.clear();
}

void Rotation::add(std::size_t position) {
    for (const double turn : turns_) {
        const double angle = static_cast<double>(position) * turn;
        cosine_.push_back(static_cast<float>(amplitude_ * std::cos(angle)));
        sine_.push_back(static_cast<float>(amplitude_ * std::sin(angle)));
    }
}

void Rotation::turn(std::size_t row, float* values, std::size_t count, std::size_t stride) const noexcept {
    const std::size_t pairs = turns_.size();
    const float* cosine = cosine_.data() + row * pairs;
    const float* sine = sine_.data() + row * pairs;
    for (; count > 0; --count, values += stride) {
        for (std::size_t pair = 0; pair < pairs; ++pair) {
            const float even = values[2 * pair];
            const float odd = values[2 * pair + 1];
            values[2 * pair] = even * cosine[pair] - odd * sine[pair];
            values[2 * pair + 1] = even * sine[pair] + odd * cosine[pair];
        }
    }
}

}  // namespace cmpool::engine
