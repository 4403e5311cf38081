#pragma once

#include <cstdint>

#include <cmpool/base/result.h>
#include <cmpool/transport/types.h>

namespace cmpool::transport {

/// Which kind of memory a descriptor names; each belongs to one back end.
enum class SegmentKind : std::uint16_t { Tcp = 1, ShmFile = 2, ShmWindow = 3, Sim = 4, Verbs = 5 };

/// What a descriptor says once it is opened.
struct SegmentName {
    SegmentKind kind = SegmentKind::Tcp;
    Access access = Access::None;
    std::uint64_t segment = 0;  ///< drawn at random, so another incarnation's never matches
    std::uint64_t base = 0;     ///< ShmWindow: the address in the peer's process; Verbs: its device's
    std::uint64_t length = 0;
};

[[nodiscard]] Descriptor describe(const SegmentName& name);
/// Errors: Invalid for another form; Mismatch for another version.
[[nodiscard]] Result<SegmentName> open_descriptor(const Descriptor& descriptor);

}  // namespace cmpool::transport
