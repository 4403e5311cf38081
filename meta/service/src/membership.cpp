#include "records.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <cmpool/meta/controller.h>
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
    Membership membership(store, self, times);
    membership.looked_ = now;
    if (auto read = membership.refresh(now); !read) return fail(read.error());
    return membership;
}

void Membership::arm(const model::Member& member, Instant now) {
    if (member.node_id == self_ || member.state == MemberState::Down) return;
    leases_.insert_or_assign(member.node_id, Lease{member.incarnation, now + times_.lease, now});
}

const model::Member* Membership::find_member(std::uint64_t node_id) const noexcept {
    for (const auto& member : view_->members) {
        if (member.node_id == node_id) return &member;
    }
    return nullptr;
}

// ---- the store ----

Result<void> Membership::refresh(Instant now) {
    const auto stored = store_->read(kViewKey);
    if (!stored) return fail(stored.error());
    return adopt(*stored, now);
}

Result<void> Membership::adopt(const std::optional<Found>& stored, Instant now) {
    auto view = stored ? decode_view(stored->value) : model::View{};
    if (!view) return fail(view.error());
    revision_ = stored ? stored->revision : 0;
    stored_epoch_ = view->epoch;
    if (view->epoch <= view_->epoch) return {};
    view_ = std::make_shared<const model::View>(std::move(*view));
    // Whoever is here in the same run as before keeps the lease that it had.
    for (const auto& member : view_->members) {
        const auto lease = leases_.find(member.node_id);
        if (lease == leases_.end() || lease->second.incarnation != member.incarnation) arm(member, now);
    }
    forget_leases();
    return {};
}

void Membership::forget_leases() {
    std::erase_if(leases_, [&](const auto& lease) {
        const auto* member = find_member(lease.first);
        return member == nullptr || member->state == MemberState::Down;
    });
}

Result<void> Membership::publish(model::View next, const Terms& terms) {
    std::vector<Entry> batch{{.key = std::string(kViewKey), .value = encode_view(next)}};
    batch.insert(batch.end(), terms.batch.begin(), terms.batch.end());
    std::vector<Guard> guards{{std::string(kViewKey), revision_}};
    guards.insert(guards.end(), terms.guards.begin(), terms.guards.end());
    const auto written = store_->write(batch, guards);
    if (!written) return fail(written.error());
    revision_ = *written;
    stored_epoch_ = next.epoch;
    view_ = std::make_shared<const model::View>(std::move(next));
    return {};
}

Result<void> Membership::update(const Edit& edit, const Terms& terms) {
    Result<void> done;
    const int tries = terms.guards.empty() ? kRacesMax : 1;
    for (int races = 0; races < tries; ++races) {
        model::View next = *view_;
        if (auto edited = edit(next); !edited) return edited;
        if (next == *view_ && !store_is_behind()) return {};
        if (next.epoch == view_->epoch) ++next.epoch;
        done = publish(std::move(next), terms);
        if (done || done.error().code != Errc::Again) return done;
        if (auto read = refresh(looked_); !read) return read;
    }
    return done;
}

// ---- members ----

Result<void> Membership::enter(model::View& view, model::Member member, std::uint64_t epoch) {
    if (epoch > view.epoch) view.epoch = epoch + 1;
    std::erase_if(view.members, [&](const model::Member& other) {
        return other.node_id != member.node_id && other.address == member.address;
    });
    const auto known = find_node(view.members, member.node_id);
    if (known != view.members.end()) {
        // What people have set stays as long as the member's process.
        if (known->incarnation == member.incarnation) {
            member.weight = known->weight;
            if (known->state != MemberState::Down) member.state = known->state;
        }
        *known = std::move(member);
        return {};
    }
    if (view.members.size() == model::kMembersMax) {
        const auto down =
            std::find_if(view.members.begin(), view.members.end(),
                         [](const model::Member& other) { return other.state == MemberState::Down; });
        if (down == view.members.end()) {
            return fail(Errc::NoCapacity, "expected at most {} members, this is one more",
                        model::kMembersMax);
        }
        view.members.erase(down);
    }
    view.members.push_back(std::move(member));
    return {};
}

Result<void> Membership::join(model::Member member, std::uint64_t epoch, Instant now) {
    if (member.address.empty() || member.node_id == 0)
        return fail(Errc::Invalid, "expected a member with an id and an address, saw \"{}\"", member.name);
    if (epoch >= kEpochEnd)
        return fail(Errc::Invalid, "expected an epoch below {}, saw {}", kEpochEnd, epoch);
    if (member.state == MemberState::Down) member.state = MemberState::Serving;
    const auto before = view_->epoch;
    const auto edit = [&](model::View& next) { return enter(next, member, epoch); };
    if (auto done = update(edit, {}); !done) return done;
    if (view_->epoch != before) {
        spdlog::info("event member_joined node {:016x} name {} address {} epoch {}", member.node_id,
                     member.name, member.address, view_->epoch);
    }
    forget_leases();
    arm(member, now);
    return {};
}

Membership::Lease* Membership::find_lease(std::uint64_t node_id, std::uint64_t incarnation) noexcept {
    const auto lease = leases_.find(node_id);
    return lease == leases_.end() || lease->second.incarnation != incarnation ? nullptr : &lease->second;
}

Result<void> Membership::renew(std::uint64_t node_id, std::uint64_t incarnation, Instant now) {
    Lease* lease = find_lease(node_id, incarnation);
    if (lease == nullptr) {
        return fail(Errc::LeaseLost, "node {:016x} is no member, or was one in another run: join again",
                    node_id);
    }
    if (!lease->gone) lease->ends = now + times_.lease;
    lease->renewed = now;
    return {};
}

void Membership::suspect(std::uint64_t node_id, std::uint64_t incarnation, Instant now) {
    if (Lease* lease = find_lease(node_id, incarnation); lease != nullptr)
        lease->ends = std::min(lease->ends, now + times_.grace);
}

void Membership::heard(std::uint64_t node_id, std::uint64_t incarnation, Instant now) {
    Lease* lease = find_lease(node_id, incarnation);
    if (lease == nullptr) return;
    lease->heard = now;
    lease->gone = false;
}

void Membership::ended(std::uint64_t node_id, std::uint64_t incarnation, Instant now) {
    Lease* lease = find_lease(node_id, incarnation);
    if (lease == nullptr) return;
    lease->ends = std::min(lease->ends, now);
    lease->gone = true;
}

bool Membership::has_ended(const Lease& lease, Instant now) const noexcept {
    if (lease.ends > now) return false;
    const bool answers = !lease.gone && lease.heard.ns != 0 && now - lease.heard < times_.lease / 2;
    return !answers || now - lease.renewed >= times_.lease + times_.busy;
}

std::vector<model::Member> Membership::late(Instant now) const {
    std::vector<model::Member> all;
    for (const auto& [node_id, lease] : leases_) {
        const auto* member = lease.ends - now <= times_.lease / 2 ? find_member(node_id) : nullptr;
        if (member != nullptr) all.push_back(*member);
    }
    return all;
}

Result<void> Membership::leave(std::uint64_t node_id, std::uint64_t incarnation) {
    const auto edit = [&](model::View& next) -> Result<void> {
        const auto known = find_node(next.members, node_id);
        if (known != next.members.end() && known->incarnation == incarnation) next.members.erase(known);
        return {};
    };
    const auto before = view_->epoch;
    if (auto done = update(edit, {}); !done) return done;
    if (view_->epoch != before) spdlog::info("event member_left node {:016x}", node_id);
    forget_leases();
    return {};
}

Result<std::size_t> Membership::find(const model::View& view, std::string_view who) {
    std::vector<std::size_t> found;
    std::vector<std::string> addresses;
    for (std::size_t at = 0; at < view.members.size(); ++at) {
        const auto& member = view.members[at];
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
    const auto edit = [&](model::View& next) -> Result<void> {
        const auto at = find(next, who);
        if (!at) return fail(at.error());
        model::Member& member = next.members[*at];
        const bool down = member.state == MemberState::Down;
        if (change.forget || change.state) {
            if (change.forget != down) {
                return fail(Errc::Invalid, "expected a member that is {}, saw {} that is {}",
                            change.forget ? "down" : "there", member.name, down ? "down" : "there");
            }
            if (change.state == MemberState::Down) {
                return fail(Errc::Invalid,
                            "expected serving, draining or retired, saw down: nobody is made so");
            }
        }
        if (change.weight) member.weight = *change.weight;
        if (change.state) member.state = *change.state;
        if (change.forget) next.members.erase(next.members.begin() + static_cast<std::ptrdiff_t>(*at));
        return {};
    };
    return update(edit, {});
}

// ---- leases ----

void Membership::rearm(Instant now) {
    for (auto& [node_id, lease] : leases_) {
        lease.ends = now + times_.lease;
        lease.renewed = now;
    }
}

Result<void> Membership::expire(Instant now, const TermsOf& terms_of) {
    // Nobody can renew a lease with somebody who does not run.
    const bool slept = now - looked_ > times_.lease / 2;
    looked_ = now;
    if (slept) {
        rearm(now);
        return {};
    }
    std::unordered_map<std::uint64_t, std::uint64_t> silent;  // with the run that was silent
    Terms terms;
    for (const auto& [node_id, lease] : leases_) {
        if (!has_ended(lease, now)) continue;
        silent.emplace(node_id, lease.incarnation);
        if (!terms_of) continue;
        const auto more = terms_of(node_id, lease.gone);
        terms.batch.insert(terms.batch.end(), more.batch.begin(), more.batch.end());
        terms.guards.insert(terms.guards.end(), more.guards.begin(), more.guards.end());
    }
    if (silent.empty()) return {};
    const auto edit = [&](model::View& next) -> Result<void> {
        for (auto& member : next.members) {
            const auto is = silent.find(member.node_id);
            if (is != silent.end() && is->second == member.incarnation) member.state = MemberState::Down;
        }
        return {};
    };
    if (auto done = update(edit, terms); !done) return done;
    for (const auto& [node_id, incarnation] : silent)
        spdlog::warn("event member_down node {:016x} epoch {}", node_id, view_->epoch);
    forget_leases();
    return {};
}

Instant Membership::next_expiry() const noexcept {
    Instant next = Instant::never();
    for (const auto& [node_id, lease] : leases_) next = std::min(next, lease.ends);
    return next;
}

}  // namespace cmpool::meta
