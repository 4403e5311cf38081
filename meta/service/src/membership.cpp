#include "records.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <cmpool/meta/membership.h>

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

namespace cmpool::meta {

using model::MemberState;

namespace {

auto find_node(std::vector<model::Member>& members, std::uint64_t node_id) {
    return std::find_if(members.begin(), members.end(),
                        [&](const model::Member& member) { return member.node_id == node_id; });
}

}  // namespace

Result<Membership> Membership::open(Store& store, Instant now, std::uint64_t self, LeaseTimes times) {
    const auto found = store.get(kViewKey);
    if (!found) return fail(found.error());
    auto view = found->has_value() ? decode_view(**found) : model::View{};
    if (!view) return fail(view.error());
    Membership membership(store, self, times);
    membership.view_ = std::make_shared<const model::View>(std::move(*view));
    membership.looked_ = now;
    for (const auto& member : membership.view_->members) membership.arm(member, now);
    return membership;
}

void Membership::arm(const model::Member& member, Instant now) {
    if (member.node_id == self_ || member.state == MemberState::Down) return;
    leases_.insert_or_assign(member.node_id, Lease{member.incarnation, now + times_.lease});
}

Result<void> Membership::publish(model::View next) {
    const Entry entries[]{{.key = std::string(kViewKey), .value = encode_view(next)}};
    if (auto written = store_->apply(entries); !written) return written;
    view_ = std::make_shared<const model::View>(std::move(next));
    return {};
}

Result<void> Membership::join(model::Member member, std::uint64_t epoch, Instant now) {
    if (member.address.empty() || member.node_id == 0)
        return fail(Errc::Invalid, "expected a member with an id and an address, saw \"{}\"", member.name);
    if (epoch >= kEpochEnd)
        return fail(Errc::Invalid, "expected an epoch below {}, saw {}", kEpochEnd, epoch);
    if (member.state == MemberState::Down) member.state = MemberState::Serving;
    model::View next = *view_;
    next.epoch = std::max(view_->epoch, epoch) + 1;
    std::erase_if(next.members, [&](const model::Member& other) {
        return other.node_id != member.node_id && other.address == member.address;
    });
    const auto known = find_node(next.members, member.node_id);
    if (known != next.members.end()) {
        // What people have set stays as long as the member's process.
        if (known->incarnation == member.incarnation) {
            member.weight = known->weight;
            if (known->state != MemberState::Down) member.state = known->state;
        }
        *known = member;
    } else {
        if (next.members.size() == model::kMembersMax) {
            const auto down =
                std::find_if(next.members.begin(), next.members.end(),
                             [](const model::Member& other) { return other.state == MemberState::Down; });
            if (down == next.members.end()) {
                return fail(Errc::NoCapacity, "expected at most {} members, this is one more",
                            model::kMembersMax);
            }
            next.members.erase(down);
        }
        next.members.push_back(member);
    }
    if (next.members != view_->members || epoch > view_->epoch) {
        if (auto done = publish(std::move(next)); !done) return done;
        spdlog::info("event member_joined node {:016x} name {} address {} epoch {}", member.node_id,
                     member.name, member.address, view_->epoch);
    }
    for (auto lease = leases_.begin(); lease != leases_.end();) {
        const bool there = std::any_of(view_->members.begin(), view_->members.end(),
                                       [&](const auto& each) { return each.node_id == lease->first; });
        lease = there ? std::next(lease) : leases_.erase(lease);
    }
    arm(member, now);
    return {};
}

Result<void> Membership::renew(std::uint64_t node_id, std::uint64_t incarnation, Instant now) {
    const auto lease = leases_.find(node_id);
    if (lease == leases_.end() || lease->second.incarnation != incarnation) {
        return fail(Errc::LeaseLost, "node {:016x} is no member, or was one in another run: join again",
                    node_id);
    }
    lease->second.ends = now + times_.lease;
    return {};
}

void Membership::suspect(std::uint64_t node_id, std::uint64_t incarnation, Instant now) {
    const auto lease = leases_.find(node_id);
    if (lease == leases_.end() || lease->second.incarnation != incarnation) return;
    lease->second.ends = std::min(lease->second.ends, now + times_.grace);
}

Result<void> Membership::leave(std::uint64_t node_id, std::uint64_t incarnation) {
    model::View next = *view_;
    const auto known = find_node(next.members, node_id);
    if (known == next.members.end() || known->incarnation != incarnation) return {};
    spdlog::info("event member_left node {:016x} name {}", node_id, known->name);
    next.members.erase(known);
    ++next.epoch;
    if (auto done = publish(std::move(next)); !done) return done;
    leases_.erase(node_id);
    return {};
}

Result<std::size_t> Membership::find(std::string_view who) const {
    std::vector<std::size_t> found;
    std::vector<std::string> addresses;
    for (std::size_t at = 0; at < view_->members.size(); ++at) {
        const auto& member = view_->members[at];
        if (member.name != who && member.address != who && fmt::format("{:016x}", member.node_id) != who)
            continue;
        found.push_back(at);
        addresses.push_back(member.address);
    }
    if (found.size() == 1) return found.front();
    if (found.empty()) return fail(Errc::Invalid, "expected a member's name, address or id, saw \"{}\"", who);
    return fail(Errc::Invalid, "expected one member, saw {} that are called \"{}\": name one of {}",
                found.size(), who, fmt::join(addresses, ", "));
}

Result<void> Membership::change(std::string_view who, const Change& change) {
    const auto at = find(who);
    if (!at) return fail(at.error());
    model::View next = *view_;
    model::Member& member = next.members[*at];
    const bool down = member.state == MemberState::Down;
    if (change.forget || change.state) {
        if (change.forget != down) {
            return fail(Errc::Invalid, "expected a member that is {}, saw {} that is {}",
                        change.forget ? "down" : "there", member.name, down ? "down" : "there");
        }
        if (change.state == MemberState::Down)
            return fail(Errc::Invalid, "expected serving, draining or retired, saw down: nobody is made so");
    }
    if (change.weight) member.weight = *change.weight;
    if (change.state) member.state = *change.state;
    if (change.forget) next.members.erase(next.members.begin() + static_cast<std::ptrdiff_t>(*at));
    if (next.members == view_->members) return {};
    ++next.epoch;
    return publish(std::move(next));
}

Result<void> Membership::expire(Instant now) {
    // Nobody can renew a lease with somebody who does not run.
    const bool slept = now - looked_ > times_.lease / 2;
    looked_ = now;
    if (slept) {
        for (auto& [node_id, lease] : leases_) lease.ends = now + times_.lease;
        return {};
    }
    model::View next = *view_;
    std::vector<std::uint64_t> silent;
    for (const auto& [node_id, lease] : leases_) {
        if (lease.ends > now) continue;
        silent.push_back(node_id);
        const auto known = find_node(next.members, node_id);
        if (known != next.members.end()) known->state = MemberState::Down;
    }
    if (silent.empty()) return {};
    ++next.epoch;
    if (auto done = publish(std::move(next)); !done) return done;
    for (const std::uint64_t node_id : silent) {
        spdlog::warn("event member_down node {:016x} epoch {}", node_id, view_->epoch);
        leases_.erase(node_id);
    }
    return {};
}

Instant Membership::next_expiry() const noexcept {
    Instant next = Instant::never();
    for (const auto& [node_id, lease] : leases_) next = std::min(next, lease.ends);
    return next;
}

}  // namespace cmpool::meta
