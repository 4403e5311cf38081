#pragma once

#include <cmpool/base/result.h>
#include <cmpool/transport/segment.h>
#include <cmpool/transport/types.h>

namespace cmpool::transport {

/// The bytes that a one-sided operation moves.
[[nodiscard]] std::uint64_t op_bytes(const Op& op) noexcept;

/// What every back end refuses in post(): no segment, a range outside it, a word that is not aligned,
/// more than `op_bytes_max`. Errors: Invalid.
[[nodiscard]] Result<void> check_op(const Op& op, std::uint64_t op_bytes_max);

/// The right that an operation needs.
[[nodiscard]] Access access_for(OpKind kind) noexcept;

}  // namespace cmpool::transport
