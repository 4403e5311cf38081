#include "calls.h"

#include <algorithm>

namespace cmpool::client {

MatchCall::MatchCall(std::shared_ptr<Shards> shards, Instant deadline, std::span<const Digest> chain,
                     std::uint32_t lease_ms, std::uint32_t parts)
    : Call(std::move(shards), deadline),
      chain_(chain),
      lease_ms_(lease_ms),
      state_(std::make_shared<Match::State>()) {
    state_->parts_each = parts;
}

void MatchCall::begin() {
    auto& parts = state_->parts;
    parts.resize(shards().count());
    if (parts.size() == 1 && state_->parts_each == 1) {
        parts.front().digests.assign(chain_.begin(), chain_.end());
    } else {
        for (std::uint32_t at = 0; at < chain_.size(); ++at) add(at);
    }
    begun();
    for (std::uint32_t shard = 0; shard < parts.size(); ++shard) {
        if (parts[shard].digests.empty()) continue;
        Session& session = shards()[shard];
        if (session.attachment() != nullptr) {
            match_mapped(shard);
        } else {
            ask(shard, shard, wire::Match{session.namespace_id(), parts[shard].digests, lease_ms_});
        }
    }
    ended();
}

// All parts of a block lie where its group does.
void MatchCall::add(std::uint32_t at) {
    auto& state = *state_;
    const auto shard = shards().of(model::group_key(chain_, at, shards().spec().group_blocks), chain_[at]);
    auto& digests = state.parts[shard].digests;
    for (std::uint32_t part = 0; part < state.parts_each; ++part) {
        if (state.parts.size() > 1)
            state.places.push_back({shard, static_cast<std::uint32_t>(digests.size())});
        digests.push_back(state.parts_each == 1 ? chain_[at]
                                                : model::part_digest(chain_[at], part, state.parts_each));
    }
}

// No message: look, pin, look again, and leave word of what was touched.
void MatchCall::match_mapped(std::uint32_t shard) {
    constexpr std::size_t kAhead = 8;
    auto& part = state_->parts[shard];
    const auto& chain = part.digests;
    if (shards()[shard].attachment() == nullptr) return;  // gone while we asked for segments
    Attachment& memory = *shards()[shard].attachment();
    std::vector<Sighting> run;
    run.reserve(chain.size());
    for (std::size_t index = 0; index < std::min(kAhead, chain.size()); ++index)
        memory.prefetch(chain[index]);
    for (std::size_t index = 0; index < chain.size(); ++index) {
        if (index + kAhead < chain.size()) memory.prefetch(chain[index + kAhead]);
        const auto sighting = memory.probe(chain[index]);
        if (!sighting) break;
        if (memory.extent(sighting->at).empty()) {
            if (refresh_once(shard)) return;  // answer() comes back here
            break;
        }
        run.push_back(*sighting);
    }
    if (lease_ms_ > 0) {
        part.pins = memory.pin(run);
        // Beyond the pins (there is a limit) a block counts if it is still there; a later miss is legal.
        std::size_t kept = part.pins.size();
        while (kept < run.size() && memory.unchanged(run[kept])) ++kept;
        run.resize(kept);
    }
    memory.touch(run);
    memory.count_match(chain.size(), run.size());
    part.blocks = run.size();
    part.run = std::move(run);
    part.attachment = shards()[shard].attachment();
}

void MatchCall::answer(std::uint64_t shard, const wire::Body& answer) {
    auto& part = state_->parts[shard];
    if (std::holds_alternative<wire::Attached>(answer)) {
        match_mapped(static_cast<std::uint32_t>(shard));
    } else if (const auto* matched = std::get_if<wire::Matched>(&answer);
               matched != nullptr && matched->blocks <= part.digests.size()) {
        part.blocks = matched->blocks;
        part.lease_id = matched->lease_id;
        part.session = shards().weak(static_cast<std::uint32_t>(shard));
    } else {
        note({Errc::Corrupt, "the pool answered something else"});
    }
    ended();
}

// The run ends where the first shard's ends; what others have found beyond it nobody can use.
void MatchCall::over() noexcept {
    auto& state = *state_;
    const std::size_t all = chain_.size() * state.parts_each;
    std::size_t run = 0;
    for (; run < all; ++run) {
        const auto place = state.place(run);
        if (place.shard >= state.parts.size() || place.at >= state.parts[place.shard].blocks) break;
    }
    // A block some of whose parts are missing is of no use.
    state.blocks = run / state.parts_each;
    std::vector<std::size_t> used(state.parts.size());
    for (std::size_t entry = 0; entry < state.blocks * state.parts_each; ++entry)
        ++used[state.place(entry).shard];
    state.leased = state.blocks > 0;
    for (std::size_t shard = 0; shard < state.parts.size(); ++shard) {
        auto& part = state.parts[shard];
        part.keep(used[shard]);
        if (used[shard] > 0 && part.lease_id == 0 && part.pins.size() < used[shard]) state.leased = false;
    }
}

Match MatchCall::take() {
    state_->trouble = std::move(trouble_);
    return Match(std::move(state_));
}

Match::State::Place Match::State::place(std::size_t entry) const noexcept {
    return places.empty() ? Place{0, static_cast<std::uint32_t>(entry)} : places[entry];
}

void Match::State::Part::keep(std::size_t count) {
    if (count == 0) return release();
    blocks = count;
    if (attachment == nullptr) return;
    if (pins.size() > count) {
        attachment->unpin(std::span(pins).subspan(count), std::span(run).subspan(count));
        pins.resize(count);
    }
    run.resize(count);
    if (!pins.empty()) attachment->lend(lent());
}

void Match::State::Part::release() noexcept {
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

void Match::State::release() noexcept {
    for (auto& part : parts) part.release();
}

Match::Match() = default;
Match::~Match() = default;
Match::Match(Match&&) noexcept = default;
Match& Match::operator=(Match&&) noexcept = default;
Match::Match(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

std::size_t Match::blocks() const noexcept { return state_ ? state_->blocks : 0; }

bool Match::leased() const noexcept { return state_ && state_->leased; }

const std::optional<Error>& Match::trouble() const noexcept {
    static const std::optional<Error> none;
    return state_ ? state_->trouble : none;
}

void Match::release() noexcept {
    if (state_) state_->release();
}

Result<Bytes> Match::view(std::size_t index, std::uint32_t part_index) const {
    if (index >= blocks()) return fail(Errc::Invalid, "expected a block below {}, saw {}", blocks(), index);
    if (part_index >= state_->parts_each)
        return fail(Errc::Invalid, "expected a part below {}, saw {}", state_->parts_each, part_index);
    const auto [shard, at] = state_->place(index * state_->parts_each + part_index);
    const auto& part = state_->parts[shard];
    if (part.run.empty()) return fail(Errc::Unsupported, "the blocks are not in this host's memory");
    if (part.attachment == nullptr || at >= part.pins.size()) {
        return fail(Errc::LeaseLost, "block {} is not pinned", index);
    }
    const Bytes block = part.attachment->extent(part.run[at].at);
    const auto& header = *reinterpret_cast<const model::BlockHeader*>(block.data());
    if (header.digest != part.digests[at] || header.length > block.size() - model::kHeaderBytes) {
        return fail(Errc::Corrupt, "block {} is not what the index says", index);
    }
    return block.subspan(model::kHeaderBytes, header.length);
}

}  // namespace cmpool::client
