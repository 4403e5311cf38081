#include "activations.h"

#include <cmath>

namespace cmpool::engine {

void rms_norm(const float* in, std::span<const float> gain, float epsilon, float* out) noexcept {
    float lanes[kLanes] = {};
    for (std::size_t index = 0; index < gain.size(); ++index) lanes[index % kLanes] += in[index] * in[index];
    float squares = 0;
    for (const float lane : lanes) squares += lane;
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(gain.size()) + epsilon);
    for (std::size_t index = 0; index < gain.size(); ++index) out[index] = in[index] * scale * gain[index];
}

}  // namespace cmpool::engine
