#pragma once

#include "owned_memory.h"
#include "segment_table.h"

#include <algorithm>
#include <memory>

#include <cmpool/transport/segment.h>

namespace cmpool::transport {

/// Memory of this process that peers reach through a fabric's table, and only so.
class TableSegment : public Segment {
public:
    /// `owned` has the entry's memory, or nothing where that belongs to the caller.
    TableSegment(SegmentTable& table, OwnedMemory owned, std::shared_ptr<SegmentEntry> entry,
                 const Descriptor& descriptor)
        : table_(table), owned_(std::move(owned)), entry_(std::move(entry)), descriptor_(descriptor) {
        table_.add(entry_);
    }
    ~TableSegment() override { table_.remove(entry_->id); }

    [[nodiscard]] MutableBytes bytes() noexcept override { return entry_->memory; }
    [[nodiscard]] const Descriptor& descriptor() const noexcept override { return descriptor_; }
    [[nodiscard]] Token token() const noexcept override { return entry_->token; }
    [[nodiscard]] Revocation revoke() override {
        entry_->revoke();
        return Revocation::Hard;
    }
    void punch() noexcept override {
        entry_->revoke();
        std::fill(entry_->memory.begin(), entry_->memory.end(), std::byte{});
    }

private:
    SegmentTable& table_;
    OwnedMemory owned_;
    std::shared_ptr<SegmentEntry> entry_;
    Descriptor descriptor_;
};

}  // namespace cmpool::transport
