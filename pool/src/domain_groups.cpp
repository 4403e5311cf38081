#include "domain_store.h"

#include <algorithm>
#include <utility>

namespace cmpool::pool {

namespace {

std::uint16_t tag_of(const model::Digest& parent) noexcept {
    if (parent.is_zero()) return 0;
    return static_cast<std::uint16_t>(std::max<std::uint64_t>(parent.prefix() & 0xffff, 1));
}

}  // namespace

// ---- groups: a list from warmest to coldest block, in which a parent is warmer than its children ----

std::uint32_t DomainStore::room_of(std::uint32_t namespace_id, bool near) {
    auto& numbers = near ? near_room_numbers_ : room_numbers_;
    const auto [known, is_new] = numbers.try_emplace(namespace_id, static_cast<std::uint32_t>(rooms_.size()));
    if (is_new) {
        Space& owner = quotas_.space(namespace_id, domain_id_);
        rooms_.push_back({.namespace_id = namespace_id,
                          .near = near,
                          .space = near ? &quotas_.near_space(namespace_id, domain_id_) : &owner,
                          .owner = &owner,
                          .policy = Lru(room_links_)});
    }
    return known->second;
}

Space& DomainStore::space(std::uint32_t namespace_id) { return *rooms_[room_of(namespace_id, false)].space; }

Space& DomainStore::near_space(std::uint32_t namespace_id) {
    return *rooms_[room_of(namespace_id, true)].space;
}

GroupId DomainStore::new_group(std::uint32_t room, GroupId warmer) {
    if (free_groups_.empty()) {
        groups_.grow();
        settled_.push_back(true);
        was_settled_.push_back(false);
        free_groups_.push_back(static_cast<GroupId>(groups_.size() - 1));
    }
    const GroupId group = free_groups_.back();
    free_groups_.pop_back();
    groups_[group] = {.touched = warmer == kNoGroup ? ++touches_made_ : groups_[warmer].touched};
    rooms_[room].policy.insert(group, warmer);
    return group;
}

// A new block is as warm as what it hangs on, and colder than it; a root is the warmest of all.
void DomainStore::join_group(ExtentId id, const BlockSpec& spec) {
    // Looked up only now: the parent may have gone when a slot was made free.
    const ExtentId parent = spec.parent.is_zero() ? kNoExtent : find(spec.parent);
    const ExtentId warmer = parent != kNoExtent || spec.beside.is_zero() ? parent : find(spec.beside);
    Extent& extent = map_[id];
    // A chain never leaves its namespace; whoever says so hangs on nothing.
    const auto ours = [&](ExtentId each) { return each != kNoExtent && map_[each].room == extent.room; };
    const bool alone = spec.begins_group || !ours(parent);
    if (alone) {
        extent.group = new_group(extent.room, ours(warmer) ? map_[warmer].group : kNoGroup);
        if (spec.group != 0 && spec.group != spec.digest.prefix()) keys_[extent.group] = spec.group;
    } else {
        extent.group = map_[parent].group;
        const bool second = groups_[extent.group].warmest == groups_[extent.group].coldest;
        if (second) keys_.try_emplace(extent.group, group_key(extent.group));
    }
    if (spec.unsettled) set_settled(extent.group, false);
    extent.parent_tag = tag_of(spec.parent);
    Group& group = groups_[extent.group];
    extent.prev = alone ? kNoExtent : parent;
    extent.next = alone ? kNoExtent : map_[parent].next;
    (extent.prev == kNoExtent ? group.warmest : map_[extent.prev].next) = id;
    (extent.next == kNoExtent ? group.coldest : map_[extent.next].prev) = id;
}

void DomainStore::leave_group(ExtentId id) {
    Extent& extent = map_[id];
    Group& group = groups_[extent.group];
    (extent.prev == kNoExtent ? group.warmest : map_[extent.prev].next) = extent.next;
    (extent.next == kNoExtent ? group.coldest : map_[extent.next].prev) = extent.prev;
    if (group.warmest == kNoExtent) {
        rooms_[extent.room].policy.erase(extent.group);
        set_settled(extent.group, true);
        keys_.erase(extent.group);
        free_groups_.push_back(extent.group);
    }
    extent.group = kNoGroup;
    extent.prev = extent.next = kNoExtent;
}

void DomainStore::warm(std::uint32_t room, GroupId group) {
    rooms_[room].policy.touch(group);
    groups_[group].touched = ++touches_made_;
}

void DomainStore::touch(ExtentId id) {
    Extent& extent = map_[id];
    warm(extent.room, extent.group);
    Group& group = groups_[extent.group];
    if (group.warmest == id) return;
    map_[extent.prev].next = extent.next;
    (extent.next == kNoExtent ? group.coldest : map_[extent.next].prev) = extent.prev;
    extent.prev = kNoExtent;
    extent.next = group.warmest;
    map_[group.warmest].prev = id;
    group.warmest = id;
}

void DomainStore::apply_touches() {
    touches_.clear();
    pins_.drain(touches_);
    for (const std::uint64_t word : touches_) {
        const ExtentId id = index_.at(word >> model::kGenerationBits);
        if (id != kNoExtent && map_[id].generation == (word & kGenerationMask)) touch(id);
    }
}

// ---- groups for others ----

void DomainStore::set_settled(GroupId group, bool settled) {
    was_settled_[group] = false;
    if (settled_[group] == settled) return;
    settled_[group] = settled;
    settled ? --unsettled_ : ++unsettled_;
}

void DomainStore::unsettle_all(bool keep) {
    was_settled_.assign(groups_.size(), false);
    if (keep) was_settled_ = settled_;
    unsettled_ = groups_.size() - free_groups_.size();
    settled_.assign(groups_.size(), false);
    for (const GroupId group : free_groups_) {
        settled_[group] = true;
        was_settled_[group] = false;
    }
}

void DomainStore::unsettle(std::uint32_t namespace_id) {
    for (GroupId group = 0; group < groups_.size(); ++group) {
        if (groups_[group].warmest != kNoExtent && namespace_of(group) == namespace_id)
            set_settled(group, false);
    }
}

void DomainStore::settle_all() {
    unsettled_ = 0;
    settled_.assign(groups_.size(), true);
    was_settled_.assign(groups_.size(), false);
}

std::uint64_t DomainStore::group_key(GroupId group) const noexcept {
    const auto known = keys_.find(group);
    return known != keys_.end() ? known->second : header(map_[groups_[group].warmest]).digest.prefix();
}

void DomainStore::settle(GroupId group, std::uint64_t key) {
    if (alive(group, key)) set_settled(group, true);
}

bool DomainStore::grown(GroupId group, std::uint64_t key, std::uint64_t inserts) const noexcept {
    if (!alive(group, key)) return false;
    for (ExtentId id = groups_[group].warmest; id != kNoExtent; id = map_[id].next) {
        if (header(map_[id]).generation > inserts) return true;
    }
    return false;
}

GroupId DomainStore::next_unsettled(GroupWalk& walk, std::size_t& looks) const {
    const auto colder = [](const GroupWalk::Head& one, const GroupWalk::Head& other) {
        return one.touched < other.touched;
    };
    const auto add = [&](std::uint32_t room, GroupId group) {
        if (group == kNoGroup) return;
        walk.heads.push_back({groups_[group].touched, group, room});
        std::ranges::push_heap(walk.heads, colder);
    };
    if (!std::exchange(walk.begun, true)) {
        for (std::uint32_t room = 0; room < rooms_.size(); ++room) add(room, rooms_[room].policy.warmest());
    }
    while (!walk.heads.empty() && looks > 0) {
        --looks;
        std::ranges::pop_heap(walk.heads, colder);
        const auto [touched, group, room] = walk.heads.back();
        walk.heads.pop_back();
        const ExtentId first = groups_[group].warmest;
        if (first == kNoExtent || map_[first].room != room) {
            // It has gone: what was behind it is found from the front.
            add(room, rooms_[room].policy.warmest());
            continue;
        }
        add(room, rooms_[room].policy.colder(group));
        if (!settled_[group]) return group;
    }
    walk.ended = walk.heads.empty();
    return kNoGroup;
}

std::vector<GroupBlock> DomainStore::blocks_of(GroupId group, std::size_t count_max) const {
    std::vector<ExtentId> ids;
    for (ExtentId id = groups_[group].warmest; id != kNoExtent && ids.size() < count_max; id = map_[id].next)
        ids.push_back(id);
    std::stable_sort(ids.begin(), ids.end(),
                     [&](ExtentId one, ExtentId other) { return map_[one].position < map_[other].position; });
    std::vector<GroupBlock> blocks;
    const std::uint32_t first = ids.empty() ? 0 : map_[ids.front()].position;
    std::size_t parents = 0;  // where those of the position before begin among `blocks`
    std::size_t same = 0;     // and those of this position
    for (const ExtentId id : ids) {
        const Extent& extent = map_[id];
        const model::BlockHeader& head = header(extent);
        GroupBlock block{head.digest, model::kNoParent, extent.position, head.length};
        if (same < blocks.size() && blocks[same].position != extent.position) {
            parents = same;
            same = blocks.size();
        }
        if (extent.parent_tag != 0 && extent.position != first) {
            const auto begin = blocks.begin() + static_cast<std::ptrdiff_t>(parents);
            const auto end = blocks.begin() + static_cast<std::ptrdiff_t>(same);
            const auto parent = std::find_if(begin, end, [&](const GroupBlock& each) {
                return each.position + 1 == extent.position && tag_of(each.digest) == extent.parent_tag;
            });
            if (parent == end) continue;
            block.parent = parent->digest;
        }
        blocks.push_back(block);
    }
    return blocks;
}

// Nobody says what it hangs on: it stays a group of its own.
void DomainStore::keep_group(GroupId group) {
    Extent& extent = map_[groups_[group].warmest];
    rooms_[extent.room].policy.erase(group);
    change_room(extent);
    rooms_[extent.room].policy.insert(group, kNoGroup);
    groups_[group].touched = ++touches_made_;
}

}  // namespace cmpool::pool
