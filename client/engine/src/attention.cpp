#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace cmpool::engine {

float* KvView::at(std::size_t position, std::size_t part) const noexcept {
    const BlockShape& shape = kv_->shape();
    const std::size_t row = (layer_ * 2 + part) * shape.tokens + position % shape.tokens;
    const MutableBytes block = kv_->block_bytes(blocks_[position / shape.tokens]);
    return reinterpret_cast<float*>(block.data()) + row * shape.kv_heads * shape.head_dim;
}

Attention::Attention(const ModelConfig& config)
    : kernels_(best_kernels()),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim()),
      scale_(1.0f / std::sqrt(static_cast<float>(config.head_dim()))),
      sums_(kLanes * lanes_up(head_dim_)) {}

void Attention::run(const KvView& kv, std::size_t start, std::size_t count, Rows<const float> queries,
                    Rows<float> out) {
    const std::size_t group = heads_ / kv_heads_;
    for (std::size_t head = 0; head < heads_; ++head) {
        if (head % group == 0) pack(kv, head / group, start + count);
        for (std::size_t row = 0, rows = 0; row < count; row += rows) {
            const std::size_t position = start + row;
            rows = std::min(count - row, kLanes - position % kLanes);
            tile(position, rows, {queries.data + row * queries.stride + head * head_dim_, queries.stride},
                 {out.data + row * out.stride + head * head_dim_, out.stride});
        }
    }
}

// Lanes of positions that do not exist yet are zero: a weight of zero times garbage could be NaN.
void Attention::pack(const KvView& kv, std::size_t head, std::size_t positions) {
    positions_ = lanes_up(positions);
    keys_.resize(positions_ / kLanes * head_dim_);
    values_.resize(lanes_up(head_dim_) / kLanes * positions_);
    scores_.resize(kLanes * positions_);
    for (std::size_t position = 0; position < positions_; ++position) {
        const bool exists = position < positions;
        const float* key = exists ? kv.at(position, 0) + head * head_dim_ : nullptr;
        const float* value = exists ? kv.at(position, 1) + head * head_dim_ : nullptr;
        Line* key_tile = keys_.data() + position / kLanes * head_dim_;
        for (std::size_t at = 0; at < head_dim_; ++at)
            key_tile[at].lane[position % kLanes] = exists ? key[at] : 0.0f;
        for (std::size_t at = 0; at < head_dim_; at += kLanes) {
            Line& line = values_[at / kLanes * positions_ + position];
            line = Line{};
            const std::size_t lanes = std::min(kLanes, head_dim_ - at);
            if (exists) std::memcpy(line.lane, value + at, lanes * sizeof(float));
        }
    }
}

void Attention::tile(std::size_t start, std::size_t count, Rows<const float> queries, Rows<float> out) {
    const std::size_t positions = lanes_up(start + count);
    const std::size_t width = lanes_up(head_dim_);
    const Rows<float> scores{scores_.data(), positions};
    kernels_.multiply({keys_.data(), head_dim_, positions / kLanes, head_dim_}, queries, count, scores);

    float total[kLanes];
    for (std::size_t row = 0; row < count; ++row) {
        float* weights = scores.data + row * positions;
        total[row] = kernels_.exponentials(weights, start + row + 1, scale_);
    }
    kernels_.multiply({values_.data(), positions_, width / kLanes, positions}, {scores.data, positions},
                      count, {sums_.data(), width});
    for (std::size_t row = 0; row < count; ++row) {
        // Adding zero makes -0 and 0 one: which it is could depend on masked positions.
        for (std::size_t at = 0; at < head_dim_; ++at)
            out.data[row * out.stride + at] = sums_[row * width + at] / total[row] + 0.0f;
    }
}

}  // namespace cmpool::engine
