#include "feed.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

namespace cmpool::engine {

namespace {

// Sizes that no layer has are backed by no weights, so they must not cost memory: dense layers come first.
ExpertsConfig experts_of(const ModelConfig& config) {
    return config.is_dense(config.layers - 1) ? ExpertsConfig{} : config.experts;
}

std::size_t widest_of(const ModelConfig& config) {
    const ExpertsConfig experts = experts_of(config);
    return std::max({config.is_dense(0) ? config.hidden : 0, experts.hidden, experts.shared_hidden});
}

}  // namespace

Feed::Feed(const ModelConfig& config, std::size_t rows_max, Crew& crew)
    : kernels_(best_kernels()),
      crew_(crew),
      dim_(config.dim),
      experts_(experts_of(config)),
      gate_(rows_max, widest_of(config)),
      up_(gate_),
      likely_(rows_max, experts_.count),
      asked_(experts_.count == 0 ? 0 : rows_max, dim_),
      answers_(asked_),
      uses_(experts_.count),
      order_(experts_.count),
      groups_(experts_.groups) {}

void Feed::run(const LayerWeights& weights, Rows<const float> x, std::size_t rows, Rows<float> out) {
    if (!weights.feed.gate.empty()) {
        run(weights.feed, x, rows, out);
    } else {
        for (std::size_t row = 0; row < rows; ++row) std::fill_n(out.data + row * out.stride, dim_, 0.0f);
    }
    if (weights.experts.empty()) return;
    route(weights.router, x, rows);
    for (std::size_t expert = 0; expert < uses_.size(); ++expert) {
        if (!uses_[expert].empty()) add_expert(weights.experts[expert], uses_[expert], x, out);
    }
}

void Feed::run(const FeedWeights& weights, Rows<const float> x, std::size_t rows, Rows<float> out) {
    crew_.multiply(weights.gate.panels(), x, rows, gate_.from());
    crew_.multiply(weights.up.panels(), x, rows, up_.from());
    crew_.rows(rows, [&](std::size_t row, std::size_t end) {
        for (; row < end; ++row) kernels_.silu_multiply(gate_.row(row), up_.row(row), weights.gate.outputs());
    });
    crew_.multiply(weights.down.panels(), gate_.read(), rows, out);
}

void Feed::route(const Matrix& router, Rows<const float> x, std::size_t rows) {
    for (auto& uses : uses_) uses.clear();
    crew_.multiply(router.panels(), x, rows, likely_.from());
    for (std::size_t row = 0; row < rows; ++row) choose(row, likely_.row(row));
}

void Feed::choose(std::size_t row, float* likely) {
    float total = kernels_.exponentials(likely, experts_.count, 1.0f);
    if (experts_.groups_used < experts_.groups) leave_out_groups(likely);
    std::iota(order_.begin(), order_.end(), 0U);
    const auto used = order_.begin() + experts_.used;
    std::partial_sort(order_.begin(), used, order_.end(), [&](std::uint32_t one, std::uint32_t other) {
        return likely[one] != likely[other] ? likely[one] > likely[other] : one < other;
    });
    if (experts_.normalised) {
        total = 0;
        for (auto expert = order_.begin(); expert != used; ++expert) total += likely[*expert];
    }
    for (auto expert = order_.begin(); expert != used; ++expert)
        uses_[*expert].push_back({row, likely[*expert] / total * experts_.scale});
}

// Of equal groups the lowest stays. What is left out is no longer likely at all.
void Feed::leave_out_groups(float* likely) {
    const std::size_t width = experts_.count / experts_.groups;
    const auto best = [&](std::uint32_t group) {
        return *std::max_element(likely + group * width, likely + (group + 1) * width);
    };
    std::iota(groups_.begin(), groups_.end(), 0U);
    std::ranges::stable_sort(groups_, std::ranges::greater{}, best);
    for (const std::uint32_t group : std::span(groups_).subspan(experts_.groups_used))
        std::fill_n(likely + group * width, width, -1.0f);
}

void Feed::add_expert(const FeedWeights& weights, const std::vector<Use>& uses, Rows<const float> x,
                      Rows<float> out) {
    for (std::size_t index = 0; index < uses.size(); ++index)
        std::memcpy(asked_.row(index), x.data + uses[index].row * x.stride, dim_ * sizeof(float));
    run(weights, asked_.read(), uses.size(), answers_.from());
    for (std::size_t index = 0; index < uses.size(); ++index) {
        float* to = out.data + uses[index].row * out.stride;
        const float* answer = answers_.row(index);
        for (std::size_t at = 0; at < dim_; ++at) to[at] += uses[index].weight * answer[at];
    }
}

}  // namespace cmpool::engine
