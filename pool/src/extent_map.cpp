#include "extent_map.h"

#include <bit>

#include <cmpool/base/assert.h>

#include <fmt/format.h>

namespace cmpool::pool {

ExtentMap::ExtentMap() {
    for (auto& heads : heads_) heads.fill(kNoExtent);
}

ExtentMap::SizeClass ExtentMap::class_of(std::uint32_t units) noexcept {
    // Below 2^kSecondBits every size has a class of its own.
    if (units < kSecondCount) return {0, units};
    const unsigned log = static_cast<unsigned>(std::bit_width(units)) - 1;
    return {log - kSecondBits + 1, (units >> (log - kSecondBits)) & (kSecondCount - 1)};
}

ExtentId ExtentMap::find_fit(std::uint32_t units) const noexcept {
    // Every extent of the next class up is long enough, whichever it is.
    std::uint64_t rounded = units;
    if (units >= kSecondCount) {
        const unsigned log = static_cast<unsigned>(std::bit_width(units)) - 1;
        rounded += (std::uint64_t{1} << (log - kSecondBits)) - 1;
    }
    auto [first, second] = class_of(static_cast<std::uint32_t>(rounded));
    std::uint32_t map = second_map_[first] & (~std::uint32_t{0} << second);
    if (map == 0) {
        const std::uint32_t larger = first_map_ & ~((std::uint32_t{2} << first) - 1);
        if (larger == 0) {
            // The rounding may have stepped over an exact fit: a full pool of equal blocks lives on those.
            const auto [own_first, own_second] = class_of(units);
            ExtentId id = heads_[own_first][own_second];
            for (unsigned tried = 0; id != kNoExtent && tried < kFitScanMax;
                 ++tried, id = extents_[id].next) {
                if (extents_[id].units >= units) return id;
            }
            return kNoExtent;
        }
        first = static_cast<unsigned>(std::countr_zero(larger));
        map = second_map_[first];
    }
    return heads_[first][static_cast<unsigned>(std::countr_zero(map))];
}

ExtentId ExtentMap::new_record() {
    if (unused_ == kNoExtent) {
        extents_.grow();
        return static_cast<ExtentId>(extents_.size() - 1);
    }
    const ExtentId id = unused_;
    unused_ = extents_[id].next;
    extents_[id] = {};
    return id;
}

void ExtentMap::drop_record(ExtentId id) {
    extents_[id] = {};
    extents_[id].next = unused_;
    unused_ = id;
}

void ExtentMap::link_free(ExtentId id) {
    Extent& extent = extents_[id];
    const auto [first, second] = class_of(extent.units);
    ExtentId& head = heads_[first][second];
    extent.state = ExtentState::Free;
    extent.prev = kNoExtent;
    extent.next = head;
    if (head != kNoExtent) extents_[head].prev = id;
    head = id;
    second_map_[first] |= std::uint32_t{1} << second;
    first_map_ |= std::uint32_t{1} << first;
    free_units_ += extent.units;
}

void ExtentMap::unlink_free(ExtentId id) {
    const Extent& extent = extents_[id];
    const auto [first, second] = class_of(extent.units);
    if (extent.next != kNoExtent) extents_[extent.next].prev = extent.prev;
    (extent.prev != kNoExtent ? extents_[extent.prev].next : heads_[first][second]) = extent.next;
    if (heads_[first][second] == kNoExtent) second_map_[first] &= ~(std::uint32_t{1} << second);
    if (second_map_[first] == 0) first_map_ &= ~(std::uint32_t{1} << first);
    free_units_ -= extent.units;
}

// Joins the extent with the one behind it, whose record dies.
void ExtentMap::absorb_after(ExtentId id) {
    const ExtentId gone = extents_[id].after;
    extents_[id].units += extents_[gone].units;
    extents_[id].after = extents_[gone].after;
    if (extents_[gone].after != kNoExtent) extents_[extents_[gone].after].before = id;
    drop_record(gone);
}

ExtentId ExtentMap::add_segment(std::uint64_t offset_units, std::uint32_t units) {
    const ExtentId id = new_record();
    extents_[id].offset_units = offset_units;
    extents_[id].units = units;
    link_free(id);
    return id;
}

void ExtentMap::remove_segment(ExtentId whole) {
    const Extent& extent = extents_[whole];
    CMPOOL_ASSERT(extent.state == ExtentState::Free && extent.before == kNoExtent &&
                  extent.after == kNoExtent);
    unlink_free(whole);
    drop_record(whole);
}

ExtentId ExtentMap::allocate(std::uint32_t units) {
    const ExtentId id = find_fit(units);
    if (id == kNoExtent) return kNoExtent;
    unlink_free(id);
    if (extents_[id].units > units) {
        const ExtentId rest = new_record();
        Extent& extent = extents_[id];
        extents_[rest].offset_units = extent.offset_units + units;
        extents_[rest].units = extent.units - units;
        extents_[rest].before = id;
        extents_[rest].after = extent.after;
        if (extent.after != kNoExtent) extents_[extent.after].before = rest;
        extent.after = rest;
        extent.units = units;
        link_free(rest);
    }
    Extent& extent = extents_[id];
    extent.prev = extent.next = kNoExtent;
    extent.state = ExtentState::Writing;
    return id;
}

ExtentId ExtentMap::free(ExtentId id) {
    const auto is_free = [&](ExtentId other) {
        return other != kNoExtent && extents_[other].state == ExtentState::Free;
    };
    const ExtentId before = extents_[id].before;
    if (is_free(extents_[id].after)) {
        unlink_free(extents_[id].after);
        absorb_after(id);
    }
    if (is_free(before)) {
        unlink_free(before);
        absorb_after(before);
        id = before;
    }
    Extent& extent = extents_[id];
    extent = {.offset_units = extent.offset_units,
              .units = extent.units,
              .before = extent.before,
              .after = extent.after};
    link_free(id);
    return id;
}

void ExtentMap::bring_forward(ExtentId id) {
    unlink_free(id);
    link_free(id);
}

std::string ExtentMap::check_invariants() const {
    std::uint64_t free_seen = 0;
    for (ExtentId id = 0; id < extents_.size(); ++id) {
        const Extent& extent = extents_[id];
        if (extent.state == ExtentState::Unused) continue;
        if (extent.after != kNoExtent) {
            const Extent& after = extents_[extent.after];
            if (after.before != id || after.offset_units != extent.offset_units + extent.units) {
                return fmt::format("extent {} and its neighbour {} disagree", id, extent.after);
            }
            if (extent.state == ExtentState::Free && after.state == ExtentState::Free) {
                return fmt::format("free extents {} and {} have not merged", id, extent.after);
            }
        }
        if (extent.state == ExtentState::Free) free_seen += extent.units;
    }
    std::uint64_t listed = 0;
    for (const auto& heads : heads_) {
        for (const ExtentId head : heads) {
            for (ExtentId id = head; id != kNoExtent; id = extents_[id].next) listed += extents_[id].units;
        }
    }
    if (free_seen != free_units_ || listed != free_units_) {
        return fmt::format("{} units are free, {} listed, {} counted", free_seen, listed, free_units_);
    }
    return {};
}

}  // namespace cmpool::pool
