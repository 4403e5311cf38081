#pragma once

#include "activations.h"
#include "attention.h"
#include "crew.h"
#include "rotation.h"
#include "weights.h"

#include <cstddef>
#include <memory>

namespace cmpool::engine {

/// What lies around attention: makes queries and what is kept of the rows of a step, and takes
/// attention's results to the heads' values. One kind keeps keys and values, the other a latent.
/// Keys are kept turned: a position never changes.
class Projection {
public:
    virtual ~Projection() = default;

    [[nodiscard]] virtual AttentionShape shape() const noexcept = 0;
    /// Of the first `rows` rows, `x` being the normed stream.
    virtual void project(const LayerWeights& weights, Rows<const float> x, std::size_t rows,
                         const Rotation& rotation) = 0;
    /// Stores what is kept of a row.
    virtual void keep(std::size_t row, const KvView& view, std::size_t position) = 0;
    [[nodiscard]] virtual Rows<const float> queries(std::size_t row) = 0;
    /// Where attention leaves its results.
    [[nodiscard]] virtual Rows<float> results(std::size_t row) = 0;
    /// All heads' values side by side, made of the results.
    [[nodiscard]] virtual Rows<const float> mix(const LayerWeights& weights, std::size_t rows) = 0;
};

[[nodiscard]] std::unique_ptr<Projection> make_projection(const ModelConfig& config, std::size_t rows_max,
                                                          Crew& crew);

}  // namespace cmpool::engine
