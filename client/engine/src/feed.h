#pragma once

#include "activations.h"
#include "crew.h"
#include "weights.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cmpool::engine {

/// The feed-forward part of a layer, dense or by experts. A row's experts are added in the order of
/// their numbers, so it does not matter which rows an expert serves together.
class Feed {
public:
    Feed(const ModelConfig& config, std::size_t rows_max, Crew& crew);

    void run(const LayerWeights& weights, Rows<const float> x, std::size_t rows, Rows<float> out);

private:
    /// What an expert's answer counts for a row.
    struct Use {
        std::size_t row;
        float weight;
    };

    void run(const FeedWeights& weights, Rows<const float> x, std::size_t rows, Rows<float> out);
    void route(const Matrix& router, Rows<const float> x, std::size_t rows);
    void choose(std::size_t row, float* likely);
    void leave_out_groups(float* likely);
    void add_expert(const FeedWeights& weights, const std::vector<Use>& uses, Rows<const float> x,
                    Rows<float> out);

    const Kernels& kernels_;
    Crew& crew_;
    std::size_t dim_;
    ExpertsConfig experts_;
    Activations gate_, up_;
    Activations likely_;                  // [rows][experts]
    Activations asked_, answers_;         // rows of one expert
    std::vector<std::vector<Use>> uses_;  // by expert
    std::vector<std::uint32_t> order_;
    std::vector<std::uint32_t> groups_;
};

}  // namespace cmpool::engine
