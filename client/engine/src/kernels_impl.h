// The kernels' only source text, compiled once per instruction set with that set's flags. All of it
// has internal linkage and it calls no library code, so that the linker cannot pick for all CPUs what
// was compiled for a newer one.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace cmpool::engine {
namespace {

#if defined(__AVX512F__)
using Vec = __m512;
using Bits = unsigned __attribute__((vector_size(64)));
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec splat(float value) { return _mm512_set1_ps(value); }
#elif defined(__AVX2__)
using Vec = __m256;
using Bits = unsigned __attribute__((vector_size(32)));
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec splat(float value) { return _mm256_set1_ps(value); }
#else
using Vec = float __attribute__((vector_size(16)));
using Bits = unsigned __attribute__((vector_size(16)));
inline Vec fma(Vec a, Vec b, Vec c) {
    return Vec{__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]),
               __builtin_fmaf(a[2], b[2], c[2]), __builtin_fmaf(a[3], b[3], c[3])};
}
inline Vec splat(float value) { return Vec{value, value, value, value}; }
#endif

constexpr int kWidth = sizeof(Vec) / sizeof(float);
constexpr int kParts = static_cast<int>(kLanes) / kWidth;
// Accumulators of a tile must fit the registers: 32 of 16 lanes, 16 of 8, 32 of 4 on Arm.
constexpr int kTileRows = kWidth == 16 ? 8 : 4;
constexpr int kTilePanels = kWidth == 16 ? 2 : 1;

inline Vec load(const float* from) {
    Vec value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
}
inline void store(float* to, Vec value) { __builtin_memcpy(to, &value, sizeof(value)); }

template <int kRows, int kPanels>
void tile(const Panels& w, Rows<const float> x, Rows<float> y, bool on) {
    constexpr int kVecs = kPanels * kParts;
    Vec sum[kRows][kVecs] = {};
    if (on) {
#pragma GCC unroll 16
        for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
            for (int vec = 0; vec < kVecs; ++vec)
                sum[row][vec] = load(y.data + row * y.stride + vec * kWidth);
        }
    }
    const float* line = w.data;
    for (std::size_t input = 0; input < w.inputs; ++input, line += w.input_stride) {
        Vec weight[kVecs];
#pragma GCC unroll 16
        for (int vec = 0; vec < kVecs; ++vec)
            weight[vec] = load(line + vec / kParts * w.panel_stride + vec % kParts * kWidth);
#pragma GCC unroll 16
        for (int row = 0; row < kRows; ++row) {
            const Vec value = splat(x.data[row * x.stride + input]);
#pragma GCC unroll 16
            for (int vec = 0; vec < kVecs; ++vec) sum[row][vec] = fma(weight[vec], value, sum[row][vec]);
        }
    }
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
        for (int vec = 0; vec < kVecs; ++vec) store(y.data + row * y.stride + vec * kWidth, sum[row][vec]);
    }
}

// Weights stay in the first cache while all rows pass over them.
template <int kPanels>
void panels_times_rows(const Panels& w, Rows<const float> x, std::size_t rows, Rows<float> y, bool on) {
    std::size_t row = 0;
    const auto run = [&](auto tile_of_rows, std::size_t step) {
        for (; row + step <= rows; row += step)
            tile_of_rows(w, {x.data + row * x.stride, x.stride}, {y.data + row * y.stride, y.stride}, on);
    };
    run(tile<kTileRows, kPanels>, kTileRows);
    run(tile<2, kPanels>, 2);
    run(tile<1, kPanels>, 1);
}

// A single row has too few independent chains in one panel to fill the pipeline: it takes four.
void product(const Panels& w, Rows<const float> x, std::size_t rows, Rows<float> y, bool on) {
    std::size_t panel = 0;
    const auto run = [&](auto several, std::size_t step) {
        for (; panel + step <= w.count; panel += step) {
            const Panels part{w.data + panel * w.panel_stride, w.panel_stride, w.input_stride, step,
                              w.inputs};
            several(part, x, rows, {y.data + panel * kLanes, y.stride}, on);
        }
    };
    if (rows < 4) run(panels_times_rows<4>, 4);
    run(panels_times_rows<kTilePanels>, kTilePanels);
    run(panels_times_rows<1>, 1);
}

void multiply(const Panels& w, Rows<const float> x, std::size_t rows, Rows<float> y) {
    product(w, x, rows, y, false);
}

void multiply_on(const Panels& w, Rows<const float> x, std::size_t rows, Rows<float> y) {
    product(w, x, rows, y, true);
}

// In squares of four: every instruction set can turn those in registers.
void to_panel(const float* const* rows, std::size_t width, Line* out) {
    using Four = float __attribute__((vector_size(16)));
    std::size_t at = 0;
    for (; at + 4 <= width; at += 4) {
        for (std::size_t lane = 0; lane < kLanes; lane += 4) {
            Four row[4];
            for (int index = 0; index < 4; ++index)
                __builtin_memcpy(&row[index], rows[lane + index] + at, sizeof(Four));
            const Four low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
            const Four low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
            const Four high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
            const Four high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
            const Four turned[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                                    __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                                    __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                                    __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
            for (int index = 0; index < 4; ++index)
                __builtin_memcpy(out[at + index].lane + lane, &turned[index], sizeof(Four));
        }
    }
    for (; at < width; ++at) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) out[at].lane[lane] = rows[lane][at];
    }
}

// e^x by x = n ln 2 + r and a polynomial in r, as in Cephes' expf; n goes into the exponent bits.
inline Vec exponential(Vec x) {
    const Vec limit = splat(87.0f);
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Vec shifted = fma(x, splat(1.44269504088896341f), magic);
    const Vec n = shifted - magic;
    const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
    Vec sum = splat(1.9875691500e-4f);
    constexpr float kRest[] = {
        1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f};
    for (const float coefficient : kRest) sum = fma(sum, r, splat(coefficient));
    Bits bits;
    Bits exponent;
    __builtin_memcpy(&bits, &sum, sizeof(bits));
    __builtin_memcpy(&exponent, &shifted, sizeof(exponent));
    bits += exponent << 23;
    __builtin_memcpy(&sum, &bits, sizeof(sum));
    return sum;
}

float largest_of(const float* values, std::size_t count) {
    Vec several = splat(values[0]);
    std::size_t index = 0;
    for (; index + kWidth <= count; index += kWidth) {
        const Vec value = load(values + index);
        several = value > several ? value : several;
    }
    float largest = values[0];
    for (int lane = 0; lane < kWidth; ++lane) largest = several[lane] > largest ? several[lane] : largest;
    for (; index < count; ++index) largest = values[index] > largest ? values[index] : largest;
    return largest;
}

// Lane by lane first, then across the lanes: the order is that of 16 lanes for every vector width.
float sum_of(const float* values, std::size_t padded) {
    Vec several[kParts] = {};
    for (std::size_t index = 0; index < padded; index += kLanes) {
        for (int part = 0; part < kParts; ++part) several[part] += load(values + index + part * kWidth);
    }
    float lanes[kLanes];
    for (int part = 0; part < kParts; ++part) store(lanes + part * kWidth, several[part]);
    float sum = 0;
    for (const float lane : lanes) sum += lane;
    return sum;
}

float exponentials(float* values, std::size_t count, float scale) {
    const std::size_t padded = lanes_up(count);
    const Vec largest = splat(largest_of(values, count));
    for (std::size_t index = 0; index < padded; index += kWidth)
        store(values + index, exponential((load(values + index) - largest) * splat(scale)));
    for (std::size_t index = count; index < padded; ++index) values[index] = 0;
    return sum_of(values, padded);
}

void silu_multiply(float* gate, const float* up, std::size_t count) {
    const Vec one = splat(1.0f);
    for (std::size_t index = 0; index < count; index += kWidth) {
        const Vec value = load(gate + index);
        store(gate + index, value / (one + exponential(-value)) * load(up + index));
    }
}

}  // namespace
}  // namespace cmpool::engine
