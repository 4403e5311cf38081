#pragma once

#include <cstdint>
#include <string>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/transport/types.h>

namespace cmpool::transport {

/// What revoke() achieved. Hard: nothing starts or lands any more. Pending: no new import succeeds,
/// but peers that have mapped the memory keep what they see until the segment is retired.
enum class Revocation : std::uint8_t { Hard, Pending };

struct SegmentSpec {
    std::uint64_t bytes = 0;  ///< rounded up to whole pages
    Access access = Access::Read;
    bool prefault = false;  ///< touch every page now, not in the first put
    std::string name;       ///< for people: what `ls` in the runtime folder or `doctor` shows
};

/// Contiguous registered memory of ours that peers address by (segment, offset).
///
///   Lifetime  destroying it revokes it, gives the memory back and is only legal when no lane of
///             ours still sends from it; on shm, peers that mapped it keep what they see
///   Threads   any, except against its destruction
class Segment {
public:
    virtual ~Segment() = default;
    [[nodiscard]] virtual MutableBytes bytes() noexcept = 0;
    [[nodiscard]] virtual const Descriptor& descriptor() const noexcept = 0;
    [[nodiscard]] virtual Token token() const noexcept = 0;
    [[nodiscard]] virtual Revocation revoke() = 0;
    /// Empties it for good and gives its memory back now: peers that mapped it read zeros.
    virtual void punch() noexcept = 0;
};

/// A segment of a peer, imported over one lane. Importing says nothing about the peer's health.
///
///   Lifetime  may outlive its lane and its owner: mapped bytes of a dead owner stay readable
class RemoteSegment {
public:
    virtual ~RemoteSegment() = default;
    [[nodiscard]] virtual std::uint64_t size() const noexcept = 0;
    [[nodiscard]] virtual Access access() const noexcept = 0;
    /// The memory itself; writable only where access() allows. The mapping lives as long as this.
    /// Errors: Unsupported where Caps::map is None.
    [[nodiscard]] virtual Result<MutableBytes> map() = 0;
};

}  // namespace cmpool::transport
