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
    state_->sealed = this->shards().sealer() != nullptr;
}

void MatchCall::begin() {
    auto& parts = state_->parts;
    parts.resize(shards().count());
    if (parts.size() == 1 && state_->parts_each == 1) {
        parts.front().digests.assign(chain_.begin(), chain_.end());
    } else {
        for (std::uint32_t shard = 0; shard < parts.size(); ++shard) parts[shard].shard = shard;
        for (std::uint32_t at = 0; at < chain_.size(); ++at) add(at);
    }
    begun();
    for (std::size_t part = 0, all = parts.size(); part < all; ++part) {
        if (!parts[part].digests.empty()) begin_part(part);
    }
    ended();
}

// All parts of a block lie where its group does.
void MatchCall::add(std::uint32_t at) {
    auto& state = *state_;
    const std::uint64_t group = model::group_key(chain_, at, shards().spec().group_blocks);
    const auto shard = shards().of(group, chain_[at]);
    if (shards().keeps_near() && add_near(at, shard, group)) return;
    auto& digests = state.parts[shard].digests;
    for (std::uint32_t part = 0; part < state.parts_each; ++part) {
        if (state.parts.size() > 1)
            state.places.push_back({shard, static_cast<std::uint32_t>(digests.size())});
        digests.push_back(part_of(at, part));
    }
}

// Copies on this host are runs of their own, so that what has gone meanwhile is asked of its owner. They
// stand behind the shards' runs.
bool MatchCall::add_near(std::uint32_t at, std::uint32_t owner, std::uint64_t group) {
    auto& state = *state_;
    std::optional<std::uint32_t> shard;
    for (std::uint32_t part = 0; part < state.parts_each; ++part) {
        shard = shards().near_copy(owner, group, part_of(at, part));
        if (!shard) return false;
    }
    std::size_t number = shards().count();
    while (number < state.parts.size() && state.parts[number].shard != *shard) ++number;
    if (number == state.parts.size()) {
        state.parts.emplace_back();
        state.parts.back().shard = *shard;
    }
    auto& digests = state.parts[number].digests;
    for (std::uint32_t part = 0; part < state.parts_each; ++part) {
        state.places.push_back(
            {static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(digests.size())});
        digests.push_back(part_of(at, part));
    }
    return true;
}

Digest MatchCall::part_of(std::uint32_t at, std::uint32_t part) const {
    const std::uint32_t each = state_->parts_each;
    return each == 1 ? chain_[at] : model::part_digest(chain_[at], part, each);
}

void MatchCall::begin_part(std::size_t part) {
    const std::uint32_t shard = state_->parts[part].shard;
    if (const auto until = loads_later(shard)) return park(shard, *until, [this, part] { begin_part(part); });
    Session& session = shards()[shard];
    if (session.attachment() != nullptr) return match_mapped(part);
    ask(shard, part,
        wire::Match{session.namespace_id(), state_->parts[part].digests, lease_ms_,
                    session.reader().ready()});
}

// What lies in this host's memory is found at once, so one round may follow another.
void MatchCall::go_on() {
    while (nothing_asked() && ask_on()) {
    }
}

// Where the run ends another member may go on: a replica, or the owner by a view that an answer brought.
// False where nobody else is to be asked.
bool MatchCall::ask_on() {
    shards().catch_up();
    auto& parts = state_->parts;
    auto& places = state_->places;
    const std::uint32_t each = state_->parts_each;
    const std::size_t end = run() / each;
    if (end == chain_.size()) trouble_.reset();
    if (!shards().cluster() || end == chain_.size()) return false;
    if (places.empty()) {
        for (std::uint32_t entry = 0; entry < chain_.size() * each; ++entry) places.push_back({0, entry});
    }
    const std::uint32_t ended_part = places[end * each].part;
    auto tried = parts[ended_part].tried;
    tried.push_back(parts[ended_part].shard);
    if (tried.size() >= kTriesMax) return false;
    const std::uint32_t group_blocks = shards().spec().group_blocks;
    std::map<std::uint32_t, std::vector<std::uint32_t>> again;
    for (auto at = static_cast<std::uint32_t>(end); at < chain_.size(); ++at) {
        if (places[at * each].part != ended_part) continue;
        const auto next = shards().next(model::group_key(chain_, at, group_blocks), chain_[at], tried);
        if (!next && at == end) return false;  // what comes behind it is of no use
        // Where the run has ended nobody has looked what comes behind: groups that lie nowhere else are
        // there.
        again[next.value_or(parts[ended_part].shard)].push_back(at);
    }
    const std::size_t first = parts.size();
    for (const auto& [shard, blocks_there] : again) {
        Match::State::Part there;
        there.shard = shard;
        there.tried = shard == parts[ended_part].shard ? parts[ended_part].tried : tried;
        for (const std::uint32_t at : blocks_there) {
            for (std::uint32_t part = 0; part < each; ++part) {
                places[at * each + part] = {static_cast<std::uint32_t>(parts.size()),
                                            static_cast<std::uint32_t>(there.digests.size())};
                there.digests.push_back(part_of(at, part));
            }
        }
        parts.push_back(std::move(there));
    }
    for (std::size_t part = first, all = parts.size(); part < all; ++part) begin_part(part);
    return true;
}

// Entries, from the first on, that are there.
std::size_t MatchCall::run() const noexcept {
    const auto& state = *state_;
    const std::size_t all = chain_.size() * state.parts_each;
    std::size_t entries = 0;
    while (entries < all) {
        const auto place = state.place(entries);
        if (place.part >= state.parts.size() || place.at >= state.parts[place.part].blocks) break;
        ++entries;
    }
    return entries;
}

// No message: look, pin, look again, and leave word of what was touched.
void MatchCall::match_mapped(std::size_t number) {
    constexpr std::size_t kAhead = 8;
    auto& part = state_->parts[number];
    const std::uint32_t shard = part.shard;
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
            if (refresh_once(shard, number)) return;  // answer() comes back here
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

void MatchCall::answer(std::uint64_t number, const wire::Body& answer) {
    auto& part = state_->parts[number];
    if (std::holds_alternative<wire::Attached>(answer)) {
        match_mapped(number);
    } else if (const auto* matched = std::get_if<wire::Matched>(&answer);
               matched != nullptr && matched->blocks <= part.digests.size()) {
        part.blocks = matched->blocks;
        part.lease_id = matched->lease_id;
        part.session = shards().weak(part.shard);
        part.places.assign(matched->places.begin(), matched->places.end());
        shards()[part.shard].reader().places().learn(part.digests, part.places);
    } else {
        note({Errc::Corrupt, "the pool answered something else"});
    }
    ended();
}

// The run ends where the first shard's ends; what others have found beyond it nobody can use.
void MatchCall::over() noexcept {
    auto& state = *state_;
    // A block some of whose parts are missing is of no use.
    state.blocks = run() / state.parts_each;
    std::vector<std::size_t> used(state.parts.size());
    for (std::size_t entry = 0; entry < state.blocks * state.parts_each; ++entry)
        ++used[state.place(entry).part];
    state.leased = state.blocks > 0;
    for (std::size_t number = 0; number < state.parts.size(); ++number) {
        auto& part = state.parts[number];
        part.keep(used[number]);
        if (used[number] > 0 && part.lease_id == 0 && part.pins.size() < used[number]) state.leased = false;
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
    if (const auto alive = session.lock()) {
        alive->reader().places().forget(std::span(digests).first(places.size()));
        if (lease_id != 0) alive->give_back(lease_id);
    }
    lease_id = 0;
    places.clear();
}

void Match::State::release() noexcept {
    for (auto& part : parts) part.release();
}

Match::Match() = default;
Match::~Match() = default;
Match::Match(Match&&) noexcept = default;
Match& Match::operator=(Match&&) noexcept = default;
Match::Match(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

std::shared_ptr<const Places> Match::places() const {
    std::shared_ptr<Places> all;
    if (!state_) return all;
    for (const auto& part : state_->parts) {
        if (part.places.empty()) continue;
        if (all == nullptr) all = std::make_shared<Places>();
        all->learn(part.digests, part.places);
    }
    return all;
}

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
    const auto [number, at] = state_->place(index * state_->parts_each + part_index);
    const auto& part = state_->parts[number];
    if (state_->sealed)
        return fail(Errc::Unsupported, "the blocks are sealed: a get opens them into memory of the caller's");
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
