#pragma once

#include "kernels.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <cmpool/engine/model.h>

namespace cmpool::engine {

/// A weight matrix for y = W x, kept in panels; unused lanes of the last panel are zero.
class Matrix {
public:
    Matrix() = default;
    Matrix(std::size_t outputs, std::size_t inputs);

    void set_row(std::size_t output, std::span<const float> weights);
    void set(std::size_t output, std::size_t input, float weight) noexcept;
    [[nodiscard]] std::size_t outputs() const noexcept { return outputs_; }
    [[nodiscard]] std::size_t inputs() const noexcept { return inputs_; }
    [[nodiscard]] bool empty() const noexcept { return lines_.empty(); }
    [[nodiscard]] Panels panels() const noexcept {
        return {reinterpret_cast<const float*>(lines_.data()), inputs_ * kLanes, kLanes,
                lanes_up(outputs_) / kLanes, inputs_};
    }

private:
    std::size_t outputs_ = 0;
    std::size_t inputs_ = 0;
    std::vector<Line> lines_;
};

/// y = down(silu(gate x) * (up x)).
struct FeedWeights {
    Matrix gate, down, up;

    FeedWeights() = default;
    FeedWeights(std::size_t dim, std::size_t hidden);
};

/// Latent attention. The matrix that would make a head's key and value of the latent is split: a query
/// goes through the key's half (absorb: unrotated query to latent), a result through the value's (expand:
/// latent to value), so that keys and values never exist.
struct LatentWeights {
    Matrix compress;                     ///< the stream to [latent, turned key]
    std::vector<float> gain;             ///< of the latent
    std::vector<Matrix> absorb, expand;  ///< by head
    Matrix query;                        ///< the stream to the queries' latent; empty without one
    std::vector<float> query_gain;       ///< of that
};

struct LayerWeights {
    std::vector<float> attention_gain;
    Matrix query, key, value, output;  ///< no key and value where there is a latent; query may be of one, too
    std::vector<float> query_gain, key_gain;  ///< of a head; empty without head norms
    LatentWeights latent;
    std::vector<float> feed_gain;
    FeedWeights feed;  ///< the dense one, or the expert for all tokens
    Matrix router;     ///< empty in a dense layer
    std::vector<FeedWeights> experts;

    LayerWeights(const ModelConfig& config, std::uint32_t layer);
};

/// All that a forward pass reads.
struct Weights {
    std::vector<float> embedding;  // [vocab][dim]
    std::vector<LayerWeights> layers;
    std::vector<float> final_gain;
    Matrix classifier;

    /// Zero weights of the right shapes.
    explicit Weights(const ModelConfig& config);
    /// The output matrix is the embedding table.
    void share_embedding();
};

}  // namespace cmpool::engine
