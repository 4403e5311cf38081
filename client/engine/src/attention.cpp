#include "attention.h"

#include <algorithm>
#include <cstring>

namespace cmpool::engine {

namespace {

// Pairs of row and head that a tile of keys serves once it is in the first cache.
constexpr std::size_t kPairs = 32;
constexpr std::size_t kTilePanels = 4;
constexpr std::size_t kTilePositions = kTilePanels * kLanes;

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
      zeros_(shape.key_width),
      query_(kPairs * shape.key_width),
      keys_(kTilePanels * shape.key_width),
      values_(kTilePositions * lanes_up(shape.value_width) / kLanes),
      totals_(kPairs),
      sums_(kPairs * lanes_up(shape.value_width)) {}

void Attention::run(const KvView& kv, std::size_t start, std::size_t count, Rows<const float> queries,
                    Rows<float> out) {
    score_stride_ = lanes_up(start + count);
    scores_.resize(kPairs * score_stride_);
    const std::size_t pairs = count * group_;
    for (std::size_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
        for (std::size_t first = 0; first < pairs; first += kPairs) {
            Pass pass{kv_head, first, std::min(kPairs, pairs - first), start, 0};
            pass.positions = start + row_of(pass, pass.count - 1) + 1;
            run(kv, pass, queries, out);
        }
    }
}

std::size_t Attention::row_of(const Pass& pass, std::size_t pair) const noexcept {
    return (pass.first + pair) / group_;
}

std::size_t Attention::head_of(const Pass& pass, std::size_t pair) const noexcept {
    return pass.kv_head * group_ + (pass.first + pair) % group_;
}

void Attention::run(const KvView& kv, const Pass& pass, Rows<const float> queries, Rows<float> out) {
    for (std::size_t pair = 0; pair < pass.count; ++pair) {
        const float* query = queries.data + row_of(pass, pair) * queries.stride;
        std::memcpy(query_.data() + pair * shape_.key_width,
                    query + head_of(pass, pair) * shape_.query_stride, shape_.key_width * sizeof(float));
    }
    score(kv, pass);
    weigh(pass);
    sum(kv, pass);
    for (std::size_t pair = 0; pair < pass.count; ++pair) {
        float* to = out.data + row_of(pass, pair) * out.stride + head_of(pass, pair) * shape_.out_stride;
        const float* sums = sums_.data() + pair * lanes_up(shape_.value_width);
        // Adding zero makes -0 and 0 one: which it is could depend on masked positions.
        for (std::size_t at = 0; at < shape_.value_width; ++at) to[at] = sums[at] / totals_[pair] + 0.0f;
    }
}

void Attention::score(const KvView& kv, const Pass& pass) {
    const std::size_t skip = pass.kv_head * shape_.key_width;
    for (std::size_t first = 0; first < pass.positions; first += kTilePositions) {
        const std::size_t panels = std::min(kTilePanels, lanes_up(pass.positions - first) / kLanes);
        for (std::size_t panel = 0; panel < panels; ++panel) {
            const float* rows[kLanes];
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                const std::size_t position = first + panel * kLanes + lane;
                rows[lane] = position < pass.positions ? kv.at(position, 0) + skip : zeros_.data();
            }
            kernels_.to_panel(rows, shape_.key_width, keys_.data() + panel * shape_.key_width);
        }
        kernels_.multiply({reinterpret_cast<const float*>(keys_.data()), shape_.key_width * kLanes, kLanes,
                           panels, shape_.key_width},
                          {query_.data(), shape_.key_width}, pass.count,
                          {scores_.data() + first, score_stride_});
    }
}

// A position after a pair's own weighs nothing.
void Attention::weigh(const Pass& pass) {
    for (std::size_t pair = 0; pair < pass.count; ++pair) {
        const std::size_t count = pass.start + row_of(pass, pair) + 1;
        float* weights = scores_.data() + pair * score_stride_;
        totals_[pair] = kernels_.exponentials(weights, count, shape_.scale);
        std::fill(weights + std::min(lanes_up(count), pass.positions), weights + pass.positions, 0.0f);
    }
}

void Attention::sum(const KvView& kv, const Pass& pass) {
    const std::size_t width = lanes_up(shape_.value_width);
    const std::size_t skip = pass.kv_head * shape_.value_width;
    const Rows<float> sums{sums_.data(), width};
    std::size_t run = 0;
    for (std::size_t first = 0; first < pass.positions; first += run) {
        run = std::min({kv.run(first), kTilePositions, pass.positions - first});
        const float* rows = kv.at(first, shape_.value_part) + skip;
        std::size_t stride = kv.row_width();
        if (width != shape_.value_width) {
            // A panel must not reach beyond the row: the last one may end the memory.
            auto* copies = reinterpret_cast<float*>(values_.data());
            for (std::size_t row = 0; row < run; ++row)
                std::memcpy(copies + row * width, rows + row * stride, shape_.value_width * sizeof(float));
            rows = copies;
            stride = width;
        }
        const auto multiply = first == 0 ? kernels_.multiply : kernels_.multiply_on;
        multiply({rows, kLanes, stride, width / kLanes, run}, {scores_.data() + first, score_stride_},
                 pass.count, sums);
    }
}

}  // namespace cmpool::engine
