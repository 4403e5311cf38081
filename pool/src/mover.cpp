#include "mover.h"

#include <algorithm>
#include <utility>

#include <cmpool/base/assert.h>

namespace cmpool::pool {

using wire::Outcome;

Mover::~Mover() {
    for (const auto& task : tasks_) {
        for (auto& target : task->targets) let_go(*task, target);
    }
}

void Mover::know(const model::NamespaceRecord& space, DomainStore& store) {
    set_replicas(space.namespace_id, space.replicas);
    spaces_.insert_or_assign(space.namespace_id, space);
    const bool known =
        std::any_of(walks_.begin(), walks_.end(), [&](const Walked& each) { return each.store == &store; });
    if (!known) walks_.push_back({&store, {}});
}

void Mover::set_replicas(std::uint32_t namespace_id, std::uint32_t replicas) {
    const auto space = spaces_.find(namespace_id);
    if (space == spaces_.end() || space->second.replicas == replicas) return;
    space->second.replicas = replicas;
    for (const auto& task : tasks_) task->outdated |= task->namespace_id == namespace_id;
    if (!looks_after_) return;
    for (auto& [store, walk] : walks_) {
        walk = {};
        store->unsettle(namespace_id);
    }
}

void Mover::set_view(std::shared_ptr<const model::View> view) {
    auto before = std::exchange(view_, std::move(view));
    before_ = looks_after_ ? std::move(before) : nullptr;
    for (auto& placement : placements_before_) placement.reset();
    // What has been asked by the old view ends, and is then forgotten.
    for (const auto& task : tasks_) task->outdated = true;
    const auto self = std::find_if(view_->members.begin(), view_->members.end(),
                                   [&](const auto& member) { return member.node_id == node_id_; });
    const bool there = self != view_->members.end() && self->state != model::MemberState::Down &&
                       self->state != model::MemberState::Retired;
    const bool others = std::any_of(view_->members.begin(), view_->members.end(), [&](const auto& member) {
        return member.node_id != node_id_ && member.owns();
    });
    drains_ = there && self->drains();
    for (auto& placement : placements_) {
        if (placement) placement->follow(*view_);
    }
    looks_after_ = there && others && !rests_;
    for (auto& [store, walk] : walks_) {
        walk = {};
        if (looks_after_) {
            store->unsettle_all(before_ != nullptr && !drains_);
        } else {
            store->settle_all();
        }
    }
}

std::uint64_t Mover::pending() const noexcept {
    std::uint64_t groups = 0;
    for (const auto& [store, walk] : walks_) groups += store->unsettled();
    return groups;
}

std::uint64_t Mover::holds() const noexcept {
    std::uint64_t held = 0;
    for (const auto& task : tasks_) {
        for (const auto& target : task->targets) held += target.held.size();
    }
    return held;
}

// ---- going on ----

void Mover::step(Instant now) {
    allowance_.refill(now);
    if (pending() == 0 && tasks_.empty()) {
        for (auto* placements : {&placements_, &placements_before_}) {
            for (auto& placement : *placements) placement.reset();
        }
        return;
    }
    std::erase_if(tasks_, [&](const auto& task) { return advance(*task); });
    take_up();
    // What could not be done is tried again when the whole walk is over, after a while.
    const bool ended =
        std::all_of(walks_.begin(), walks_.end(), [](const Walked& each) { return each.walk.ended; });
    if (!ended || !tasks_.empty() || pending() == 0) {
        again_at_ = Instant::never();
    } else if (again_at_ == Instant::never()) {
        again_at_ = now + kMoveAgain;
    } else if (now >= again_at_) {
        again_at_ = Instant::never();
        for (auto& each : walks_) each.walk = {};
    }
}

void Mover::take_up() {
    std::size_t looks = kLooksPerStep;
    for (auto& [store, walk] : walks_) {
        while (tasks_.size() < kGroupsInHand) {
            const GroupId group = store->next_unsettled(walk, looks);
            if (group == kNoGroup) break;
            const std::uint64_t key = store->group_key(group);
            const bool in_hand = std::any_of(tasks_.begin(), tasks_.end(), [&](const auto& task) {
                return task->store == store && task->key == key;
            });
            if (in_hand) continue;
            auto task = look_at(*store, group);
            if (!task) {
                store->settle(group, key);
                continue;
            }
            tasks_.push_back(std::make_unique<Task>(std::move(*task)));
            if (advance(*tasks_.back())) tasks_.pop_back();
        }
    }
}

model::Placement& Mover::placement(Placements& placements, const model::View& view, std::uint32_t replicas) {
    auto& placement = placements[replicas - 1];
    if (placement == nullptr) {
        placement = std::make_unique<model::Placement>(replicas);
        placement->follow(view);
    }
    return *placement;
}

bool Mover::same_owners(std::uint64_t key, std::uint32_t replicas) {
    auto& now = placement(placements_, *view_, replicas);
    auto& then = placement(placements_before_, *before_, replicas);
    const auto same = [&](model::Placement::Seat one, model::Placement::Seat other) {
        if (one == model::Placement::kNobody || other == model::Placement::kNobody) return one == other;
        const auto& before = then.member(one);
        const auto& after = now.member(other);
        return before.node_id == after.node_id && before.incarnation == after.incarnation;
    };
    return std::ranges::equal(then.owners(key), now.owners(key), same);
}

bool Mover::lost_owner(std::uint64_t key, std::uint32_t replicas) {
    auto& then = placement(placements_before_, *before_, replicas);
    return std::ranges::any_of(then.owners(key), [&](model::Placement::Seat seat) {
        if (seat == model::Placement::kNobody) return false;
        const auto& owner = then.member(seat);
        return std::ranges::none_of(view_->members, [&](const model::Member& member) {
            return member.node_id == owner.node_id && member.incarnation == owner.incarnation &&
                   member.state != model::MemberState::Down;
        });
    });
}

// None where the group lies as it should without anybody being asked.
std::optional<Mover::Task> Mover::look_at(DomainStore& store, GroupId group) {
    Task task{.store = &store,
              .group = group,
              .key = store.group_key(group),
              .namespace_id = store.namespace_of(group)};
    const auto space = spaces_.find(task.namespace_id);
    if (space == spaces_.end()) return std::nullopt;
    const auto replicas = std::clamp(space->second.replicas, 1U, model::kReplicasMax);
    if (before_ != nullptr && store.was_settled(group) && same_owners(task.key, replicas))
        return std::nullopt;
    auto& places = placement(placements_, *view_, replicas);
    std::uint32_t rank = 0;
    std::optional<std::uint32_t> own;
    for (const auto seat : places.owners(task.key)) {
        if (seat == model::Placement::kNobody) break;
        const auto& member = places.member(seat);
        if (member.node_id == node_id_) {
            own = rank;
        } else {
            task.targets.push_back({.member = member, .rank = rank});
        }
        ++rank;
    }
    if (store.near_group(group)) {
        if (!own && (drains_ || before_ == nullptr || !lost_owner(task.key, replicas))) return std::nullopt;
        if (own) store.keep_group(group);
    }
    if (task.targets.empty()) return std::nullopt;
    task.own_rank = own.value_or(rank);
    task.seen = store.inserts();
    task.blocks = store.blocks_of(group, kGroupBlocksMax);
    if (task.blocks.empty()) return std::nullopt;
    return task;
}

bool Mover::advance(Task& task) {
    for (auto& target : task.targets) advance(task, target);
    const auto under_way = [](const Target& target) { return target.request != 0; };
    if (std::any_of(task.targets.begin(), task.targets.end(), under_way)) return false;
    if (task.outdated) return true;
    const auto over = [](const Target& target) {
        return target.state == Target::State::Done || target.state == Target::State::Failed;
    };
    if (!std::all_of(task.targets.begin(), task.targets.end(), over)) return false;
    conclude(task);
    return true;
}

void Mover::conclude(Task& task) {
    const bool failed = std::any_of(task.targets.begin(), task.targets.end(), [](const Target& target) {
        return target.state == Target::State::Failed;
    });
    if (failed) {
        ++counts_.failures;
    } else if (!task.store->grown(task.group, task.key, task.seen)) {
        task.store->settle(task.group, task.key);
    }
}

void Mover::advance(Task& task, Target& target) {
    if (target.request != 0 || task.outdated) return;
    if (target.state == Target::State::Unasked) ask(task, target);
    const auto known = [](const Target& each) {
        return each.state != Target::State::Unasked && each.state != Target::State::Asked;
    };
    // Who sends a block is known when all have said what they have.
    if (target.state == Target::State::Known && std::all_of(task.targets.begin(), task.targets.end(), known))
        target.state = Target::State::Sending;
    if (target.state == Target::State::Sending) send(task, target);
}

void Mover::ask(Task& task, Target& target) {
    const auto way = links_.way(target.member, task.key, spaces_.at(task.namespace_id));
    if (way == MoverLinks::Way::Shut) target.state = Target::State::Failed;
    if (way != MoverLinks::Way::Open) return;
    std::vector<model::Digest> digests;
    digests.reserve(task.blocks.size());
    for (const auto& block : task.blocks) digests.push_back(block.digest);
    if (!links_.ask(target.member, task.key, next_id_, wire::Exists{task.namespace_id, digests}, {})) return;
    target.request = next_id_++;
    target.state = Target::State::Asked;
}

// Whether it is for us to send this block to those who lack it.
bool Mover::ours(const Task& task, std::size_t block) const {
    return drains_ || std::none_of(task.targets.begin(), task.targets.end(), [&](const Target& target) {
               return target.rank < task.own_rank && !target.has.empty() && target.has[block];
           });
}

void Mover::send(Task& task, Target& target) {
    if (allowance_.left() <= 0) return;
    const auto way = links_.way(target.member, task.key, spaces_.at(task.namespace_id));
    if (way == MoverLinks::Way::Shut) target.state = Target::State::Failed;
    if (way != MoverLinks::Way::Open) return;
    std::vector<wire::PutItem> items;
    std::vector<Bytes> payload;
    std::uint64_t bytes = 0;
    std::size_t at = target.next;
    for (; at < task.blocks.size(); ++at) {
        const GroupBlock& block = task.blocks[at];
        if (target.has[at] || !ours(task, at)) continue;
        const ExtentId extent = task.store->find(block.digest);
        if (extent == kNoExtent) continue;  // it has gone meanwhile
        const BlockView view = task.store->view(extent);
        if (!items.empty() && bytes + view.payload.size() > kMoveBytes) break;
        bytes += view.payload.size();
        items.push_back({.checksum = view.checksum,
                         .group = task.key,
                         .length = static_cast<std::uint32_t>(view.payload.size()),
                         .position = block.position,
                         .digest = block.digest,
                         .parent = block.parent});
        payload.push_back(view.payload);
        task.store->hold(extent);
        target.held.push_back(extent);
        target.sent.push_back(at);
    }
    if (items.empty()) {
        target.state = Target::State::Done;
        return;
    }
    if (!links_.ask(target.member, task.key, next_id_, wire::Put{task.namespace_id, items, {}}, payload))
        return let_go(task, target);
    target.request = next_id_++;
    target.next = at;
    target.bytes_sent = bytes;
    allowance_.spend(bytes);
}

// ---- answers ----

std::pair<Mover::Task*, Mover::Target*> Mover::find(std::uint64_t id) {
    for (const auto& task : tasks_) {
        for (auto& target : task->targets) {
            if (target.request == id) return {task.get(), &target};
        }
    }
    CMPOOL_ASSERT(false);
    return {};
}

void Mover::let_go(const Task& task, Target& target) {
    for (const ExtentId extent : target.held) task.store->unhold(extent);
    target.held.clear();
    target.sent.clear();
}

void Mover::answered(std::uint64_t id, const wire::Body& answer) {
    const auto [task, target] = find(id);
    target->request = 0;
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    const bool asked = target->state == Target::State::Asked;
    const std::size_t expected = asked ? task->blocks.size() : target->sent.size();
    if (outcomes == nullptr || outcomes->outcomes.size() != expected) {
        target->state = Target::State::Failed;
    } else if (asked) {
        for (const Outcome outcome : outcomes->outcomes) target->has.push_back(outcome == Outcome::Ok);
        target->state = Target::State::Known;
    } else {
        taken(*task, *target, outcomes->outcomes);
    }
    let_go(*task, *target);
}

void Mover::taken(Task& task, Target& target, std::span<const Outcome> outcomes) {
    for (std::size_t at = 0; at < outcomes.size(); ++at) {
        const std::size_t block = target.sent[at];
        if (outcomes[at] == Outcome::Ok) {
            ++counts_.blocks;
            counts_.bytes += task.blocks[block].length;
        } else if (outcomes[at] == Outcome::Refused) {
            // It has no room for this one, and what hangs on it would find no parent.
            ++counts_.refused_blocks;
            target.state = Target::State::Done;
        }
    }
}

void Mover::lost(std::uint64_t id) {
    const auto [task, target] = find(id);
    target->request = 0;
    target->state = Target::State::Failed;
    let_go(*task, *target);
}

}  // namespace cmpool::pool
