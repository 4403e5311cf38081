#include "domain_store.h"

#include <algorithm>
#include <utility>

#include <cmpool/base/assert.h>
#include <cmpool/base/units.h>

namespace cmpool::pool {

using model::kUnitBytes;
using wire::Outcome;

namespace {

/// Records that one scrub looks at: where few blocks live, most are nobody's.
constexpr std::size_t kScrubRecordsMax = 4096;
/// Blocks that one search has in sight at once: about as many loads as a core keeps under way.
constexpr std::size_t kFindsAhead = 16;

std::uint32_t seconds(Instant at) noexcept { return static_cast<std::uint32_t>(at.ns / 1'000'000'000); }

}  // namespace

DomainStore::DomainStore(std::unique_ptr<transport::Segment> index, unsigned bucket_bits,
                         std::uint64_t segment_bytes, std::uint64_t incarnation, const Clock& clock,
                         Quotas& quotas, std::uint32_t domain_id)
    : index_segment_(std::move(index)),
      bucket_bits_(bucket_bits),
      segment_bytes_(segment_bytes),
      clock_(clock),
      quotas_(quotas),
      domain_id_(domain_id),
      index_(index_segment_->bytes(), bucket_bits, incarnation) {}

// ---- small things ----

model::BlockHeader& DomainStore::header(const Extent& extent) const noexcept {
    const std::uint64_t offset = extent.offset_units * kUnitBytes;
    auto& segment = *segments_[offset / segment_bytes_];
    return *reinterpret_cast<model::BlockHeader*>(segment.bytes().data() + offset % segment_bytes_);
}

MutableBytes DomainStore::payload(const Extent& extent) const noexcept {
    model::BlockHeader& head = header(extent);
    return {reinterpret_cast<std::byte*>(&head) + model::kHeaderBytes, head.length};
}

model::Location DomainStore::location(const Extent& extent) noexcept {
    return {extent.offset_units, extent.units, extent.generation};
}

bool DomainStore::busy(const Extent& extent) const {
    return extent.holds > 0 || pins_.pinned(location(extent));
}

ExtentId DomainStore::confirmed(ExtentId id, const model::Digest& digest) const noexcept {
    if (id == kNoExtent) return kNoExtent;
    // A header that a flipped bit has changed must not lead us out of its extent.
    const model::BlockHeader& head = header(map_[id]);
    return head.digest == digest && model::units_for(head.length) <= map_[id].units ? id : kNoExtent;
}

ExtentId DomainStore::find(const model::Digest& digest) const noexcept {
    return confirmed(index_.find(digest.prefix()), digest);
}

// Bucket, extent and header of a block lie far from each other and from everything that was used
// lately: one after the other they cost three trips to memory a block.
void DomainStore::probe(std::span<const model::Digest> digests, std::span<ExtentId> found) const noexcept {
    for (std::size_t first = 0; first < digests.size(); first += kFindsAhead) {
        const auto some = digests.subspan(first, std::min(kFindsAhead, digests.size() - first));
        const auto ids = found.subspan(first, some.size());
        for (const auto& digest : some) index_.prefetch(digest.prefix());
        for (std::size_t at = 0; at < some.size(); ++at) {
            ids[at] = index_.find(some[at].prefix());
            if (ids[at] != kNoExtent) map_.prefetch(ids[at]);
        }
    }
}

void DomainStore::find(std::span<const model::Digest> digests, std::span<ExtentId> found) const noexcept {
    for (std::size_t first = 0; first < digests.size(); first += kFindsAhead) {
        const auto some = digests.subspan(first, std::min(kFindsAhead, digests.size() - first));
        const auto ids = found.subspan(first, some.size());
        probe(some, ids);
        for (const ExtentId id : ids) {
            if (id != kNoExtent) __builtin_prefetch(&header(map_[id]));
        }
        for (std::size_t at = 0; at < some.size(); ++at) ids[at] = confirmed(ids[at], some[at]);
    }
}

BlockView DomainStore::view(ExtentId id) const noexcept {
    return {payload(map_[id]), header(map_[id]).payload_checksum};
}

// ---- writing ----

DomainStore::Begun DomainStore::begin(const BlockSpec& spec) {
    ExtentId known = find(spec.digest);
    if (known != kNoExtent && expired(known)) {
        rooms_[map_[known].room].space->expired_bytes += bytes_of(map_[known]);
        evict({known});
        known = kNoExtent;
    }
    if (known != kNoExtent && (spec.near || !near(known))) return {.refused = Outcome::Present};
    if (!spec.begins_group && find(spec.parent) == kNoExtent && !writing_.contains(spec.parent)) {
        return {.refused = Outcome::Orphan};
    }
    if (known != kNoExtent) {
        keep(known, spec);
        return {.refused = Outcome::Present};
    }
    const std::uint32_t room = room_of(spec.namespace_id, spec.near);
    const ExtentId id = map_.allocate(model::units_for(spec.length));
    if (id == kNoExtent) return {.refused = Outcome::Refused};

    Extent& extent = map_[id];
    extent.room = room;
    rooms_[room].space->used_bytes += bytes_of(extent);
    extent.position = spec.position;
    header(extent) = {.digest = spec.digest, .length = spec.length};
    writing_.insert(spec.digest);
    specs_.emplace(id, spec);
    counts_.writing_bytes += extent.units * kUnitBytes;
    return {.extent = id, .payload = payload(extent)};
}

void DomainStore::end_writing(ExtentId id) {
    const auto spec = specs_.extract(id);
    writing_.erase(writing_.find(spec.mapped().digest));
    counts_.writing_bytes -= map_[id].units * kUnitBytes;
}

void DomainStore::abort(ExtentId id) {
    end_writing(id);
    rooms_[map_[id].room].space->used_bytes -= bytes_of(map_[id]);
    map_.free(id);
}

Outcome DomainStore::commit(ExtentId id, std::uint64_t checksum, std::optional<std::uint64_t> seen) {
    const BlockSpec spec = specs_.at(id);
    model::BlockHeader& head = header(map_[id]);
    // What was said at begin() counts, not what the memory says by now.
    head = {.digest = spec.digest, .length = spec.length};
    const bool intact = (seen ? *seen : model::checksum(payload(map_[id]))) == checksum;
    const ExtentId known = find(spec.digest);
    const bool present = known != kNoExtent;
    // Another block with the same 64 bits, or this one with a damaged header, would hide it for ever.
    const ExtentId other = index_.find(spec.digest.prefix());
    const bool hidden = !present && other != kNoExtent;
    if (hidden && !spec.near) evict({other});
    const bool orphan = !spec.begins_group && find(spec.parent) == kNoExtent;
    if (!intact) ++counts_.changed_blocks;
    if (intact && present && !orphan && !spec.near && near(known)) keep(known, spec);
    if (!intact || present || orphan || (hidden && spec.near)) {
        abort(id);
        return !intact   ? Outcome::Refused
               : present ? Outcome::Present
               : orphan  ? Outcome::Orphan
                         : Outcome::Refused;
    }
    head.magic = model::kHeaderMagic;
    head.generation = ++inserts_;
    head.namespace_and_state = spec.namespace_id << 8 | 1;
    head.payload_checksum = checksum;
    head.check = model::header_check(head);
    map_[id].generation = static_cast<std::uint32_t>(inserts_) & kGenerationMask;
    map_[id].born_s = seconds(clock_.now());
    if (!publish(id, spec)) {
        abort(id);
        return Outcome::Refused;
    }
    end_writing(id);
    join_group(id, spec);
    return Outcome::Ok;
}

bool DomainStore::publish(ExtentId id, const BlockSpec& spec) {
    const auto insert = [&] { return index_.insert(spec.digest.prefix(), location(map_[id]), id); };
    // Payload and header first: the slot is stored with release.
    if (!insert()) {
        free_a_slot(spec);
        if (!insert()) return false;
    }
    map_[id].state = ExtentState::Live;
    count_live(map_[id], true);
    return true;
}

void DomainStore::count_live(const Extent& extent, bool lives) noexcept {
    const auto count = [lives](std::uint64_t& blocks, std::uint64_t& all_bytes, std::uint64_t bytes) {
        lives ? ++blocks : --blocks;
        lives ? all_bytes += bytes : all_bytes -= bytes;
    };
    count(counts_.live_blocks, counts_.live_bytes, bytes_of(extent));
    if (rooms_[extent.room].near) count(counts_.near_blocks, counts_.near_bytes, bytes_of(extent));
}

void DomainStore::change_room(Extent& extent) {
    const auto count = [&](bool lives) {
        auto& used_bytes = rooms_[extent.room].space->used_bytes;
        count_live(extent, lives);
        lives ? used_bytes += bytes_of(extent) : used_bytes -= bytes_of(extent);
    };
    count(false);
    extent.room = room_of(rooms_[extent.room].namespace_id, false);
    count(true);
    ++counts_.near_kept_blocks;
}

// It stays where it lies; its writer says what it hangs on.
void DomainStore::keep(ExtentId id, const BlockSpec& spec) {
    leave_group(id);
    change_room(map_[id]);
    map_[id].position = spec.position;
    join_group(id, spec);
}

// A block and all that is colder in its group, which covers what hangs on it. Empty when that is more
// than count_max, or when somebody reads some of it.
std::vector<ExtentId> DomainStore::tail_from(ExtentId id, std::size_t count_max) const {
    std::vector<ExtentId> tail;
    for (; id != kNoExtent; id = map_[id].next) {
        if (tail.size() == count_max || busy(map_[id])) return {};
        tail.push_back(id);
    }
    return tail;
}

// Both buckets are full: of the blocks of the same namespace, the one with least behind it makes way,
// and what is behind it; but nothing that the new block hangs on.
void DomainStore::free_a_slot(const BlockSpec& spec) {
    apply_touches();
    pins_.refresh();
    const ExtentId parent = find(spec.parent);
    const std::uint32_t room = room_of(spec.namespace_id, spec.near);
    std::vector<ExtentId> least;
    for (const ExtentId id : index_.neighbours(spec.digest.prefix())) {
        if (near(id) && !busy(map_[id])) return evict({id});
        if (map_[id].room != room) continue;
        auto tail = tail_from(id, least.empty() ? kVictimsMax : least.size() - 1);
        if (tail.empty() || std::ranges::find(tail, parent) != tail.end()) continue;
        least = std::move(tail);
    }
    evict(least);
}

// ---- age ----

// A second early at most, never late.
bool DomainStore::expired(ExtentId id) const noexcept {
    const Extent& extent = map_[id];
    const Room& room = rooms_[extent.room];
    const std::uint32_t ttl_s = room.owner->whole.ttl_s;
    // How old a copy's original is nobody knows here.
    if (room.near && ttl_s != 0) return true;
    const std::uint32_t life_s = room.near ? kNearLifeSeconds : ttl_s;
    return life_s != 0 && seconds(clock_.now()) - extent.born_s >= life_s;
}

void DomainStore::expire(std::size_t records) {
    const auto ends = [](const Room& room) { return room.near || room.space->whole.ttl_s != 0; };
    if (std::ranges::none_of(rooms_, ends)) return;
    pins_.refresh();
    std::vector<ExtentId> old;
    for (std::size_t looked = 0, most = std::min(map_.size(), records); looked < most; ++looked) {
        if (expire_next_ >= map_.size()) expire_next_ = 0;
        const ExtentId id = expire_next_++;
        if (map_[id].state != ExtentState::Live || !expired(id)) continue;
        // Who has pinned what may have been removed elsewhere keeps it for itself: others find it no more.
        if (near(id) ? map_[id].holds > 0 : busy(map_[id])) continue;
        rooms_[map_[id].room].space->expired_bytes += bytes_of(map_[id]);
        old.push_back(id);
    }
    evict(old);
}

// ---- the rest ----

bool DomainStore::remove(const model::Digest& digest, std::uint32_t namespace_id) {
    const ExtentId id = find(digest);
    if (id == kNoExtent || rooms_[map_[id].room].namespace_id != namespace_id) return false;
    ++counts_.removed_blocks;
    take_out(id);
    reclaim({id});
    return true;
}

bool DomainStore::verify(ExtentId id) {
    const Extent& extent = map_[id];
    const model::BlockHeader& head = header(extent);
    if (model::header_valid(head) && model::checksum(payload(extent)) == head.payload_checksum) return true;
    drop_corrupt(id);
    return false;
}

void DomainStore::drop_corrupt(ExtentId id) {
    ++counts_.corrupt_blocks;
    take_out(id);
    reclaim({id});
}

std::uint64_t DomainStore::scrub(std::uint64_t bytes) {
    const std::size_t most = std::min(map_.size(), kScrubRecordsMax);
    std::uint64_t done = 0;
    for (std::size_t looked = 0; looked < most && done < bytes; ++looked) {
        if (scrub_next_ >= map_.size()) scrub_next_ = 0;
        const ExtentId id = scrub_next_++;
        if (map_[id].state != ExtentState::Live) continue;
        done += map_[id].units * kUnitBytes;
        // What nobody can find any more is memory for nothing; and so is a block with another's name.
        if (!index_.shows(header(map_[id]).digest.prefix(), location(map_[id]), id)) {
            drop_corrupt(id);
        } else {
            (void)verify(id);
        }
    }
    return done;
}

std::uint64_t DomainStore::list(std::uint32_t namespace_id, std::uint64_t cursor, std::size_t limit,
                                std::vector<wire::ListedBlock>& out) const {
    const std::uint32_t now_s = seconds(clock_.now());
    const auto known = room_numbers_.find(namespace_id);
    if (known == room_numbers_.end()) return 0;
    for (; cursor < map_.size() && out.size() < limit; ++cursor) {
        const Extent& extent = map_[static_cast<ExtentId>(cursor)];
        if (extent.state != ExtentState::Live || extent.room != known->second) continue;
        if (expired(static_cast<ExtentId>(cursor))) continue;
        const model::BlockHeader& head = header(extent);
        out.push_back(
            {head.length, extent.position, std::uint64_t{now_s - extent.born_s} * 1000, head.digest});
    }
    return cursor < map_.size() ? cursor : 0;
}

std::string DomainStore::check_invariants() const {
    if (auto broken = map_.check_invariants(); !broken.empty()) return broken;
    std::uint64_t units = 0;
    std::uint64_t live = 0;
    std::uint64_t doomed = 0;
    std::uint64_t writing = 0;
    std::uint64_t near_blocks = 0;
    std::vector<std::uint64_t> used(rooms_.size());
    for (ExtentId id = 0; id < map_.size(); ++id) {
        const Extent& extent = map_[id];
        if (extent.state == ExtentState::Unused) continue;
        units += extent.units;
        if (extent.state == ExtentState::Doomed) doomed += extent.units;
        if (extent.state == ExtentState::Writing) writing += extent.units;
        if (extent.state == ExtentState::Live || extent.state == ExtentState::Writing)
            used[extent.room] += bytes_of(extent);
        if (extent.state != ExtentState::Live) continue;
        ++live;
        near_blocks += rooms_[extent.room].near ? 1 : 0;
        if (index_.find(header(extent).digest.prefix()) != id)
            return fmt::format("live extent {} is not found", id);
        if (!model::header_valid(header(extent)))
            return fmt::format("live extent {} has a broken header", id);
    }
    if (units * kUnitBytes != segment_count_ * segment_bytes_) {
        return fmt::format("extents cover {} of {} bytes", units * kUnitBytes,
                           segment_count_ * segment_bytes_);
    }
    if (live != counts_.live_blocks || live != index_.entries() ||
        doomed * kUnitBytes != counts_.doomed_bytes) {
        return fmt::format("{} live extents, {} counted, {} in the index; {} units doomed, {} bytes counted",
                           live, counts_.live_blocks, index_.entries(), doomed, counts_.doomed_bytes);
    }
    if (writing * kUnitBytes != counts_.writing_bytes) {
        return fmt::format("{} units are being written, {} bytes counted", writing, counts_.writing_bytes);
    }
    if (near_blocks != counts_.near_blocks) {
        return fmt::format("{} blocks belong to other members, {} counted", near_blocks, counts_.near_blocks);
    }
    for (std::size_t at = 0; at < rooms_.size(); ++at) {
        if (used[at] == rooms_[at].space->used_bytes) continue;
        return fmt::format("namespace {} has {} bytes, {} counted", rooms_[at].namespace_id, used[at],
                           rooms_[at].space->used_bytes);
    }
    return {};
}

}  // namespace cmpool::pool
