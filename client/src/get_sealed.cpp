// Gets of a sealed namespace: what the pool is asked for are chunks, and they open where they have landed.
#include "calls.h"

#include <algorithm>

namespace cmpool::client {

ByteRange GetCall::asked_range(std::uint32_t index) const {
    const ByteRange& range = items_[index].range;
    if (range.whole()) return range;
    const auto known = plain_.find(index);
    return SealedCut::of(range, known == plain_.end() ? std::nullopt : std::optional(known->second)).stored();
}

std::uint64_t GetCall::asked_room(std::uint32_t index) const {
    const std::uint64_t plain = room(items_[index]);
    const ByteRange& range = items_[index].range;
    if (range.whole()) return sealed_bytes(plain);
    return range.length <= plain ? asked_range(index).length : 0;
}

// Nothing where so many bytes cannot be what was asked for.
std::optional<SealedCut> GetCall::cut_of(std::uint32_t index, std::uint32_t stored) const {
    const ByteRange& range = items_[index].range;
    if (range.whole()) {
        const auto plain = plain_bytes(stored);
        if (!plain || *plain > room(items_[index])) return std::nullopt;
        return SealedCut::all(*plain);
    }
    const auto known = plain_.find(index);
    const auto cut =
        SealedCut::of(range, known == plain_.end() ? std::nullopt : std::optional(known->second));
    if (cut.stored().length != stored || range.length > room(items_[index])) return std::nullopt;
    return cut;
}

void GetCall::place_sealed(Chunk& chunk, const wire::Outcomes& outcomes, std::vector<MutableBytes>& into) {
    std::size_t aside_bytes = 0;
    const auto each = [&](const auto& then) {
        for (std::size_t at = 0; at < chunk.items.size(); ++at) {
            if (outcomes.outcomes[at] == wire::Outcome::Ok)
                then(chunk.items[at], outcomes.lengths[at], cut_of(chunk.items[at], outcomes.lengths[at]));
        }
    };
    each([&](std::uint32_t, std::uint32_t, const auto& cut) { aside_bytes += cut ? cut->aside_bytes() : 0; });
    chunk.aside = shards().sealer()->borrow(aside_bytes);
    MutableBytes aside = chunk.aside.first(aside_bytes);
    each([&](std::uint32_t index, std::uint32_t length, const auto& cut) {
        if (!cut) return into.push_back({static_cast<std::byte*>(nullptr), length});
        Sealer::land(*cut, items_[index].into, aside, into);
        aside = aside.subspan(cut->aside_bytes());
    });
}

void GetCall::answer_sealed(std::size_t part, const wire::Outcomes& outcomes) {
    const std::uint32_t shard = chunks_[part].shard;
    const std::vector<std::uint32_t> items = chunks_[part].items;
    std::byte* next = chunks_[part].aside.memory.get();
    std::vector<std::uint32_t> later;
    std::vector<std::uint32_t> clipped;
    std::uint32_t broken = 0;
    for (std::size_t at = 0; at < items.size(); ++at) {
        const std::uint32_t index = items[at];
        const ByteRange& range = items_[index].range;
        const auto plain = plain_bytes(outcomes.lengths[at]);
        const auto outcome = outcomes.outcomes[at];
        if (outcome == wire::Outcome::Ok) {
            const auto cut = cut_of(index, outcomes.lengths[at]);
            const bool landed_aside = cut && next != nullptr;
            const MutableBytes its(next, landed_aside ? cut->aside_bytes() : 0);
            next += its.size();
            if (landed_aside && shards().sealer()->open(items_[index].key, *cut, items_[index].into, its)) {
                landed(index, cut->length, 0);
                came_from_afar(index, 0);
            } else {
                ++broken;
                missed(index, shard);
            }
        }
        if (outcome == wire::Outcome::TooSmall)
            report_.blocks[index] = {Outcome::TooSmall, range.whole() ? plain.value_or(0) : range.length};
        // The block's last chunk is shorter than the one that we took it for: now we know.
        const bool ends_in_it = outcome == wire::Outcome::Outside && plain && range.within(*plain) &&
                                plain_.emplace(index, *plain).second;
        if (ends_in_it) clipped.push_back(index);
        if (outcome == wire::Outcome::Outside && !ends_in_it)
            report_.blocks[index] = {Outcome::Outside, plain.value_or(0)};
        if (outcome == wire::Outcome::Later) later.push_back(index);
        if (outcome == wire::Outcome::Miss) missed(index, shard);
    }
    shards().sealer()->give_back(std::move(chunks_[part].aside));
    shards().broken_seals(shard, broken);
    if (!clipped.empty()) get_by_message(shard, clipped);
    if (!later.empty() && later.size() < items.size()) get_by_message(shard, later);
}

void GetCall::over() noexcept {
    // Who is late already does nothing for others.
    if (!from_afar_.empty() && !trouble_) shards().near_keeper().keep(from_afar_);
    if (shards().sealer() == nullptr) return;
    for (auto& chunk : chunks_) shards().sealer()->give_back(std::move(chunk.aside));
    for (auto& read : reads_) shards().sealer()->give_back(std::move(read.chunk.aside));
}

}  // namespace cmpool::client
