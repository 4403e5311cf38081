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

    /// Rows of a slice that are computed in one pass: fewer make the keys' way longer.
    [[nodiscard]] std::size_t rows_together() const noexcept;
    /// Rows are the `count` positions from `start` on, whose own keys and values are stored already.
    /// Each row of `out` becomes the concatenated heads of that of `queries`.
    void run(const KvView& kv, std::size_t start, std::size_t count, Rows<const float> queries,
             Rows<float> out);

private:
    /// What is computed together: for each of some key heads the same pairs. Pair i of a key head is its
    /// query head i % group at row i / group.
    struct Pass {
        std::size_t kv_first, kv_count;
        std::size_t first, count;  ///< pairs of each key head
        std::size_t start;         ///< position of row 0
        std::size_t positions;     ///< that the last pair reads
    };

    void run(const KvView& kv, const Pass& pass, Rows<const float> queries, Rows<float> out);
    void gather(const Pass& pass, Rows<const float> queries);
    void score(const KvView& kv, const Pass& pass);
    void weigh(const Pass& pass);
    void sum(const KvView& kv, const Pass& pass);
    void scatter(const Pass& pass, Rows<float> out);
    /// One head's values of some positions, in rows of whole panels.
    const float* copy_values(const KvView& kv, std::size_t first, std::size_t count, std::size_t skip);
    [[nodiscard]] std::size_t row_of(const Pass& pass, std::size_t pair) const noexcept;
    [[nodiscard]] std::size_t head_of(const Pass& pass, std::size_t kv_head, std::size_t pair) const noexcept;
    /// Of key head `kv_head` of the pass, rows by pair.
    [[nodiscard]] Rows<float> queries_of(const Pass& pass, std::size_t kv_head) noexcept;
    [[nodiscard]] Rows<float> scores_of(const Pass& pass, std::size_t kv_head) noexcept;
    [[nodiscard]] Rows<float> sums_of(const Pass& pass, std::size_t kv_head) noexcept;

    const Kernels& kernels_;
    AttentionShape shape_;
    std::size_t group_;          // query heads to a key head
    std::vector<float> zeros_;   // the keys of a position that does not exist
    std::vector<float> query_;   // [key heads][pairs][key_width]
    std::vector<Line> keys_;     // [panels of a tile][key heads][key_width], a lane per position
    std::vector<Line> values_;   // [positions of a tile][panels of value_width], where they are copied
    std::vector<float> scores_;  // [key heads][pairs][positions in whole panels]
    std::size_t score_stride_ = 0;
    std::vector<float> totals_;  // [key heads][pairs]
    std::vector<float> sums_;    // [key heads][pairs][value_width in whole panels]
};

}  // namespace cmpool::engine
