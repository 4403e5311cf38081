#include "segment_table.h"

namespace cmpool::transport {

void SegmentTable::add(std::shared_ptr<SegmentEntry> entry) {
    const std::unique_lock lock(mutex_);
    const auto id = entry->id;
    entries_.emplace(id, std::move(entry));
}

void SegmentTable::remove(std::uint64_t id) {
    std::shared_ptr<SegmentEntry> gone;
    {
        const std::unique_lock lock(mutex_);
        const auto found = entries_.find(id);
        if (found == entries_.end()) return;
        gone = std::move(found->second);
        entries_.erase(found);
    }
    gone->revoke();
}

Result<std::shared_ptr<SegmentEntry>> SegmentTable::check(std::uint64_t id,
                                                          const RangeRequest& request) const {
    std::shared_ptr<SegmentEntry> entry;
    {
        const std::shared_lock lock(mutex_);
        if (const auto found = entries_.find(id); found != entries_.end()) entry = found->second;
    }
    if (!entry || entry->token != request.token || !allows(entry->access, request.wanted)) {
        return fail(Errc::Denied, "segment {:x} is not open to this token and access", id);
    }
    if (!range_fits(request.offset, request.length, entry->memory.size())) {
        return fail(Errc::Invalid, "range {}+{} leaves segment {:x} of {} bytes", request.offset,
                    request.length, id, entry->memory.size());
    }
    const std::shared_lock held(entry->gate);
    if (entry->revoked) return fail(Errc::Denied, "segment {:x} is revoked", id);
    return entry;
}

}  // namespace cmpool::transport
