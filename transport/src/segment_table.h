#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/transport/types.h>

namespace cmpool::transport {

/// What a fabric knows of one of its segments. Whoever touches `memory` for a peer holds `gate`
/// shared and has seen `revoked` false under it: so a revocation, which takes it alone, is hard.
struct SegmentEntry {
    SegmentEntry(std::uint64_t segment, Token secret, Access granted, MutableBytes bytes, UniqueFd fd = {})
        : id(segment), token(secret), access(granted), memory(bytes), exported(std::move(fd)) {}

    const std::uint64_t id;
    const Token token;
    const Access access;
    const MutableBytes memory;
    const UniqueFd exported;  ///< shm: what peers get; none elsewhere
    std::shared_mutex gate;
    bool revoked = false;

    virtual ~SegmentEntry() = default;
    virtual void revoke() {
        const std::unique_lock alone(gate);
        revoked = true;
    }
};

/// A range of a segment that a peer wants, not yet believed.
struct RangeRequest {
    Token token;
    Access wanted = Access::Read;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
};

[[nodiscard]] constexpr bool range_fits(std::uint64_t offset, std::uint64_t length,
                                        std::uint64_t size) noexcept {
    return offset <= size && length <= size - offset;
}

/// The segments of one fabric, by the number that peers know them by.
///
///   Threads  any
class SegmentTable {
public:
    void add(std::shared_ptr<SegmentEntry> entry);
    /// Revokes the entry too: when this returns, no lane touches its memory.
    void remove(std::uint64_t id);
    /// Errors: Denied for an unknown segment and for a wrong token alike, so that nobody can probe;
    /// Invalid for a range outside.
    [[nodiscard]] Result<std::shared_ptr<SegmentEntry>> check(std::uint64_t id,
                                                              const RangeRequest& request) const;

private:
    mutable std::shared_mutex mutex_;
    std::unordered_map<std::uint64_t, std::shared_ptr<SegmentEntry>> entries_;
};

}  // namespace cmpool::transport
