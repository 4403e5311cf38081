#include "calls.h"

#include <algorithm>
#include <utility>

namespace cmpool::client {

void Call::end(std::optional<Error> trouble) {
    if (done_) return;
    if (trouble) note(*trouble);
    finish();
}

void Call::finish() noexcept {
    done_ = true;
    over();
}

void Call::note(const Error& trouble) {
    if (!trouble_) trouble_ = trouble;
}

void Call::lost(std::uint64_t, const Error& why) {
    note(why);
    ended();
}

std::optional<std::uint64_t> Call::ask_numbered(std::uint32_t shard, std::uint64_t part, wire::Body body,
                                                std::span<const Bytes> payload) {
    Session& session = (*shards_)[shard];
    if (!session.ready() || session.hopeless()) {
        note(session.trouble().value_or(Error{Errc::PeerDown, "the pool does not answer"}));
        return std::nullopt;
    }
    const auto asked = session.ask(*this, part, std::move(body), payload);
    if (!asked) {
        note(asked.error());
        return std::nullopt;
    }
    begun();
    return *asked;
}

void Call::wake_at(Instant at) noexcept {
    if (!wakes_) begun();
    wakes_ = true;
    wakes_at_ = std::min(wakes_at_, at);
}

void Call::wait_for_room() noexcept {
    if (!wakes_) begun();
    wakes_ = true;
    wants_room_ = true;
}

void Call::wake() {
    wakes_at_ = Instant::never();
    wants_room_ = false;
    for (const auto& each : parked_) {
        if (each.until > Instant{}) wakes_at_ = std::min(wakes_at_, each.until);
    }
    if (!std::exchange(wakes_, false)) return;
    woken();
    ended();
}

void Call::ended() {
    if (--outstanding_ > 0) return;
    begun();  // what goes on may end at once
    go_on();
    if (--outstanding_ == 0 && !done_) finish();
}

bool Call::refresh_once(std::uint32_t shard, std::uint64_t part) {
    if (std::find(refreshed_.begin(), refreshed_.end(), shard) != refreshed_.end() ||
        !(*shards_)[shard].refresh(*this, part))
        return false;
    refreshed_.push_back(shard);
    begun();
    return true;
}

void Call::when_decided(std::uint32_t shard, std::function<void()> then) {
    if (!shards_->undecided(shard)) return then();
    park(shard, Instant{}, std::move(then));
}

std::optional<Instant> Call::loads_later(std::uint32_t shard) {
    if (shards_->cluster() && shards_->undecided(shard)) return Instant{};
    const Instant after = (*shards_)[shard].loads_after();
    if (after == Instant{} || after >= deadline_ || after <= shards_->environment().clock->now() ||
        std::find(paused_.begin(), paused_.end(), shard) != paused_.end())
        return std::nullopt;
    paused_.push_back(shard);
    ++shards_->held_back().loads_delayed;
    return after;
}

void Call::park(std::uint32_t shard, Instant until, std::function<void()> then) {
    begun();
    if (until > Instant{}) wakes_at_ = std::min(wakes_at_, until);
    parked_.push_back({shard, until, std::move(then)});
}

void Call::resume(Instant now) {
    for (std::size_t at = 0; at < parked_.size() && !done_;) {
        if (parked_[at].until > now || shards_->undecided(parked_[at].shard)) {
            ++at;
            continue;
        }
        const auto then = std::move(parked_[at].then);
        parked_.erase(parked_.begin() + static_cast<std::ptrdiff_t>(at));
        then();
        ended();
    }
}

Report ReportCall::take() {
    report_.trouble = std::move(trouble_);
    return std::move(report_);
}

// ---- exists, remove ----

// A key alone tells its shard where each block is a group of its own. Else it may lie on any.
void KeysCall::begin() {
    if (keys_.empty()) return end({});
    begun();
    asked_.resize(shards().count());
    for (std::uint32_t index = 0; index < keys_.size() && shards().spec().group_blocks <= 1; ++index) {
        Shards::Owners owners;
        for (const std::uint32_t shard : shards().owners(0, keys_[index], owners))
            asked_[shard].push_back(index);
        // Other hosts' copies end by themselves.
        if (const auto copy = shards().near_shard(0, keys_[index]); remove_ && copy)
            asked_[*copy].push_back(index);
    }
    for (std::uint32_t shard = 0; shard < asked_.size() && shards().spec().group_blocks > 1; ++shard) {
        if (!shards().in_use(shard)) continue;
        for (std::uint32_t index = 0; index < keys_.size(); ++index) asked_[shard].push_back(index);
    }
    for (std::uint32_t shard = 0; shard < asked_.size(); ++shard) {
        if (asked_[shard].empty()) continue;
        std::vector<Digest> keys;
        for (const std::uint32_t index : asked_[shard]) keys.push_back(keys_[index]);
        const std::uint32_t id = shards()[shard].namespace_id();
        if (remove_) {
            ask(shard, shard, wire::Remove{id, keys});
        } else {
            ask(shard, shard, wire::Exists{id, keys});
        }
    }
    ended();
}

void KeysCall::answer(std::uint64_t shard, const wire::Body& answer) {
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    const auto& asked = asked_[shard];
    if (outcomes != nullptr && outcomes->outcomes.size() == asked.size()) {
        for (std::size_t at = 0; at < asked.size(); ++at) {
            if (outcomes->outcomes[at] == wire::Outcome::Ok) report_.blocks[asked[at]].outcome = Outcome::Hit;
        }
    } else {
        note({Errc::Corrupt, "the pool answered something else"});
    }
    ended();
}

}  // namespace cmpool::client
