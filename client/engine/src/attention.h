#pragma once

#include "kernels.h"

#include <cstddef>
#include <span>
#include <vector>

#include <cmpool/engine/forward.h>

namespace cmpool::engine {

/// Finds one layer's rows of keys and values in a sequence's blocks.
class KvView {
public:
    KvView(PagedKv& kv, std::span<const std::uint32_t> blocks, std::size_t layer) noexcept
        : kv_(&kv), blocks_(blocks), layer_(layer) {}

    /// All heads' keys (part 0) or values (part 1) of a position; of latent KV the only row is part 0.
    [[nodiscard]] float* at(std::size_t position, std::size_t part) const noexcept;
    /// Positions from this one on whose rows follow each other in memory, row_width() floats apart.
    [[nodiscard]] std::size_t run(std::size_t position) const noexcept;
    [[nodiscard]] std::size_t row_width() const noexcept;

private:
    PagedKv* kv_;
    std::span<const std::uint32_t> blocks_;
    std::size_t layer_;
};

/// Widths are in floats. Head h reads key and value head h / (heads / kv_heads).
struct AttentionShape {
    std::size_t heads, kv_heads;
    std::size_t key_width, value_width;
    std::size_t value_part;  ///< where values are: KvView's part 1, or 0 when they begin the keys
    std::size_t query_stride, out_stride;  ///< from one head to the next in a row of queries, of results
    float scale;
};

/// Softmax attention over all positions up to each row's own, reading keys and values where they are.
/// The operations for a row follow from its position alone: a score is one chain over its key, a
/// result one chain over the positions.
class Attention {
public:
    explicit Attention(const AttentionShape& shape);

    /// Rows are the `count` positions from `start` on, whose own keys and values are stored already.
    /// Each row of `out` becomes the concatenated heads of that of `queries`.
    void run(const KvView& kv, std::size_t start, std::size_t count, Rows<const float> queries,
             Rows<float> out);

private:
    /// Rows that read the same keys: pair i is query head i % group of the group, at row i / group.
    struct Pass {
        std::size_t kv_head, first, count;  ///< pairs
        std::size_t start;                  ///< position of row 0
        std::size_t positions;              ///< that the last pair reads
    };

    void run(const KvView& kv, const Pass& pass, Rows<const float> queries, Rows<float> out);
    void score(const KvView& kv, const Pass& pass);
    void weigh(const Pass& pass);
    void sum(const KvView& kv, const Pass& pass);
    [[nodiscard]] std::size_t row_of(const Pass& pass, std::size_t pair) const noexcept;
    [[nodiscard]] std::size_t head_of(const Pass& pass, std::size_t pair) const noexcept;

    const Kernels& kernels_;
    AttentionShape shape_;
    std::size_t group_;         // query heads to a key head
    std::vector<float> zeros_;  // the key of a position that does not exist
    std::vector<float> query_;  // [pairs][key_width]
    std::vector<Line> keys_;    // [panels of a tile][key_width], a lane per position
    std::vector<Line>
        values_;  // [positions of a tile][panels of value_width], where rows are no whole panels
    std::vector<float> scores_;  // [pairs][positions in whole panels]
    std::size_t score_stride_ = 0;
    std::vector<float> totals_;  // [pairs]
    std::vector<float> sums_;    // [pairs][value_width in whole panels]
};

}  // namespace cmpool::engine
