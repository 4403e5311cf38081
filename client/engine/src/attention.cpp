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
      zeros_(config.kv_dim()),
      sums_(kLanes * lanes_up(head_dim_)) {}

void Attention::run(const KvView& kv, std::size_t start, std::size_t count, Rows<const float> queries,
                    Rows<float> out) {
    pack(kv, start + count);
    const std::size_t group = heads_ / kv_heads_;
    for (std::size_t head = 0; head < heads_; ++head) {
        for (std::size_t row = 0, rows = 0; row < count; row += rows) {
            const std::size_t position = start + row;
            rows = std::min(count - row, kLanes - position % kLanes);
            tile(head / group, position, rows,
                 {queries.data + row * queries.stride + head * head_dim_, queries.stride},
                 {out.data + row * out.stride + head * head_dim_, out.stride});
        }
    }
}

// Tile by tile, all heads at once, since they lie side by side in memory. A position that does not
// exist yet is a row of zeros: a weight of zero times garbage could be NaN.
void Attention::pack(const KvView& kv, std::size_t positions) {
    positions_ = lanes_up(positions);
    keys_.resize(kv_heads_ * positions_ / kLanes * head_dim_);
    values_.resize(kv_heads_ * (lanes_up(head_dim_) / kLanes) * positions_);
    scores_.resize(kLanes * positions_);
    for (std::size_t first = 0; first < positions; first += kLanes) {
        const float* keys[kLanes];
        const float* values[kLanes];
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const bool exists = first + lane < positions;
            keys[lane] = exists ? kv.at(first + lane, 0) : zeros_.data();
            values[lane] = exists ? kv.at(first + lane, 1) : zeros_.data();
        }
        for (std::size_t head = 0; head < kv_heads_; ++head) pack_tile(head, first, keys, values);
    }
}

void Attention::pack_tile(std::size_t head, std::size_t first, const float* const* keys,
                          const float* const* values) {
    const std::size_t skip = head * head_dim_;
    Line* key = keys_of(head) + first / kLanes * head_dim_;
    for (std::size_t at = 0; at < head_dim_; ++at) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) key[at].lane[lane] = keys[lane][skip + at];
    }
    Line* value = values_of(head) + first;
    for (std::size_t at = 0; at < head_dim_; at += kLanes, value += positions_) {
        const std::size_t bytes = std::min(kLanes, head_dim_ - at) * sizeof(float);
        for (std::size_t lane = 0; lane < kLanes; ++lane)
            std::memcpy(value[lane].lane, values[lane] + skip + at, bytes);
    }
}

Line* Attention::keys_of(std::size_t head) noexcept {
    return keys_.data() + head * positions_ / kLanes * head_dim_;
}

Line* Attention::values_of(std::size_t head) noexcept {
    return values_.data() + head * (lanes_up(head_dim_) / kLanes) * positions_;
}

void Attention::tile(std::size_t head, std::size_t start, std::size_t count, Rows<const float> queries,
                     Rows<float> out) {
    const std::size_t positions = lanes_up(start + count);
    const std::size_t width = lanes_up(head_dim_);
    const Rows<float> scores{scores_.data(), positions};
    kernels_.multiply({keys_of(head), head_dim_, positions / kLanes, head_dim_}, queries, count, scores);

    float total[kLanes];
    for (std::size_t row = 0; row < count; ++row) {
        float* weights = scores.data + row * positions;
        total[row] = kernels_.exponentials(weights, start + row + 1, scale_);
    }
    kernels_.multiply({values_of(head), positions_, width / kLanes, positions}, {scores.data, positions},
                      count, {sums_.data(), width});
    for (std::size_t row = 0; row < count; ++row) {
        // Adding zero makes -0 and 0 one: which it is could depend on masked positions.
        for (std::size_t at = 0; at < head_dim_; ++at)
            out.data[row * out.stride + at] = sums_[row * width + at] / total[row] + 0.0f;
    }
}

}  // namespace cmpool::engine
