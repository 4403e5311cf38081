#include "attention.h"
#include "weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/engine/forward.h>

namespace cmpool::engine {

namespace {

constexpr float kNormEpsilon = 1e-5f;

/// Rows of activations, each with room for whole panels.
class Activations {
public:
    Activations(std::size_t rows, std::size_t width) : stride_(lanes_up(width)), data_(rows * stride_) {}

    [[nodiscard]] float* row(std::size_t index) noexcept { return data_.data() + index * stride_; }
    [[nodiscard]] Rows<float> all() noexcept { return {data_.data(), stride_}; }
    [[nodiscard]] Rows<float> from(std::size_t index) noexcept { return {row(index), stride_}; }
    [[nodiscard]] Rows<const float> read(std::size_t index = 0) noexcept { return {row(index), stride_}; }

private:
    std::size_t stride_;
    std::vector<float> data_;
};

void rms_norm(const float* in, std::span<const float> gain, float* out) noexcept {
    float lanes[kLanes] = {};
    for (std::size_t index = 0; index < gain.size(); ++index) lanes[index % kLanes] += in[index] * in[index];
    float squares = 0;
    for (const float lane : lanes) squares += lane;
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(gain.size()) + kNormEpsilon);
    for (std::size_t index = 0; index < gain.size(); ++index) out[index] = in[index] * scale * gain[index];
}

void rotate(float* heads, std::size_t width, std::span<const float> cosine,
            std::span<const float> sine) noexcept {
    for (std::size_t index = 0; index < width; index += 2) {
        const float c = cosine[index / 2 % cosine.size()];
        const float s = sine[index / 2 % sine.size()];
        const float even = heads[index];
        const float odd = heads[index + 1];
        heads[index] = even * c - odd * s;
        heads[index + 1] = even * s + odd * c;
    }
}

}  // namespace

class Forward::State {
public:
    State(const Model& model, PagedKv& kv, std::size_t rows_max)
        : model_(model),
          config_(model_.config()),
          weights_(model_.weights()),
          kernels_(best_kernels()),
          kv_(kv),
          attention_(config_),
          rows_max_(rows_max),
          stream_(rows_max, config_.dim),
          normed_(rows_max, config_.dim),
          query_(rows_max, config_.dim),
          key_(rows_max, config_.kv_dim()),
          value_(rows_max, config_.kv_dim()),
          mixed_(rows_max, config_.dim),
          gate_(rows_max, config_.hidden),
          up_(rows_max, config_.hidden) {}

    [[nodiscard]] std::size_t rows_max() const noexcept { return rows_max_; }
    [[nodiscard]] std::span<const float> logits(std::size_t index) const noexcept {
        const std::size_t stride = lanes_up(config_.vocab);
        return std::span(logits_).subspan(index * stride, config_.vocab);
    }

    void step(std::span<const Slice> batch) {
        embed(batch);
        for (std::size_t layer = 0; layer < config_.layers; ++layer) {
            attend(batch, layer);
            feed(weights_.layers[layer]);
        }
        classify(batch);
    }

private:
    void multiply(const Matrix& w, Activations& x, Activations& y) {
        kernels_.multiply(w.panels(), x.read(), rows_, y.all());
    }
    void norm_rows(std::span<const float> gain) {
        for (std::size_t row = 0; row < rows_; ++row) rms_norm(stream_.row(row), gain, normed_.row(row));
    }
    // What a part of a layer found out joins the stream.
    void add_rows(Activations& found) {
        for (std::size_t row = 0; row < rows_; ++row) {
            for (std::size_t index = 0; index < config_.dim; ++index)
                stream_.row(row)[index] += found.row(row)[index];
        }
    }

    void embed(std::span<const Slice> batch) {
        rows_ = 0;
        for (const Slice& slice : batch) {
            CMPOOL_ASSERT(!slice.tokens.empty() && rows_ + slice.tokens.size() <= rows_max_);
            CMPOOL_ASSERT(slice.start + slice.tokens.size() <= config_.context);
            CMPOOL_ASSERT(slice.start + slice.tokens.size() <= slice.blocks.size() * kv_.shape().tokens);
            for (const std::uint32_t token : slice.tokens) {
                CMPOOL_ASSERT(token < config_.vocab);
                const float* row = weights_.embedding.data() + std::size_t{token} * config_.dim;
                std::memcpy(stream_.row(rows_++), row, config_.dim * sizeof(float));
            }
        }
    }

    void attend(std::span<const Slice> batch, std::size_t layer) {
        const LayerWeights& weights = weights_.layers[layer];
        norm_rows(weights.attention_gain);
        multiply(weights.query, normed_, query_);
        multiply(weights.key, normed_, key_);
        multiply(weights.value, normed_, value_);
        std::size_t row = 0;
        for (const Slice& slice : batch) {
            const KvView view(kv_, slice.blocks, layer);
            keep(view, slice, row);
            attention_.run(view, slice.start, slice.tokens.size(), query_.read(row), mixed_.from(row));
            row += slice.tokens.size();
        }
        multiply(weights.output, mixed_, normed_);
        add_rows(normed_);
    }

    // Keys are kept rotated: a position never changes.
    void keep(const KvView& view, const Slice& slice, std::size_t first_row) {
        const std::size_t pairs = config_.head_dim() / 2;
        for (std::size_t index = 0; index < slice.tokens.size(); ++index) {
            const std::size_t row = first_row + index;
            const std::size_t position = slice.start + index;
            const auto cosine = std::span(weights_.cosine).subspan(position * pairs, pairs);
            const auto sine = std::span(weights_.sine).subspan(position * pairs, pairs);
            rotate(query_.row(row), config_.dim, cosine, sine);
            rotate(key_.row(row), config_.kv_dim(), cosine, sine);
            std::memcpy(view.at(position, 0), key_.row(row), config_.kv_dim() * sizeof(float));
            std::memcpy(view.at(position, 1), value_.row(row), config_.kv_dim() * sizeof(float));
        }
    }

    void feed(const LayerWeights& weights) {
        norm_rows(weights.feed_gain);
        multiply(weights.gate, normed_, gate_);
        multiply(weights.up, normed_, up_);
        for (std::size_t row = 0; row < rows_; ++row)
            kernels_.silu_multiply(gate_.row(row), up_.row(row), config_.hidden);
        multiply(weights.down, gate_, normed_);
        add_rows(normed_);
    }

    void classify(std::span<const Slice> batch) {
        const std::size_t stride = lanes_up(config_.vocab);
        logits_.resize(batch.size() * stride);
        std::size_t end = 0;
        for (std::size_t index = 0; index < batch.size(); ++index) {
            end += batch[index].tokens.size();
            rms_norm(stream_.row(end - 1), weights_.final_gain, normed_.row(index));
        }
        kernels_.multiply(weights_.classifier.panels(), normed_.read(), batch.size(),
                          {logits_.data(), stride});
    }

    Model model_;
    const ModelConfig& config_;
    const Weights& weights_;
    const Kernels& kernels_;
    PagedKv& kv_;
    Attention attention_;
    std::size_t rows_max_;
    std::size_t rows_ = 0;
    Activations stream_, normed_, query_, key_, value_, mixed_, gate_, up_;
    std::vector<float> logits_;
};

Forward::Forward(const Model& model, PagedKv& kv, std::size_t rows_max) {
    CMPOOL_ASSERT(rows_max > 0 && rows_max <= kRowsMax);
    CMPOOL_ASSERT(kv.shape() == model.config().block_shape(kv.shape().tokens));
    state_ = std::make_unique<State>(model, kv, rows_max);
}

Forward::~Forward() = default;

std::size_t Forward::rows_max() const noexcept { return state_->rows_max(); }

void Forward::step(std::span<const Slice> batch) { state_->step(batch); }

std::span<const float> Forward::logits(std::size_t index) const noexcept { return state_->logits(index); }

std::uint32_t argmax(std::span<const float> logits) noexcept {
    return static_cast<std::uint32_t>(std::ranges::max_element(logits) - logits.begin());
}

}  // namespace cmpool::engine
