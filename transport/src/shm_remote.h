#pragma once

#include "descriptor.h"
#include "owned_memory.h"

#include <atomic>
#include <mutex>

#include <cmpool/base/unique_fd.h>
#include <cmpool/transport/segment.h>

namespace cmpool::transport {

/// A peer's shared memory, mapped when it is first needed; or a window into the peer's process,
/// which is never mapped.
///
///   Threads  any
class ShmRemote final : public RemoteSegment {
public:
    ShmRemote(const SegmentName& name, UniqueFd fd) : name_(name), fd_(std::move(fd)) {}

    [[nodiscard]] std::uint64_t size() const noexcept override { return name_.length; }
    [[nodiscard]] Access access() const noexcept override { return name_.access; }
    [[nodiscard]] Result<MutableBytes> map() override { return mapped(); }

    /// map(), for lanes, which get their segments const. Errors: Unsupported for a window; Corrupt
    /// when the file is shorter than its descriptor says; NoCapacity.
    [[nodiscard]] Result<MutableBytes> mapped() const;
    [[nodiscard]] bool window() const noexcept { return name_.kind == SegmentKind::ShmWindow; }
    [[nodiscard]] std::uint64_t base() const noexcept { return name_.base; }

private:
    SegmentName name_;
    UniqueFd fd_;
    mutable std::mutex mutex_;
    mutable OwnedMemory memory_;
    mutable std::atomic<std::byte*> start_{nullptr};  // of memory_, once it is there
};

}  // namespace cmpool::transport
