// How a domain makes room: who is evicted, what is moved, and how whole segments come and go.
#include "domain_store.h"

#include <algorithm>
#include <atomic>
#include <unordered_set>

#include <cmpool/base/assert.h>
#include <cmpool/base/units.h>

namespace cmpool::pool {

using model::kUnitBytes;

namespace {

/// Room made ahead of need, so that one put in many pays for eviction.
constexpr std::uint64_t kAheadUnitsMax = 4 * MiB / kUnitBytes;
/// A namespace at its quota makes room of its own ahead of need up to such a share of what it has.
constexpr std::uint64_t kAheadOwnShare = 128;
/// Runs that one search for room would take and may not.
constexpr std::size_t kRunTriesMax = 64;
/// Records that are looked at for old blocks before others are evicted.
constexpr std::size_t kExpireAhead = 1024;

}  // namespace

// ---- making room ----

// Out of the index: from here on nobody new finds it.
void DomainStore::take_out(ExtentId id) {
    Extent& extent = map_[id];
    index_.erase(header(extent).digest.prefix(), id);
    leave_group(id);
    extent.state = ExtentState::Doomed;
    count_live(extent, false);
    counts_.doomed_bytes += extent.units * kUnitBytes;
    rooms_[extent.room].space->used_bytes -= bytes_of(extent);
}

// Gives back what nobody reads; the rest stays doomed. A reader publishes its pin and then looks at
// the slot again, we have cleared the slot and now look at the pins: with a full fence on both
// sides, one of us sees the other.
void DomainStore::reclaim(const std::vector<ExtentId>& extents) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    pins_.refresh();
    for (const ExtentId id : extents) {
        if (busy(map_[id])) {
            doomed_.push_back(id);
            continue;
        }
        counts_.doomed_bytes -= map_[id].units * kUnitBytes;
        map_.free(id);
    }
}

void DomainStore::evict(const std::vector<ExtentId>& victims) {
    for (const ExtentId id : victims) {
        if (near(id)) {
            ++counts_.near_evicted_blocks;
        } else {
            ++counts_.evicted_blocks;
            counts_.evicted_bytes += map_[id].units * kUnitBytes;
        }
        rooms_[map_[id].room].space->evicted_bytes += bytes_of(map_[id]);
        take_out(id);
    }
    reclaim(victims);
}

bool DomainStore::shed_near(std::uint64_t bytes) {
    if (near_room_numbers_.empty()) return false;
    apply_touches();
    pins_.refresh();
    const Claim claim(*rooms_[near_room_numbers_.begin()->second].space, bytes);
    const auto victims = coldest_blocks(bytes / kUnitBytes, claim);
    evict(victims);
    return !victims.empty();
}

// Blocks that go out of turn take along what is behind them in their groups, but for what somebody
// reads: no match can reach a block whose parent is gone.
std::vector<ExtentId> DomainStore::with_followers(std::vector<ExtentId> victims) const {
    std::unordered_set<ExtentId> chosen(victims.begin(), victims.end());
    for (std::size_t at = 0, count = victims.size(); at < count; ++at) {
        for (ExtentId id = map_[victims[at]].next; id != kNoExtent; id = map_[id].next) {
            if (busy(map_[id])) continue;
            if (!chosen.insert(id).second) break;  // what is behind that one is chosen, or will be
            victims.push_back(id);
        }
    }
    return victims;
}

void DomainStore::sweep() {
    pins_.sweep();
    if (!doomed_.empty()) reclaim(std::exchange(doomed_, {}));
}

void DomainStore::unhold(ExtentId id) {
    Extent& extent = map_[id];
    CMPOOL_ASSERT(extent.holds > 0);
    --extent.holds;  // a doomed one goes with the next sweep()
}

std::uint64_t DomainStore::holds() const noexcept {
    std::uint64_t holds = 0;
    for (ExtentId id = 0; id < map_.size(); ++id) holds += map_[id].holds;
    return holds;
}

DomainStore::Allowances DomainStore::allowances(const Claim& claim) const {
    Allowances left(rooms_.size());
    for (std::size_t at = 0; at < rooms_.size(); ++at) left[at] = claim.allowance(*rooms_[at].space);
    return left;
}

// From the tail of a group on, past what somebody reads. A group that is read is warm.
void DomainStore::take_tail(Room& room, GroupId& group, std::uint64_t& left_bytes, std::uint64_t units,
                            std::uint64_t& taken, std::vector<ExtentId>& victims) {
    const GroupId next = room.policy.warmer(group);
    ExtentId id = groups_[group].coldest;
    if (busy(map_[id])) warm(map_[id].room, group);
    for (; id != kNoExtent && !busy(map_[id]); id = map_[id].prev) {
        if (bytes_of(map_[id]) > left_bytes) {
            left_bytes = 0;
            return;
        }
        left_bytes -= bytes_of(map_[id]);
        victims.push_back(id);
        taken += map_[id].units;
        if (taken >= units || victims.size() >= kVictimsMax) return;
    }
    group = next;
}

// Of all whom the claim may take from, the coldest first: each loses tails of groups, in its own order.
std::vector<ExtentId> DomainStore::coldest_blocks(std::uint64_t units, const Claim& claim) {
    struct Cursor {
        Room* room;
        GroupId group;
        std::uint64_t left_bytes;
        std::size_t groups_left;
    };
    std::vector<Cursor> cursors;
    for (auto& room : rooms_) {
        std::uint64_t left = claim.allowance(*room.space);
        // What is the asker's own does not go ahead of need: it would have less than its quota.
        if (room.space == &claim.asker() && claim.asker().quota_bytes > 0)
            left = std::min(left, std::max(claim.bytes(), left / kAheadOwnShare));
        if (left > 0 && room.policy.coldest() != kNoGroup)
            cursors.push_back({&room, room.policy.coldest(), left, groups_.size()});
    }
    std::vector<ExtentId> victims;
    std::uint64_t taken = 0;
    while (taken < units && victims.size() < kVictimsMax) {
        Cursor* first = nullptr;
        for (auto& each : cursors) {
            if (each.group == kNoGroup || each.left_bytes == 0 || each.groups_left == 0) continue;
            if (first == nullptr || claim.before(*each.room->space, groups_[each.group].touched,
                                                 *first->room->space, groups_[first->group].touched))
                first = &each;
        }
        if (first == nullptr) break;
        --first->groups_left;
        take_tail(*first->room, first->group, first->left_bytes, units, taken, victims);
    }
    return victims;
}

bool DomainStore::make_room(std::uint64_t length, const Claim& claim) {
    const std::uint32_t units = model::units_for(length);
    if (units * kUnitBytes > segment_bytes_) return false;
    sweep();
    apply_touches();
    expire(kExpireAhead);
    const std::uint64_t capacity = segment_count_ * segment_bytes_ / kUnitBytes;
    const std::uint64_t ahead = claim.asker().near ? 0 : std::min(capacity / 64, kAheadUnitsMax);
    const std::uint64_t want = units + ahead;
    std::uint64_t evicted = 0;
    while (!map_.fits(units)) {
        // Cold blocks gave enough memory, but scattered: clear a run instead of the whole pool. If there
        // is none to clear, more eviction makes none.
        if (evicted >= 2 * want) return clear_run(units, claim);
        pins_.refresh();
        const auto victims = coldest_blocks(want, claim);
        if (victims.empty()) return clear_run(units, claim);
        for (const ExtentId id : victims) evicted += map_[id].units;
        evict(victims);
    }
    return true;
}

// Whether all of them may go, and what is left to each room then.
bool DomainStore::affordable(std::span<const ExtentId> victims, Allowances& left) const {
    Allowances rest = left;
    for (const ExtentId id : victims) {
        std::uint64_t& bytes = rest[map_[id].room];
        if (bytes < bytes_of(map_[id])) return false;
        bytes -= bytes_of(map_[id]);
    }
    left = std::move(rest);
    return true;
}

// Finds neighbours that together are long enough and that nobody reads, and evicts them.
bool DomainStore::clear_run(std::uint32_t units, const Claim& claim) {
    pins_.refresh();
    Allowances left = allowances(claim);
    std::size_t tries = 0;
    for (const ExtentId first : first_extents_) {
        std::vector<ExtentId> run;
        std::uint64_t length = 0;
        for (ExtentId id = first; id != kNoExtent; id = map_[id].after) {
            const Extent& extent = map_[id];
            const bool free = extent.state == ExtentState::Free;
            if (!free &&
                (extent.state != ExtentState::Live || busy(extent) || left[extent.room] < bytes_of(extent))) {
                run.clear();
                length = 0;
                continue;
            }
            if (!free) run.push_back(id);
            length += extent.units;
            if (length < units) continue;
            auto victims = with_followers(run);
            if (!affordable(victims, left)) {
                if (++tries == kRunTriesMax) return false;
                run.clear();
                length = 0;
                continue;
            }
            if (run.empty()) map_.bring_forward(id);
            evict(victims);
            if (map_.fits(units)) return true;
            break;  // a pin came in between: try the next segment
        }
    }
    return map_.fits(units);
}

// ---- segments ----

void DomainStore::add_segment(std::unique_ptr<transport::Segment> segment) {
    CMPOOL_ASSERT(segment->bytes().size() == segment_bytes_ && can_grow());
    const std::uint64_t units = segment_bytes_ / kUnitBytes;
    first_extents_.push_back(map_.add_segment(segments_.size() * units, static_cast<std::uint32_t>(units)));
    segments_.push_back(std::move(segment));
    ++segment_count_;
}

// What may go goes, with what is behind it; the rest moves.
bool DomainStore::clear_segment(std::size_t index, const Claim& claim) {
    std::vector<ExtentId> here;
    for (ExtentId id = first_extents_[index]; id != kNoExtent; id = map_[id].after) {
        const Extent& extent = map_[id];
        if (extent.state == ExtentState::Free) continue;
        if (extent.state != ExtentState::Live || busy(extent)) return false;
        here.push_back(id);
    }
    Allowances left = allowances(claim);
    std::unordered_set<ExtentId> gone;
    std::vector<ExtentId> victims;
    for (const ExtentId id : here) {
        if (gone.contains(id)) continue;
        auto some = with_followers({id});
        std::erase_if(some, [&](ExtentId each) { return gone.contains(each); });
        if (!affordable(some, left)) continue;
        gone.insert(some.begin(), some.end());
        victims.insert(victims.end(), some.begin(), some.end());
    }
    std::erase_if(here, [&](ExtentId each) { return gone.contains(each); });
    evict(victims);
    if (!move_away(here, index)) return false;
    return bytes_of(map_[first_extents_[index]]) == segment_bytes_;
}

// Memory of the segment that is to be emptied is taken aside, so that nothing moves there.
bool DomainStore::move_away(const std::vector<ExtentId>& movers, std::size_t from) {
    std::vector<ExtentId> aside;
    bool all = true;
    for (const ExtentId id : movers) {
        if (!model::header_valid(header(map_[id]))) {
            drop_corrupt(id);
            continue;
        }
        ExtentId to = kNoExtent;
        while ((to = map_.allocate(map_[id].units)) != kNoExtent &&
               map_[to].offset_units * kUnitBytes / segment_bytes_ == from)
            aside.push_back(to);
        if (to == kNoExtent) {
            all = false;
            break;
        }
        move_to(to, id);
    }
    for (const ExtentId id : aside) map_.free(id);
    return all;
}

// Nobody has pinned `from`, or finds it any more when the move has ended; its place among others is `to`'s.
void DomainStore::move_to(ExtentId to, ExtentId from) {
    Extent& there = map_[to];
    Extent& here = map_[from];
    model::BlockHeader& head = header(there);
    std::copy_n(reinterpret_cast<const std::byte*>(&header(here)), bytes_of(here),
                reinterpret_cast<std::byte*>(&head));
    head.generation = ++inserts_;
    head.check = model::header_check(head);
    there.room = here.room;
    there.position = here.position;
    there.born_s = here.born_s;
    there.parent_tag = here.parent_tag;
    there.generation = static_cast<std::uint32_t>(inserts_) & kGenerationMask;
    there.state = ExtentState::Live;
    there.group = here.group;
    there.prev = std::exchange(here.prev, kNoExtent);
    there.next = std::exchange(here.next, kNoExtent);
    Group& group = groups_[there.group];
    (there.prev == kNoExtent ? group.warmest : map_[there.prev].next) = to;
    (there.next == kNoExtent ? group.coldest : map_[there.next].prev) = to;
    here.group = kNoGroup;
    index_.erase(head.digest.prefix(), from);
    // The slot that has just been cleared is free.
    const bool shown = index_.insert(head.digest.prefix(), location(there), to);
    CMPOOL_ASSERT(shown);
    here.state = ExtentState::Doomed;
    counts_.doomed_bytes += bytes_of(here);
    ++counts_.moved_blocks;
    reclaim({from});
}

std::unique_ptr<transport::Segment> DomainStore::give_up_segment(const Claim& claim) {
    sweep();
    apply_touches();
    expire(kExpireAhead);
    pins_.refresh();
    std::uint64_t stays = 0;
    for (const auto& room : rooms_) stays += room.space->used_bytes - claim.allowance(*room.space);
    if (segment_count_ == 0 || stays > (segment_count_ - 1) * segment_bytes_) return nullptr;
    // The segment of the block that would go first, then the others in turn.
    const auto coldest = coldest_blocks(1, claim);
    const std::size_t start =
        coldest.empty() ? 0 : map_[coldest.front()].offset_units * kUnitBytes / segment_bytes_;
    for (std::size_t tried = 0; tried < segments_.size(); ++tried) {
        const std::size_t index = (start + tried) % segments_.size();
        if (segments_[index] == nullptr || !clear_segment(index, claim)) continue;
        map_.remove_segment(first_extents_[index]);
        first_extents_[index] = kNoExtent;
        --segment_count_;
        return std::move(segments_[index]);
    }
    return nullptr;
}

}  // namespace cmpool::pool
