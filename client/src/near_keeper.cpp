#include "near_keeper.h"

#include "calls.h"
#include "shards.h"

#include <algorithm>
#include <cstring>

namespace cmpool::client {

// What begins a chain or a group has the key that places it; where each block is a group of its own that says
// nothing.
bool NearKeeper::wanted(const Read& read, Instant now) {
    const bool begins = read.group == 0 || read.group == read.key.prefix();
    if (begins && shards_.spec().group_blocks > 1) return true;
    if (seen_.empty()) seen_.resize(kNearSeenBlocks);
    Seen& seen = seen_[read.key.prefix() % seen_.size()];
    const Seen before = std::exchange(seen, {read.key.prefix(), now});
    return before.key == seen.key && now - before.at <= kNearSeenFor;
}

std::uint64_t NearKeeper::stored_bytes(const Read& read) const noexcept {
    return shards_.sealer() != nullptr ? sealed_bytes(read.length) : read.length;
}

void NearKeeper::keep(std::span<const Read> reads) {
    const Instant now = shards_.environment().clock->now();
    if (now < rests_until_) return;
    allowance_.refill(now);
    std::map<std::uint32_t, std::vector<const Read*>> by_shard;
    std::uint64_t bytes = bytes_;
    for (const Read& read : reads) {
        const auto shard = shards_.near_shard(read.group, read.key);
        if (!shard || !wanted(read, now)) continue;
        if (bytes + stored_bytes(read) > kNearAtOnceBytes || allowance_.left() <= 0) continue;
        bytes += stored_bytes(read);
        allowance_.spend(stored_bytes(read));
        by_shard[*shard].push_back(&read);
    }
    for (const auto& [shard, some] : by_shard) bring(shard, some, now);
}

void NearKeeper::bring(std::uint32_t shard, std::span<const Read* const> reads, Instant now) {
    const Session& session = shards_[shard];
    const bool busy =
        std::ranges::any_of(batches_, [&](const auto& each) { return each.second.shard == shard; });
    if (busy || !session.ready() || session.hopeless() || session.stores_after() > now) return;
    Batch batch{.shard = shard, .bytes = 0, .memory = nullptr, .window = nullptr, .until = now + kNearWithin};
    for (const Read* read : reads) batch.bytes += stored_bytes(*read);
    batch.memory = std::make_unique_for_overwrite<std::byte[]>(batch.bytes);
    std::vector<wire::PutItem> items;
    MutableBytes left(batch.memory.get(), batch.bytes);
    for (const Read* read : reads) {
        const MutableBytes block = left.first(stored_bytes(*read));
        left = left.subspan(block.size());
        std::vector<Bytes> from;
        std::uint64_t rest = read->length;
        for (const MutableBytes piece : read->into) {
            from.emplace_back(piece.first(std::min<std::uint64_t>(piece.size(), rest)));
            rest -= from.back().size();
        }
        items.push_back({.checksum = read->checksum,
                         .group = read->group,
                         .window_offset = static_cast<std::uint64_t>(block.data() - batch.memory.get()),
                         .length = static_cast<std::uint32_t>(block.size()),
                         .digest = read->key});
        if (shards_.sealer() != nullptr) {
            items.back().checksum = shards_.sealer()->seal(read->key, from, block);
            continue;
        }
        std::byte* to = block.data();
        for (const Bytes piece : from) to = std::ranges::copy(piece, to).out;
    }
    const std::uint64_t part = next_part_++;
    if (!send(part, batch, items)) return;
    bytes_ += batch.bytes;
    batches_.emplace(part, std::move(batch));
}

bool NearKeeper::send(std::uint64_t part, Batch& batch, std::span<wire::PutItem> items) {
    Session& session = shards_[batch.shard];
    const Bytes memory(batch.memory.get(), batch.bytes);
    wire::Put put{.namespace_id = session.namespace_id(), .items = items, .window = {}, .near = true};
    if (!session.can_pull()) return session.ask(*this, part, std::move(put), {&memory, 1}).has_value();
    if (session.pulls() >= kPullsMax) return false;
    auto window = shards_.windows().over(memory);
    if (!window) return false;
    batch.window = std::move(*window);
    const auto before = static_cast<std::uint64_t>(memory.data() - batch.window->bytes().data());
    for (auto& item : items) item.window_offset += before;
    put.window.push_back({.bytes = batch.window->bytes().size(),
                          .token = batch.window->token().value,
                          .descriptor = batch.window->descriptor().bytes});
    batch.pulled = session.ask(*this, part, std::move(put)).has_value();
    if (batch.pulled) session.pull_begun();
    return batch.pulled;
}

void NearKeeper::end(std::uint64_t part) noexcept {
    const auto found = batches_.find(part);
    if (found == batches_.end()) return;
    const Batch& batch = found->second;
    if (batch.pulled) {
        shards_[batch.shard].pull_ended();
        shards_.has_room();
    }
    bytes_ -= batch.bytes;
    batches_.erase(found);
}

void NearKeeper::answer(std::uint64_t part, const wire::Body& answer) {
    const auto batch = batches_.find(part);
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    if (batch != batches_.end() && outcomes != nullptr) {
        const auto any = [&](wire::Outcome which) {
            return std::ranges::find(outcomes->outcomes, which) != outcomes->outcomes.end();
        };
        if (any(wire::Outcome::NoPull)) shards_[batch->second.shard].cannot_pull();
        if (any(wire::Outcome::Ok)) {
            rest_.reset();
        } else if (any(wire::Outcome::Refused)) {
            rests_until_ = shards_.environment().clock->now() + rest_.next();
        }
    }
    end(part);
}

void NearKeeper::lost(std::uint64_t part, const Error&) {
    rests_until_ = shards_.environment().clock->now() + rest_.next();
    end(part);
}

// What the server reads of it from now on is not what was announced, and so is never kept.
void NearKeeper::progress() {
    if (batches_.empty()) return;
    const Instant now = shards_.environment().clock->now();
    while (!batches_.empty() && batches_.begin()->second.until <= now) {
        const auto [part, shard] = std::pair(batches_.begin()->first, batches_.begin()->second.shard);
        shards_[shard].forget_requests(*this);
        lost(part, {Errc::Deadline, "a copy was not taken in time"});
    }
}

Instant NearKeeper::next_deadline() const noexcept {
    return batches_.empty() ? Instant::never() : batches_.begin()->second.until;
}

}  // namespace cmpool::client
