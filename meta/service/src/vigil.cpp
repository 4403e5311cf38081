#include "vigil.h"

#include <algorithm>
#include <array>

namespace cmpool::meta {
namespace {

/// A lane that only sends and receives is quiet at once; this bounds what must not happen.
constexpr std::chrono::milliseconds kQuiesceLimit{10};

}  // namespace

std::vector<model::Member> neighbours_of(const model::View& view, std::uint64_t self, std::size_t count) {
    std::vector<model::Member> others;
    for (const auto& member : view.members) {
        if (member.node_id != self && member.state != model::MemberState::Down) others.push_back(member);
    }
    const auto behind = [&](const model::Member& member) {
        return member.node_id - self;
    };  // around zero too
    std::ranges::sort(others, {}, behind);
    if (others.size() > count) others.resize(count);
    return others;
}

Vigil::~Vigil() {
    for (auto& [node_id, watched] : watched_) close(watched);
}

void Vigil::close(Watched& watched) {
    if (watched.lane) (void)watched.lane->quiesce(kQuiesceLimit);
    watched.lane.reset();
    watched.asked = false;
}

void Vigil::watch(const std::vector<model::Member>& members) {
    const auto same = [](const model::Member& one, const model::Member& other) {
        return one.node_id == other.node_id && one.incarnation == other.incarnation &&
               one.address == other.address;
    };
    for (auto at = watched_.begin(); at != watched_.end();) {
        Watched& watched = at->second;
        const bool stays =
            std::ranges::any_of(members, [&](const auto& member) { return same(member, watched.member); });
        if (!stays) close(watched);
        at = stays ? std::next(at) : watched_.erase(at);
    }
    for (const auto& member : members) watched_.try_emplace(member.node_id).first->second.member = member;
}

void Vigil::progress(Membership& members) {
    const Instant now = clock_.now();
    for (auto& [node_id, watched] : watched_) {
        go_on(watched, now);
        const auto incarnation = watched.member.incarnation;
        if (std::exchange(watched.answered, false)) members.heard(node_id, incarnation, now);
        if (watched.was_there && watched.failures >= kFailuresMax) members.ended(node_id, incarnation, now);
    }
}

void Vigil::go_on(Watched& watched, Instant now) {
    if (watched.lane && !pump(watched)) return failed(watched, now);
    if (now < watched.next || watched.asked) return;
    if (!watched.lane) {
        auto lane = network_.connect(watched.member.address);
        if (!lane) return failed(watched, now);
        watched.lane = std::move(*lane);
    }
    watched.next = now + every_;
    // A lane that was refused says so at the first look.
    if (!greet(watched) || !pump(watched)) failed(watched, now);
}

void Vigil::failed(Watched& watched, Instant now) {
    close(watched);
    ++watched.failures;
    watched.next = now + kRetry;
}

Result<void> Vigil::greet(Watched& watched) {
    const Bytes head = encoder_.encode({.request_id = 1, .epoch = 0, .body = wire::Hello{.client = name_}});
    const transport::Op op{.kind = transport::OpKind::Send, .signal = false, .head = head};
    const auto posted = watched.lane->post({&op, 1});
    if (!posted) return fail(posted.error());
    watched.asked = true;
    return {};
}

Result<void> Vigil::pump(Watched& watched) {
    receiving_ = &watched;
    while (true) {
        const auto received = watched.lane->receive(*this);
        if (!received) return fail(received.error());
        std::array<transport::Completion, 4> done;
        while (const std::size_t count = watched.lane->poll(done)) {
            for (const auto& completion : std::span(done).first(count)) {
                if (completion.error) return fail(*completion.error, "a greeting was not sent");
            }
        }
        if (*received == 0) return {};
    }
}

void Vigil::message(transport::Lane&, Bytes head, std::uint64_t) {
    const auto message = decoder_.decode(head);
    if (!message) return;
    const auto* welcome = std::get_if<wire::Welcome>(&message->body);
    if (welcome == nullptr) return;  // news of a view, say
    receiving_->asked = false;
    // Somebody else may have its address by now.
    if (welcome->node_id != receiving_->member.node_id) return;
    receiving_->answered = receiving_->was_there = true;
    receiving_->failures = 0;
}

Instant Vigil::next_deadline() const noexcept {
    Instant next = Instant::never();
    for (const auto& [node_id, watched] : watched_) {
        if (!watched.asked) next = std::min(next, watched.next);
    }
    return next;
}

void Vigil::lanes(std::vector<transport::Lane*>& into) const {
    for (const auto& [node_id, watched] : watched_) {
        if (watched.lane) into.push_back(watched.lane.get());
    }
}

}  // namespace cmpool::meta
