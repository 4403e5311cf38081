#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::transport {

/// Fills `scatter` from `address` on in the memory of process `pid`. Words may be torn: the owner
/// keeps such memory still while it is read. Denied when the kernel forbids it, PeerDown when the
/// process is gone, Invalid when there is no such memory.
[[nodiscard]] std::optional<Errc> read_process(std::int32_t pid, std::uint64_t address,
                                               std::span<const MutableBytes> scatter) noexcept;

}  // namespace cmpool::transport
