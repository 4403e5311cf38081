#include "crew.h"
#include "feed.h"
#include "projection.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/engine/forward.h>

namespace cmpool::engine {

class Forward::State {
public:
    State(const Model& model, PagedKv& kv, std::size_t rows_max, std::size_t threads)
        : crew_(threads),
          model_(model),
          config_(model_.config()),
          weights_(model_.weights()),
          kv_(kv),
          rows_max_(rows_max),
          rotation_(config_.rotation, config_.rotated_dim()),
          projection_(make_projection(config_, rows_max, crew_)),
          attention_(threads, Attention(projection_->shape())),
          feed_(config_, rows_max, crew_),
          stream_(rows_max, config_.dim),
          normed_(stream_),
          found_(stream_) {}

    [[nodiscard]] std::size_t rows_max() const noexcept { return rows_max_; }
    [[nodiscard]] std::span<const float> logits(std::size_t index) const noexcept {
        const std::size_t stride = lanes_up(config_.vocab);
        return std::span(logits_).subspan(index * stride, config_.vocab);
    }

    bool step(std::span<const Slice> batch, LayerHooks& hooks) {
        begin(batch);
        for (std::size_t layer = 0; layer < config_.layers; ++layer) {
            const LayerWeights& weights = weights_.layers[layer];
            norm_rows(weights.attention_gain);
            projection_->project(weights, normed_.read(), rows_, rotation_);
            keep(batch, layer);
            hooks.on_written(layer, batch);
            if (!hooks.on_reading(layer, batch)) return false;
            attend(batch, layer);
            norm_rows(weights.feed_gain);
            feed_.run(weights, normed_.read(), rows_, found_.from());
            add_rows(found_);
        }
        classify(batch);
        return true;
    }

private:
    void norm_rows(std::span<const float> gain) {
        crew_.rows(rows_, [&](std::size_t row, std::size_t end) {
            for (; row < end; ++row) rms_norm(stream_.row(row), gain, config_.norm_epsilon, normed_.row(row));
        });
    }
    // What a part of a layer found out joins the stream.
    void add_rows(Activations& found) {
        for (std::size_t row = 0; row < rows_; ++row) {
            for (std::size_t index = 0; index < config_.dim; ++index)
                stream_.row(row)[index] += found.row(row)[index];
        }
    }

    void begin(std::span<const Slice> batch) {
        rows_ = 0;
        rotation_.clear();
        divide(batch);
        for (const Slice& slice : batch) {
            CMPOOL_ASSERT(!slice.tokens.empty() && rows_ + slice.tokens.size() <= rows_max_);
            CMPOOL_ASSERT(slice.start + slice.tokens.size() <= config_.context);
            CMPOOL_ASSERT(slice.start + slice.tokens.size() <= slice.blocks.size() * kv_.shape().tokens);
            for (std::size_t index = 0; index < slice.tokens.size(); ++index) {
                const std::size_t token = slice.tokens[index];
                CMPOOL_ASSERT(token < config_.vocab);
                const float* row = weights_.embedding.data() + token * config_.dim;
                std::memcpy(stream_.row(rows_++), row, config_.dim * sizeof(float));
                rotation_.add(slice.start + index);
            }
        }
    }

    // The last rows of a prompt read most: they come first, and whoever is done early takes another task.
    void divide(std::span<const Slice> batch) {
        tasks_.clear();
        std::size_t row = 0;
        for (std::size_t index = 0; index < batch.size(); ++index) {
            const std::size_t count = batch[index].tokens.size();
            const std::size_t least = std::max<std::size_t>(1, attention_[0].rows_together() / 4);
            const std::size_t step =
                std::clamp((count + crew_.size() - 1) / crew_.size(), least, std::max(count, least));
            for (std::size_t at = 0; at < count; at += step)
                tasks_.push_back({index, row + at, batch[index].start + at, std::min(step, count - at)});
            row += count;
        }
        std::ranges::reverse(tasks_);
    }

    void keep(std::span<const Slice> batch, std::size_t layer) {
        std::size_t row = 0;
        for (const Slice& slice : batch) {
            const KvView view(kv_, slice.blocks, layer);
            for (std::size_t index = 0; index < slice.tokens.size(); ++index)
                projection_->keep(row++, view, slice.start + index);
        }
    }

    void attend(std::span<const Slice> batch, std::size_t layer) {
        const LayerWeights& weights = weights_.layers[layer];
        crew_.run(tasks_.size(), [&](std::size_t index, std::size_t member) {
            const Task& task = tasks_[index];
            const Slice& slice = batch[task.slice];
            attention_[member].run(KvView(kv_, slice.blocks, layer), task.start, task.count,
                                   projection_->queries(task.row), projection_->results(task.row));
        });
        crew_.multiply(weights.output.panels(), projection_->mix(weights, rows_), rows_, found_.from());
        add_rows(found_);
    }

    void classify(std::span<const Slice> batch) {
        const std::size_t stride = lanes_up(config_.vocab);
        logits_.resize(batch.size() * stride);
        std::size_t end = 0;
        for (std::size_t index = 0; index < batch.size(); ++index) {
            end += batch[index].tokens.size();
            rms_norm(stream_.row(end - 1), weights_.final_gain, config_.norm_epsilon, normed_.row(index));
        }
        crew_.multiply(weights_.classifier.panels(), normed_.read(), batch.size(), {logits_.data(), stride});
    }

    /// Rows of one slice that somebody attends to.
    struct Task {
        std::size_t slice, row;  ///< row: of the step
        std::size_t start, count;
    };

    Crew crew_;
    Model model_;
    const ModelConfig& config_;
    const Weights& weights_;
    PagedKv& kv_;
    std::size_t rows_max_;
    std::size_t rows_ = 0;
    Rotation rotation_;
    std::unique_ptr<Projection> projection_;
    std::vector<Attention> attention_;  // one for each of the crew
    std::vector<Task> tasks_;
    Feed feed_;
    Activations stream_, normed_, found_;
    std::vector<float> logits_;
};

Forward::Forward(const Model& model, PagedKv& kv, std::size_t rows_max, std::size_t threads) {
    CMPOOL_ASSERT(threads > 0 && threads <= kThreadsMax);
    CMPOOL_ASSERT(rows_max > 0 && rows_max <= kRowsMax);
    CMPOOL_ASSERT(kv.shape() == model.config().block_shape(kv.shape().tokens));
    state_ = std::make_unique<State>(model, kv, rows_max, threads);
}

Forward::~Forward() = default;

std::size_t Forward::rows_max() const noexcept { return state_->rows_max(); }

void Forward::step(std::span<const Slice> batch) {
    LayerHooks none;
    const bool done = state_->step(batch, none);
    CMPOOL_ASSERT(done);
}

bool Forward::step(std::span<const Slice> batch, LayerHooks& hooks) { return state_->step(batch, hooks); }

std::span<const float> Forward::logits(std::size_t index) const noexcept { return state_->logits(index); }

std::uint32_t argmax(std::span<const float> logits) noexcept {
    return static_cast<std::uint32_t>(std::ranges::max_element(logits) - logits.begin());
}

}  // namespace cmpool::engine
