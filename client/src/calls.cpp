#include "calls.h"

#include <algorithm>

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

void Call::ask(std::uint64_t part, wire::Body body, std::span<const Bytes> payload) {
    ++outstanding_;
    const auto asked = session().ask(*this, part, std::move(body), payload);
    if (asked) return;
    note(asked.error());
    ended();
}

void Call::ended() {
    if (--outstanding_ == 0) finish();
}

bool Call::refresh_once() {
    if (refreshed_ || !session().refresh(*this)) return false;
    refreshed_ = true;
    ++outstanding_;
    return true;
}

Report ReportCall::take() {
    report_.trouble = std::move(trouble_);
    return std::move(report_);
}

// ---- exists, remove ----

void KeysCall::begin() {
    if (keys_.empty()) return end({});
    const std::uint32_t id = session().namespace_id();
    if (remove_) {
        ask(0, wire::Remove{id, keys_});
    } else {
        ask(0, wire::Exists{id, keys_});
    }
}

void KeysCall::answer(std::uint64_t, const wire::Body& answer) {
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    if (outcomes != nullptr && outcomes->outcomes.size() == keys_.size()) {
        for (std::size_t index = 0; index < keys_.size(); ++index) {
            const bool hit = outcomes->outcomes[index] == wire::Outcome::Ok;
            report_.blocks[index].outcome = hit ? Outcome::Hit : Outcome::Miss;
        }
    } else {
        note({Errc::Corrupt, "the pool answered something else"});
    }
    ended();
}

// ---- match ----

MatchCall::MatchCall(std::shared_ptr<Session> session, Instant deadline, std::span<const Digest> chain,
                     std::uint32_t lease_ms)
    : Call(std::move(session), deadline),
      chain_(chain),
      lease_ms_(lease_ms),
      state_(std::make_shared<Match::State>()) {}

void MatchCall::begin() {
    if (chain_.empty()) return end({});
    if (session().attachment() != nullptr) return match_mapped();
    ask(0, wire::Match{session().namespace_id(), chain_, lease_ms_});
}

// No message: look, pin, look again, and leave word of what was touched.
void MatchCall::match_mapped() {
    constexpr std::size_t kAhead = 8;
    Attachment& memory = *session().attachment();
    std::vector<Sighting> run;
    run.reserve(chain_.size());
    for (std::size_t index = 0; index < std::min(kAhead, chain_.size()); ++index)
        memory.prefetch(chain_[index]);
    for (std::size_t index = 0; index < chain_.size(); ++index) {
        if (index + kAhead < chain_.size()) memory.prefetch(chain_[index + kAhead]);
        const auto sighting = memory.probe(chain_[index]);
        if (!sighting) break;
        if (memory.extent(sighting->at).empty()) {
            if (refresh_once()) return;  // answer() comes back here
            break;
        }
        run.push_back(*sighting);
    }
    if (lease_ms_ > 0) {
        state_->pins = memory.pin(run);
        // Beyond the pins (there is a limit) a block counts if it is still there; a later miss is legal.
        std::size_t kept = state_->pins.size();
        while (kept < run.size() && memory.unchanged(run[kept])) ++kept;
        run.resize(kept);
    }
    memory.touch(run);
    memory.count_match(chain_.size(), run.size());
    state_->blocks = run.size();
    state_->digests.assign(chain_.begin(), chain_.begin() + static_cast<std::ptrdiff_t>(state_->pins.size()));
    state_->run = std::move(run);
    state_->attachment = session().attachment();
    if (!state_->pins.empty()) state_->attachment->lend(state_->lent());
    end({});
}

void MatchCall::answer(std::uint64_t, const wire::Body& answer) {
    --outstanding_;
    if (std::holds_alternative<wire::Attached>(answer)) return match_mapped();
    const auto* matched = std::get_if<wire::Matched>(&answer);
    if (matched == nullptr || matched->blocks > chain_.size()) {
        return end(Error{Errc::Corrupt, "the pool answered something else"});
    }
    state_->blocks = matched->blocks;
    state_->lease_id = matched->lease_id;
    state_->session = shared_session();
    end({});
}

Match MatchCall::take() {
    state_->trouble = std::move(trouble_);
    return Match(std::move(state_));
}

void Match::State::release() noexcept {
    if (attachment) {
        attachment->forget(lent());
        attachment->unpin(pins, run);
    }
    pins.clear();
    attachment.reset();
    if (const auto alive = session.lock(); alive && lease_id != 0) {
        const std::uint64_t ids[] = {lease_id};
        alive->tell(wire::Release{ids});
    }
    lease_id = 0;
}

Match::Match() = default;
Match::~Match() = default;
Match::Match(Match&&) noexcept = default;
Match& Match::operator=(Match&&) noexcept = default;
Match::Match(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

std::size_t Match::blocks() const noexcept { return state_ ? state_->blocks : 0; }

bool Match::leased() const noexcept {
    return state_ && state_->blocks > 0 && (state_->lease_id != 0 || state_->pins.size() == state_->blocks);
}

const std::optional<Error>& Match::trouble() const noexcept {
    static const std::optional<Error> none;
    return state_ ? state_->trouble : none;
}

void Match::release() noexcept {
    if (state_) state_->release();
}

Result<Bytes> Match::view(std::size_t index) const {
    if (index >= blocks()) return fail(Errc::Invalid, "expected a block below {}, saw {}", blocks(), index);
    if (state_->run.empty()) return fail(Errc::Unsupported, "the blocks are not in this host's memory");
    if (state_->attachment == nullptr || index >= state_->pins.size()) {
        return fail(Errc::LeaseLost, "block {} is not pinned", index);
    }
    const Bytes block = state_->attachment->extent(state_->run[index].at);
    const auto& header = *reinterpret_cast<const model::BlockHeader*>(block.data());
    if (header.digest != state_->digests[index] || header.length > block.size() - model::kHeaderBytes) {
        return fail(Errc::Corrupt, "block {} is not what the index says", index);
    }
    return block.subspan(model::kHeaderBytes, header.length);
}

// ---- stats, list ----

void InfoCall::begin() {
    if (auto* list = std::get_if<wire::List>(&question_)) list->namespace_id = session().namespace_id();
    ask(0, question_);
}

void InfoCall::answer(std::uint64_t, const wire::Body& answer) {
    if (const auto* stats = std::get_if<wire::Stats>(&answer)) {
        for (const auto& [name, value] : stats->stats) stats_.push_back({name, value});
    } else if (const auto* listed = std::get_if<wire::Listed>(&answer)) {
        for (const auto& block : listed->blocks) {
            listing_.blocks.push_back({block.digest, block.length, block.position, block.age_ms});
        }
        listing_.next_cursor = listed->next_cursor;
    } else {
        note({Errc::Corrupt, "the pool answered something else"});
    }
    ended();
}

Result<std::vector<Statistic>> InfoCall::take_stats() {
    if (trouble_) return fail(*trouble_);
    return std::move(stats_);
}

Result<Listing> InfoCall::take_listing() {
    if (trouble_) return fail(*trouble_);
    return std::move(listing_);
}

}  // namespace cmpool::client
