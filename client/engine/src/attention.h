#pragma once

#include "kernels.h"

#include <cstddef>
#include <span>
#include <vector>

#include <cmpool/engine/forward.h>

namespace cmpool::engine {

/// Finds one layer's keys and values of a position in a sequence's blocks.
class KvView {
public:
    KvView(PagedKv& kv, std::span<const std::uint32_t> blocks, std::size_t layer) noexcept
        : kv_(&kv), blocks_(blocks), layer_(layer) {}

    /// All heads' keys (part 0) or values (part 1).
    [[nodiscard]] float* at(std::size_t position, std::size_t part) const noexcept;

private:
    PagedKv* kv_;
    std::span<const std::uint32_t> blocks_;
    std::size_t layer_;
};

/// Softmax attention over all positions up to each row's own. Rows are taken in tiles that end at
/// multiples of kLanes positions, and keys in tiles of kLanes: so the operations for a row follow
/// from its position alone.
class Attention {
public:
    explicit Attention(const ModelConfig& config);

    /// Rows are the `count` positions from `start` on, whose own keys and values are stored already.
    /// Each row of `out` becomes the concatenated heads of that of `queries`.
    void run(const KvView& kv, std::size_t start, std::size_t count, Rows<const float> queries,
             Rows<float> out);

private:
    void pack(const KvView& kv, std::size_t positions);
    void pack_tile(std::size_t head, std::size_t first, const float* const* keys, const float* const* values);
    void tile(std::size_t head, std::size_t start, std::size_t count, Rows<const float> queries,
              Rows<float> out);
    [[nodiscard]] Line* keys_of(std::size_t head) noexcept;
    [[nodiscard]] Line* values_of(std::size_t head) noexcept;

    const Kernels& kernels_;
    std::size_t heads_, kv_heads_, head_dim_;
    float scale_;
    std::vector<float> zeros_;   // keys or values of a position that does not exist
    std::vector<Line> keys_;     // [kv_heads][tiles of positions][head_dim], a lane per position
    std::vector<Line> values_;   // [kv_heads][panels of head_dim][positions]
    std::size_t positions_ = 0;  // packed, in whole tiles
    std::vector<float> scores_;  // [kLanes rows][positions]
    std::vector<float> sums_;    // [kLanes rows][head_dim in whole panels]
};

}  // namespace cmpool::engine
