#pragma once

#include "checkpoint_config.h"
#include "weights.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace cmpool::engine {

/// A tensor that a checkpoint has to hold, and where its rows go. A vector is one row.
struct LayoutTensor {
    std::string name;
    std::vector<std::uint64_t> shape;
    std::function<void(Weights&, std::size_t row, std::span<const float> values)> put;
};

using LayoutVisitor = std::function<Result<void>(const LayoutTensor&)>;

/// Visits all tensors of a checkpoint, each once, in a fixed order, and stops at the first error.
///
///   Source  the transformers library: parameter names of these families' models
[[nodiscard]] Result<void> visit_layout(const CheckpointConfig& config, const LayoutVisitor& visit);

}  // namespace cmpool::engine
