#include "calls.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace cmpool::client {
namespace {

std::uint64_t checksum_of(std::span<const Bytes> pieces) {
    if (pieces.size() == 1) return model::checksum(pieces.front());
    model::ChecksumStream stream;
    for (const auto& piece : pieces) stream.update(piece);
    return stream.digest();
}

}  // namespace

PutCall::PutCall(std::shared_ptr<Shards> shards, Instant deadline, std::span<const PutItem> items)
    : ReportCall(std::move(shards), deadline, items.size()), items_(items), measured_(items.size()) {
    for (auto& block : report_.blocks) block.outcome = Outcome::Dropped;
}

bool PutCall::accept(std::uint32_t index) {
    const PutItem& item = items_[index];
    std::uint64_t& length = measured_[index].length;
    for (const auto& piece : item.from) length += piece.size();
    const std::uint64_t most = shards().sealer() != nullptr ? kSealedPlainMax : model::kBlockBytesMax;
    if (length == 0 || length > most) {
        note({Errc::Invalid,
              fmt::format("expected a block from 1 byte to {}{}, saw {} bytes", format_bytes(most),
                          shards().sealer() != nullptr ? " (sealed)" : "", length)});
        return false;
    }
    // By its own key it would lie where its parent is not, and where nobody looks for it.
    if (item.group == 0 && item.position > 0 && shards().spec().group_blocks > 1) {
        note({Errc::Invalid, fmt::format("expected the group of the block at position {} of its chain, as "
                                         "model::group_key() gives it, saw none",
                                         item.position)});
        return false;
    }
    return true;
}

void PutCall::begin() {
    begun();
    epoch_ = shards().epoch();
    accepted_.resize(shards().count());
    for (std::uint32_t index = 0; index < items_.size(); ++index) {
        if (!accept(index)) {
            measured_[index].length = 0;
            continue;
        }
        Shards::Owners owners;
        for (const std::uint32_t shard : shards().owners(items_[index].group, items_[index].key, owners))
            accepted_[shard].push_back(index);
    }
    for (std::uint32_t shard = 0; shard < accepted_.size(); ++shard) begin_shard(shard, accepted_[shard]);
    ended();
}

// Owners by a view that the answers have brought get their copies too.
void PutCall::go_on() {
    shards().catch_up();
    if (!shards().cluster()) return;
    auto fresh = std::exchange(elsewhere_, {});
    accepted_.resize(std::max<std::size_t>(accepted_.size(), shards().count()));
    const bool moved = std::exchange(epoch_, shards().epoch()) != shards().epoch();
    for (std::uint32_t index = 0; moved && index < items_.size(); ++index) {
        if (measured_[index].length == 0) continue;
        Shards::Owners owners;
        for (const std::uint32_t shard : shards().owners(items_[index].group, items_[index].key, owners)) {
            if (std::ranges::find(accepted_[shard], index) == accepted_[shard].end())
                fresh[shard].push_back(index);
        }
    }
    for (const auto& [shard, items] : fresh) {
        accepted_[shard].insert(accepted_[shard].end(), items.begin(), items.end());
        begin_shard(shard, items);
    }
}

void PutCall::begin_shard(std::uint32_t shard, std::vector<std::uint32_t> items) {
    if (items.empty()) return;
    if (shards().cluster() && shards().undecided(shard)) {
        return when_decided(shard, [this, shard, items = std::move(items)] { begin_shard(shard, items); });
    }
    std::uint64_t total = 0;
    for (const std::uint32_t index : items) total += measured_[index].length;
    if (shards()[shard].can_pull() || total <= kPutUnaskedBytes) return queue(shard, items);
    // Large, and the bytes would travel: ask first what is there already.
    std::vector<Digest> keys;
    keys.reserve(items.size());
    for (const std::uint32_t index : items) keys.push_back(items_[index].key);
    asked_.push_back({shard, std::move(items)});
    const std::uint64_t part = kWanted | (asked_.size() - 1);
    const bool asked = ask(shard, part, wire::Exists{shards()[shard].namespace_id(), keys});
    if (asked && !shards()[shard].ordered()) hash_ahead(asked_.back().items);
}

// While the pool looks: most likely it wants them. Not more than its answer takes to come.
void PutCall::hash_ahead(std::span<const std::uint32_t> items) {
    if (shards().sealer() != nullptr) return;  // what is sealed is summed up as it is
    std::uint64_t left = kHashAheadBytes;
    for (const std::uint32_t index : items) {
        if (measured_[index].length > left) return;
        left -= measured_[index].length;
        measured_[index].checksum = checksum_of(items_[index].from);
    }
}

void PutCall::over() noexcept {
    for (auto& chunk : chunks_) {
        take_back(chunk);
        pull_ended(chunk);
    }
}

void PutCall::pull_ended(Chunk& chunk) noexcept {
    if (!std::exchange(chunk.pulled, false)) return;
    shards()[chunk.shard].pull_ended();
    shards().has_room();
}

// Chains are put in the order given, so that parents come first.
void PutCall::queue(std::uint32_t shard, std::span<const std::uint32_t> wanted) {
    std::uint64_t bytes = kPutChunkBytes;
    const std::size_t first = chunks_.size();
    for (const std::uint32_t index : wanted) {
        const std::uint64_t length = measured_[index].length;
        if (bytes + length > kPutChunkBytes || chunks_.size() == first) {
            chunks_.push_back({.shard = shard, .items = {}, .window = {}});
            bytes = 0;
        }
        chunks_.back().items.push_back(index);
        bytes += length;
    }
    begun();  // so that the call cannot end between two chunks
    send_next();
    ended();
}

void PutCall::send_next() {
    while (first_unsent_ < chunks_.size() && chunks_[first_unsent_].sent) ++first_unsent_;
    in_flight_.resize(std::max<std::size_t>(in_flight_.size(), shards().count()));
    for (std::size_t part = first_unsent_; part < chunks_.size(); ++part) {
        const std::uint32_t shard = chunks_[part].shard;
        if (chunks_[part].sent || in_flight_[shard] >= kPutsInFlight || holds_back(chunks_[part])) continue;
        Session& session = shards()[shard];
        const bool pulls = session.can_pull();
        if (pulls && session.pulls() >= kPullsMax) {
            wait_for_room();
            continue;
        }
        chunks_[part].sent = true;
        chunks_[part].pulled = pulls && send_pulled(part);
        if (chunks_[part].pulled) session.pull_begun();
        if (chunks_[part].pulled || send_payload(part)) ++in_flight_[shard];
    }
}

// Later, where the pool asks for a pause; not at all, where next to nothing of the call's time would be left.
bool PutCall::holds_back(Chunk& chunk) {
    const Instant now = shards().environment().clock->now();
    const Instant after = shards()[chunk.shard].stores_after();
    if (after <= now) return false;
    if (after < deadline() && deadline() - after >= (deadline() - now) / kShareAfterPause) {
        if (!std::exchange(chunk.delayed, true)) ++shards().held_back().stores_delayed;
        wake_at(after);
        return true;
    }
    chunk.sent = true;
    ++shards().held_back().stores_dropped;
    note({Errc::NoCapacity, "the pool is busy, and asks for a longer pause than this put has time"});
    return true;
}

wire::PutItem PutCall::describe_unsummed(std::uint32_t index) const {
    const PutItem& item = items_[index];
    return {.checksum = measured_[index].checksum.value_or(0),
            .group = item.group,
            .length = static_cast<std::uint32_t>(measured_[index].length),
            .position = item.position,
            .cost_us = item.cost_us,
            .digest = item.key,
            .parent = item.parent};
}

wire::PutItem PutCall::describe(std::uint32_t index) {
    auto& checksum = measured_[index].checksum;
    if (!checksum) checksum = checksum_of(items_[index].from);
    return describe_unsummed(index);
}

// The pool reads our memory: one copy, by its hand. Only for blocks that lie in one piece.
bool PutCall::send_pulled(std::uint64_t part) {
    Chunk& chunk = chunks_[part];
    if (shards().sealer() != nullptr) return send_sealed(part, true);
    const std::byte* begin = nullptr;
    const std::byte* end = nullptr;
    for (const std::uint32_t index : chunk.items) {
        if (items_[index].from.size() != 1) return false;
        const Bytes bytes = items_[index].from.front();
        begin = begin == nullptr ? bytes.data() : std::min(begin, bytes.data());
        end = std::max(end, bytes.data() + bytes.size());
    }
    if (!open_window(chunk, {begin, static_cast<std::size_t>(end - begin)})) return false;
    const MutableBytes memory = chunk.window->bytes();
    std::vector<wire::PutItem> items;
    for (const std::uint32_t index : chunk.items) {
        items.push_back(describe(index));
        items.back().window_offset =
            static_cast<std::uint64_t>(items_[index].from.front().data() - memory.data());
    }
    return ask_pull(part, items);
}

bool PutCall::open_window(Chunk& chunk, Bytes memory) {
    auto window = shards().windows().over(memory);
    if (window) chunk.window = std::move(*window);
    return window.has_value();
}

bool PutCall::ask_pull(std::uint64_t part, std::span<const wire::PutItem> items) {
    const Chunk& chunk = chunks_[part];
    wire::Put put{shards()[chunk.shard].namespace_id(), items, {}, false};
    put.window.push_back({.bytes = chunk.window->bytes().size(),
                          .token = chunk.window->token().value,
                          .descriptor = chunk.window->descriptor().bytes});
    return ask(chunk.shard, part, std::move(put));
}

// Into memory of our own, from where it goes to the pool in the one way or the other. Each owner of a block
// is given a sealing of its own.
bool PutCall::send_sealed(std::uint64_t part, bool pulled) {
    Chunk& chunk = chunks_[part];
    std::uint64_t bytes = 0;
    for (const std::uint32_t index : chunk.items) bytes += sealed_bytes(measured_[index].length);
    if (chunk.sealed.memory == nullptr) chunk.sealed = shards().sealer()->borrow(bytes);
    const MutableBytes all = chunk.sealed.first(bytes);
    if (pulled && !open_window(chunk, all)) return false;
    MutableBytes left = all;
    std::uint64_t offset = pulled ? static_cast<std::uint64_t>(all.data() - chunk.window->bytes().data()) : 0;
    std::vector<wire::PutItem> items;
    for (const std::uint32_t index : chunk.items) {
        const PutItem& item = items_[index];
        const MutableBytes block = left.first(sealed_bytes(measured_[index].length));
        left = left.subspan(block.size());
        items.push_back({.checksum = shards().sealer()->seal(item.key, item.from, block),
                         .group = item.group,
                         .length = static_cast<std::uint32_t>(block.size()),
                         .position = item.position,
                         .cost_us = item.cost_us,
                         .digest = item.key,
                         .parent = item.parent});
        items.back().window_offset = offset;
        offset += pulled ? block.size() : 0;
    }
    if (pulled) return ask_pull(part, items);
    const Bytes payload = all;
    return ask(chunk.shard, part, wire::Put{shards()[chunk.shard].namespace_id(), items, {}, false},
               {&payload, 1});
}

// The pool reads none of it any more.
void PutCall::take_back(Chunk& chunk) noexcept {
    chunk.window.reset();
    if (shards().sealer() != nullptr) shards().sealer()->give_back(std::exchange(chunk.sealed, {}));
}

bool PutCall::send_payload(std::uint64_t part) {
    if (shards().sealer() != nullptr) return send_sealed(part, false);
    std::vector<wire::PutItem> items;
    std::vector<Bytes> payload;
    const Chunk& chunk = chunks_[part];
    std::uint64_t unsummed = 0;
    for (const std::uint32_t index : chunk.items)
        unsummed += measured_[index].checksum ? 0 : measured_[index].length;
    const bool follow = unsummed >= kSumsFollowBytes && shards()[chunk.shard].ordered();
    for (const std::uint32_t index : chunk.items) {
        items.push_back(follow ? describe_unsummed(index) : describe(index));
        payload.insert(payload.end(), items_[index].from.begin(), items_[index].from.end());
    }
    const std::uint32_t id = shards()[chunk.shard].namespace_id();
    const auto asked = ask_numbered(chunk.shard, part, wire::Put{id, items, {}, follow}, payload);
    if (asked && follow) send_sums(part, *asked);
    return asked.has_value();
}

// The payload is on its way: between two slices more of it goes out, so that the pool has something to do.
void PutCall::send_sums(std::uint64_t part, std::uint64_t request_id) {
    const Chunk& chunk = chunks_[part];
    Session& session = shards()[chunk.shard];
    std::vector<std::uint64_t> sums;
    model::ChecksumStream stream;
    for (const std::uint32_t index : chunk.items) {
        auto& checksum = measured_[index].checksum;
        if (!checksum) {
            stream.reset();
            for (Bytes piece : items_[index].from) {
                while (!piece.empty()) {
                    const Bytes slice = piece.first(std::min<std::size_t>(piece.size(), kSumSliceBytes));
                    piece = piece.subspan(slice.size());
                    stream.update(slice);
                    session.push();
                }
            }
            checksum = stream.digest();
        }
        sums.push_back(*checksum);
    }
    session.tell_sums(request_id, sums);
}

void PutCall::stored(std::uint32_t index, wire::Outcome outcome) {
    auto& block = report_.blocks[index];
    block.bytes = static_cast<std::uint32_t>(measured_[index].length);
    if (outcome == wire::Outcome::Ok || outcome == wire::Outcome::Present) ++block.copies;
    if (outcome == wire::Outcome::Ok) block.outcome = Outcome::Stored;
    if (outcome == wire::Outcome::Present && block.outcome != Outcome::Stored)
        block.outcome = Outcome::Present;
    if (outcome == wire::Outcome::Refused) {
        note({Errc::NoCapacity,
              "the pool refused a block: it is larger than a segment, all memory is in use, or its bytes "
              "changed on the way"});
    }
    if (outcome == wire::Outcome::Orphan && !put_elsewhere(index)) {
        note({Errc::NoCapacity, "the pool refused a block whose parent it does not hold, or holds no more"});
    }
}

// Its parent has not been brought to the new owner yet: it lies where the one before drains, and whoever
// brings the one brings the other.
bool PutCall::put_elsewhere(std::uint32_t index) {
    std::vector<std::uint32_t> asked;
    for (std::uint32_t shard = 0; shard < accepted_.size(); ++shard) {
        if (std::ranges::find(accepted_[shard], index) != accepted_[shard].end()) asked.push_back(shard);
    }
    const auto next = shards().next(items_[index].group, items_[index].key, asked);
    if (next && std::ranges::find(elsewhere_[*next], index) == elsewhere_[*next].end())
        elsewhere_[*next].push_back(index);
    return next.has_value();
}

void PutCall::lost(std::uint64_t part, const Error& why) {
    if ((part & kWanted) == 0) {
        --in_flight_[chunks_[part].shard];
        pull_ended(chunks_[part]);
        take_back(chunks_[part]);
    }
    note(why);
    send_next();
    ended();
}

void PutCall::answer(std::uint64_t part, const wire::Body& answer) {
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    const bool wanted = (part & kWanted) != 0;
    const auto asked = wanted ? asked_[part & ~kWanted].items : chunks_[part].items;
    if (!wanted) {
        --in_flight_[chunks_[part].shard];
        pull_ended(chunks_[part]);
    }
    if (outcomes == nullptr || outcomes->outcomes.size() != asked.size()) {
        note({Errc::Corrupt, "the pool answered something else"});
    } else {
        answered(part, asked, *outcomes);
    }
    send_next();
    ended();
}

void PutCall::answered(std::uint64_t part, std::span<const std::uint32_t> asked,
                       const wire::Outcomes& outcomes) {
    const bool wanted = (part & kWanted) != 0;
    const std::uint32_t shard = wanted ? asked_[part & ~kWanted].shard : chunks_[part].shard;
    std::vector<std::uint32_t> again;
    for (std::size_t at = 0; at < asked.size(); ++at) {
        const wire::Outcome outcome = outcomes.outcomes[at];
        if (wanted && outcome == wire::Outcome::Ok) {
            stored(asked[at], wire::Outcome::Present);
        } else if (wanted || outcome == wire::Outcome::NoPull) {
            again.push_back(asked[at]);
        } else {
            stored(asked[at], outcome);
        }
    }
    if (!wanted) take_back(chunks_[part]);
    if (!wanted && !again.empty()) shards()[shard].cannot_pull();
    if (!again.empty()) queue(shard, again);
}

}  // namespace cmpool::client
