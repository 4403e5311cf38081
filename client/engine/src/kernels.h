#pragma once

#include <cstddef>
#include <span>

// The arithmetic, once per instruction set. Every result is one fixed sequence of IEEE operations
// that depends on no batch, tile or vector width: an output of a product is a chain of fused
// multiply-adds over the inputs in order, a sum over positions has 16 lanes by position. So all
// variants give the same bytes, and so does a token alone or among others.

namespace cmpool::engine {

/// Outputs that stand side by side in a panel, whatever the width of the machine's vectors.
inline constexpr std::size_t kLanes = 16;

[[nodiscard]] constexpr std::size_t lanes_up(std::size_t count) noexcept {
    return (count + kLanes - 1) / kLanes * kLanes;
}

/// One input's weights for the outputs of a panel.
struct alignas(kLanes * sizeof(float)) Line {
    float lane[kLanes];
};

/// A weight matrix as the kernels read it: panel p holds outputs 16p to 16p+15, input by input.
struct Panels {
    const float* data;
    std::size_t panel_stride;  ///< floats from one panel to the next
    std::size_t input_stride;  ///< floats from one input to the next
    std::size_t count;
    std::size_t inputs;
};

/// Rows of floats, `stride` floats apart.
template <class Float>
struct Rows {
    Float* data;
    std::size_t stride;
};

struct Kernels {
    const char* name;
    /// y[r][o] = sum over i of w[o][i] * x[r][i]; rows of y have room for all lanes of all panels.
    void (*multiply)(const Panels& w, Rows<const float> x, std::size_t rows, Rows<float> y);
    /// The same, but the chains go on from what y holds: inputs may come in several runs.
    void (*multiply_on)(const Panels& w, Rows<const float> x, std::size_t rows, Rows<float> y);
    /// out[i].lane[l] = rows[l][i] for i < width: kLanes rows become a panel.
    void (*to_panel)(const float* const* rows, std::size_t width, Line* out);
    /// values[i] = exp(scale * (values[i] - largest)) for i < count, then 0 up to lanes_up(count);
    /// returns the sum.
    float (*exponentials)(float* values, std::size_t count, float scale);
    /// gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i] up to lanes_up(count).
    void (*silu_multiply)(float* gate, const float* up, std::size_t count);
};

/// The fastest that this CPU can run.
[[nodiscard]] const Kernels& best_kernels() noexcept;
/// All that this CPU can run, the portable ones last.
[[nodiscard]] std::span<const Kernels* const> all_kernels() noexcept;

}  // namespace cmpool::engine
