#include "attention.h"

#include <algorithm>
#include <cstring>

namespace cmpool::engine {

namespace {

// Pairs of row and head that a tile of keys serves once it is in the cache.
constexpr std::size_t kPairs = 64;
constexpr std::size_t kTilePanels = 4;
constexpr std::size_t kTilePositions = kTilePanels * kLanes;
// So many pairs repay the copy of values to one place, where their chains run on over blocks.
constexpr std::size_t kPairsToCopy = 8;
// Scores of a pass stay in the second cache, unless one head's are more: 512 KiB.
constexpr std::size_t kScoresMax = 1U << 17;

}  // namespace

float* KvView::at(std::size_t position, std::size_t part) const noexcept {
    const BlockShape& shape = kv_->shape();
    const std::size_t row = (layer_ * shape.parts + part) * shape.tokens + position % shape.tokens;
    const MutableBytes block = kv_->block_bytes(blocks_[position / shape.tokens]);
    return reinterpret_cast<float*>(block.data()) + row * row_width();
}

std::size_t KvView::run(std::size_t position) const noexcept {
    return kv_->shape().tokens - position % kv_->shape().tokens;
}

std::size_t KvView::row_width() const noexcept {
    return std::size_t{kv_->shape().kv_heads} * kv_->shape().head_dim;
}

Attention::Attention(const AttentionShape& shape)
    : kernels_(best_kernels()),
      shape_(shape),
      group_(shape.heads / shape.kv_heads),
      zeros_(shape.kv_heads * shape.key_width),
      query_(shape.kv_heads * kPairs * shape.key_width),
      keys_(kTilePanels * shape.kv_heads * shape.key_width),
      values_(kTilePositions * lanes_up(shape.value_width) / kLanes),
      totals_(shape.kv_heads * kPairs),
      sums_(shape.kv_heads * kPairs * lanes_up(shape.value_width)) {}

std::size_t Attention::rows_together() const noexcept { return std::max<std::size_t>(1, kPairs / group_); }

// A position's heads lie side by side in memory, so as many as fit are taken together; their keys and
// values stay near for all rows.
void Attention::run(const KvView& kv, std::size_t start, std::size_t count, Rows<const float> queries,
                    Rows<float> out) {
    // An odd number of lines: rows of a power of two would share the same few places of a cache.
    score_stride_ = lanes_up(start + count);
    if (score_stride_ / kLanes % 2 == 0) score_stride_ += kLanes;
    const std::size_t pairs = count * group_;
    const std::size_t most = std::max<std::size_t>(1, kScoresMax / (std::min(kPairs, pairs) * score_stride_));
    Pass pass{.start = start};
    for (; pass.kv_first < shape_.kv_heads; pass.kv_first += pass.kv_count) {
        pass.kv_count = std::min(most, shape_.kv_heads - pass.kv_first);
        for (pass.first = 0; pass.first < pairs; pass.first += pass.count) {
            pass.count = std::min(kPairs, pairs - pass.first);
            pass.positions = start + row_of(pass, pass.count - 1) + 1;
            run(kv, pass, queries, out);
        }
    }
}

void Attention::run(const KvView& kv, const Pass& pass, Rows<const float> queries, Rows<float> out) {
    const std::size_t scores = pass.kv_count * pass.count * score_stride_;
    if (scores_.size() < scores) scores_.resize(scores);
    gather(pass, queries);
    score(kv, pass);
    weigh(pass);
    sum(kv, pass);
    scatter(pass, out);
}

std::size_t Attention::row_of(const Pass& pass, std::size_t pair) const noexcept {
    return (pass.first + pair) / group_;
}

std::size_t Attention::head_of(const Pass& pass, std::size_t kv_head, std::size_t pair) const noexcept {
    return (pass.kv_first + kv_head) * group_ + (pass.first + pair) % group_;
}

Rows<float> Attention::queries_of(const Pass& pass, std::size_t kv_head) noexcept {
    return {query_.data() + kv_head * pass.count * shape_.key_width, shape_.key_width};
}

Rows<float> Attention::scores_of(const Pass& pass, std::size_t kv_head) noexcept {
    return {scores_.data() + kv_head * pass.count * score_stride_, score_stride_};
}

Rows<float> Attention::sums_of(const Pass& pass, std::size_t kv_head) noexcept {
    const std::size_t width = lanes_up(shape_.value_width);
    return {sums_.data() + kv_head * pass.count * width, width};
}

void Attention::gather(const Pass& pass, Rows<const float> queries) {
    for (std::size_t kv_head = 0; kv_head < pass.kv_count; ++kv_head) {
        const auto to = queries_of(pass, kv_head);
        for (std::size_t pair = 0; pair < pass.count; ++pair) {
            const float* row = queries.data + row_of(pass, pair) * queries.stride;
            std::memcpy(to.data + pair * to.stride, row + head_of(pass, kv_head, pair) * shape_.query_stride,
                        shape_.key_width * sizeof(float));
        }
    }
}

void Attention::score(const KvView& kv, const Pass& pass) {
    const std::size_t skip = pass.kv_first * shape_.key_width;
    const std::size_t width = pass.kv_count * shape_.key_width;
    for (std::size_t first = 0; first < pass.positions; first += kTilePositions) {
        const std::size_t panels = std::min(kTilePanels, lanes_up(pass.positions - first) / kLanes);
        for (std::size_t panel = 0; panel < panels; ++panel) {
            const float* rows[kLanes];
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                const std::size_t position = first + panel * kLanes + lane;
                rows[lane] = position < pass.positions ? kv.at(position, 0) + skip : zeros_.data();
            }
            kernels_.to_panel(rows, width, keys_.data() + panel * width);
        }
        for (std::size_t kv_head = 0; kv_head < pass.kv_count; ++kv_head) {
            const auto* keys = reinterpret_cast<const float*>(keys_.data() + kv_head * shape_.key_width);
            const auto queries = queries_of(pass, kv_head);
            const auto scores = scores_of(pass, kv_head);
            kernels_.multiply({keys, width * kLanes, kLanes, panels, shape_.key_width},
                              {queries.data, queries.stride}, pass.count,
                              {scores.data + first, scores.stride});
        }
    }
}

// A position after a pair's own weighs nothing.
void Attention::weigh(const Pass& pass) {
    for (std::size_t index = 0; index < pass.kv_count * pass.count; ++index) {
        const std::size_t count = pass.start + row_of(pass, index % pass.count) + 1;
        float* weights = scores_.data() + index * score_stride_;
        totals_[index] = kernels_.exponentials(weights, count, shape_.scale);
        std::fill(weights + std::min(lanes_up(count), pass.positions), weights + pass.positions, 0.0f);
    }
}

void Attention::sum(const KvView& kv, const Pass& pass) {
    const std::size_t width = lanes_up(shape_.value_width);
    // A panel must not reach beyond a row of values: the last one may end the memory.
    const bool copied = width != shape_.value_width || pass.count >= kPairsToCopy;
    std::size_t run = 0;
    for (std::size_t first = 0; first < pass.positions; first += run) {
        run = std::min({copied ? kTilePositions : kv.run(first), kTilePositions, pass.positions - first});
        for (std::size_t kv_head = 0; kv_head < pass.kv_count; ++kv_head) {
            const std::size_t skip = (pass.kv_first + kv_head) * shape_.value_width;
            const float* rows =
                copied ? copy_values(kv, first, run, skip) : kv.at(first, shape_.value_part) + skip;
            const std::size_t stride = copied ? width : kv.row_width();
            const auto weights = scores_of(pass, kv_head);
            const auto multiply = first == 0 ? kernels_.multiply : kernels_.multiply_on;
            multiply({rows, kLanes, stride, width / kLanes, run}, {weights.data + first, weights.stride},
                     pass.count, sums_of(pass, kv_head));
        }
    }
}

const float* Attention::copy_values(const KvView& kv, std::size_t first, std::size_t count,
                                    std::size_t skip) {
    auto* copies = reinterpret_cast<float*>(values_.data());
    const std::size_t width = lanes_up(shape_.value_width);
    for (std::size_t index = 0; index < count; ++index) {
        std::memcpy(copies + index * width, kv.at(first + index, shape_.value_part) + skip,
                    shape_.value_width * sizeof(float));
    }
    return copies;
}

void Attention::scatter(const Pass& pass, Rows<float> out) {
    for (std::size_t kv_head = 0; kv_head < pass.kv_count; ++kv_head) {
        const auto sums = sums_of(pass, kv_head);
        for (std::size_t pair = 0; pair < pass.count; ++pair) {
            float* to =
                out.data + row_of(pass, pair) * out.stride + head_of(pass, kv_head, pair) * shape_.out_stride;
            const float* from = sums.data + pair * sums.stride;
            const float total = totals_[kv_head * pass.count + pair];
            // Adding zero makes -0 and 0 one: which it is could depend on masked positions.
            for (std::size_t at = 0; at < shape_.value_width; ++at) to[at] = from[at] / total + 0.0f;
        }
    }
}

}  // namespace cmpool::engine
