#include "calls.h"

#include <algorithm>
#include <array>

namespace cmpool::client {
namespace {

std::uint64_t checksum_of(const GetItem& item, std::uint64_t bytes) {
    model::ChecksumStream stream;
    for (const auto& piece : item.into) {
        const auto part = piece.first(std::min<std::uint64_t>(piece.size(), bytes));
        stream.update(part);
        bytes -= part.size();
    }
    return stream.digest();
}

/// Appends where so many bytes go. Returns for how many there is no room.
std::uint64_t place_plain(const GetItem& item, std::uint64_t bytes, std::vector<MutableBytes>& into) {
    for (const auto& piece : item.into) {
        const auto count = std::min<std::uint64_t>(piece.size(), bytes);
        if (count > 0) into.push_back(piece.first(count));
        bytes -= count;
    }
    return bytes;
}

/// 0, 1, 2 and so on: a batch that need not be divided.
constexpr auto kAllItems = [] {
    std::array<std::uint32_t, model::kBatchMax> all{};
    for (std::uint32_t index = 0; index < all.size(); ++index) all[index] = index;
    return all;
}();

}  // namespace

GetCall::GetCall(std::shared_ptr<Shards> shards, Instant deadline, std::span<const GetItem> items,
                 bool verify, std::shared_ptr<const Places> places)
    : ReportCall(std::move(shards), deadline, items.size()),
      items_(items),
      // What opens is right: there is nothing else to compare.
      verify_(verify && this->shards().sealer() == nullptr),
      places_(std::move(places)) {}

void GetCall::begin() {
    begun();
    if (shards().count() == 1) {
        begin_shard(0, std::span(kAllItems).first(items_.size()));
    } else {
        const Split wanted = split(
            [&](std::uint32_t index) { return shards().nearest(items_[index].group, items_[index].key); });
        for (std::uint32_t shard = 0; shard < wanted.size(); ++shard) begin_shard(shard, wanted[shard]);
    }
    ended();
}

void GetCall::begin_shard(std::uint32_t shard, std::span<const std::uint32_t> wanted) {
    if (wanted.empty()) return;
    if (const auto until = loads_later(shard)) {
        return park(shard, *until, [this, shard, items = std::vector(wanted.begin(), wanted.end())] {
            begin_shard(shard, items);
        });
    }
    if (shards()[shard].attachment() != nullptr) {
        get_mapped(shard, wanted);
    } else if (shards()[shard].reader().ready()) {
        get_by_reading(shard, wanted);
    } else {
        get_by_message(shard, wanted);
    }
}

// Another member may hold it: a replica, or the owner by a view that the answer has brought.
void GetCall::missed(std::uint32_t index, std::uint32_t shard) {
    shards().catch_up();
    if (!shards().cluster()) return;
    tried_.resize(items_.size());
    auto& tried = tried_[index];
    tried.push_back(shard);
    if (tried.size() >= kTriesMax) return;
    if (const auto next = shards().next(items_[index].group, items_[index].key, tried))
        again_[*next].push_back(index);
}

void GetCall::go_on() {
    while (!again_.empty()) {
        for (const auto& [shard, items] : std::exchange(again_, {})) begin_shard(shard, items);
    }
    if (nothing_asked()) get_lent_near();
    // What another has made good is no trouble.
    if (trouble_ && report_.count(Outcome::Hit) == items_.size()) trouble_.reset();
}

void GetCall::lost(std::uint64_t part, const Error& why) {
    note(why);
    const auto shard = static_cast<std::uint32_t>(part & ~kRefresh);
    if ((part & kRefresh) != 0) {
        for (const std::uint32_t index : std::exchange(unmapped_[shard], {})) missed(index, shard);
    } else {
        for (const std::uint32_t index : chunks_[part].items) missed(index, chunks_[part].shard);
    }
    ended();
}

void GetCall::landed(std::uint32_t index, std::uint32_t bytes, std::uint64_t checksum, bool sound) {
    if (verify_ && (!sound || checksum_of(items_[index], bytes) != checksum)) {
        return note({Errc::Corrupt, fmt::format("block {} of the batch does not have its checksum", index)});
    }
    report_.blocks[index] = {.outcome = Outcome::Hit, .bytes = bytes};
}

void GetCall::get_mapped(std::uint32_t shard, std::span<const std::uint32_t> wanted) {
    const auto& attachment = shards()[shard].attachment();
    if (attachment == nullptr) {  // gone while we asked for segments
        for (const std::uint32_t index : wanted) missed(index, shard);
        return;
    }
    Attachment& memory = *attachment;
    for (const std::uint32_t index : wanted) memory.prefetch(items_[index].key);
    thread_local std::vector<Sighting> seen;  // without a slot: not
    seen.clear();
    for (const std::uint32_t index : wanted)
        seen.push_back(memory.probe(items_[index].key).value_or(Sighting{}));
    if (!seen.empty() && seen.front().slot != nullptr) memory.prefetch(seen.front());
    std::vector<std::uint32_t> unmapped;
    std::vector<std::uint32_t> unseen;
    std::vector<std::uint32_t> broken;
    std::uint64_t stale = 0;
    std::uint64_t bytes = 0;
    std::size_t hits = 0;
    for (std::size_t at = 0; at < wanted.size(); ++at) {
        const std::uint32_t index = wanted[at];
        const GetItem& item = items_[index];
        const Sighting sighting = seen[at];
        if (at + 1 < seen.size() && seen[at + 1].slot != nullptr) memory.prefetch(seen[at + 1]);
        if (sighting.slot == nullptr) {
            unseen.push_back(index);
            continue;
        }
        if (memory.extent(sighting.at).empty()) {
            unmapped.push_back(index);
            continue;
        }
        const auto copied = memory.copy(item, sighting, verify_, shards().sealer());
        if (!copied) {
            ++stale;
            unseen.push_back(index);
            continue;
        }
        if (copied->outcome == Outcome::Miss) broken.push_back(index);
        if (!copied_out(index, *copied)) continue;
        seen[hits++] = sighting;
        bytes += copied->bytes;
    }
    const std::uint32_t lent_broken = get_lent(memory, unseen);
    memory.touch(std::span(seen).first(hits));
    const bool again = !unmapped.empty() && refresh_once(shard, kRefresh | shard);
    memory.count_get(hits, again ? 0 : wanted.size() - hits, bytes, stale);
    count_near(shard, wanted);
    shards().broken_seals(shard, lent_broken + static_cast<std::uint32_t>(broken.size()));
    unseen.insert(unseen.end(), broken.begin(), broken.end());
    for (const std::uint32_t index : unseen) {
        if (report_.blocks[index].outcome == Outcome::Miss) missed(index, shard);
    }
    if (!again) {
        for (const std::uint32_t index : unmapped) missed(index, shard);
        return;
    }
    unmapped_.resize(shards().count());
    unmapped_[shard] = std::move(unmapped);  // answer() comes back for them
}

// What a match of ours has pinned is there, even if the index has lost it.
std::uint32_t GetCall::get_lent(const Attachment& memory, std::span<const std::uint32_t> unseen) {
    if (unseen.empty()) return 0;
    std::uint32_t broken = 0;
    const auto lent = memory.lent();
    for (const std::uint32_t index : unseen) {
        const auto found = lent.find(items_[index].key);
        if (found == lent.end()) continue;
        const auto copied = memory.copy_pinned(items_[index], found->second, verify_, shards().sealer());
        if (copied) (void)copied_out(index, *copied);
        if (copied && copied->outcome == Outcome::Miss) ++broken;
    }
    return broken;
}

// A copy that a match of ours has pinned may have gone from the index meanwhile, and its owner has it no
// more.
void GetCall::get_lent_near() {
    std::vector<std::uint32_t> missing;
    for (std::uint32_t index = 0; index < items_.size() && shards().keeps_near(); ++index) {
        if (report_.blocks[index].outcome == Outcome::Miss) missing.push_back(index);
    }
    for (const std::uint32_t shard : shards().near_shards()) {
        const auto& memory = shards()[shard].attachment();
        if (memory != nullptr) shards().broken_seals(shard, get_lent(*memory, missing));
    }
}

// Of those that a shard of this host's member had.
void GetCall::count_near(std::uint32_t shard, std::span<const std::uint32_t> wanted) {
    const auto near = shards().near_shards();
    if (std::find(near.begin(), near.end(), shard) == near.end()) return;
    const auto hits = std::count_if(wanted.begin(), wanted.end(), [&](std::uint32_t index) {
        const GetItem& item = items_[index];
        return report_.blocks[index].outcome == Outcome::Hit && shards().near_shard(item.group, item.key);
    });
    if (hits > 0) shards()[shard].attachment()->count_near(static_cast<std::uint64_t>(hits));
}

void GetCall::came_from_afar(std::uint32_t index, std::uint64_t checksum) {
    const auto& block = report_.blocks[index];
    if (!shards().keeps_near() || block.outcome != Outcome::Hit || !items_[index].range.whole()) return;
    const GetItem& item = items_[index];
    from_afar_.push_back({item.key, item.group, item.into, block.bytes, checksum});
}

bool GetCall::copied_out(std::uint32_t index, const Attachment::Copied& copied) {
    if (copied.outcome == Outcome::Hit) {
        landed(index, copied.bytes, copied.checksum, copied.sound);
        return true;
    }
    report_.blocks[index] = {.outcome = copied.outcome, .bytes = copied.bytes};
    return false;
}

void GetCall::get_by_message(std::uint32_t shard, std::span<const std::uint32_t> wanted) {
    std::uint64_t chunk_bytes = 0;
    const std::size_t first = chunks_.size();
    for (const std::uint32_t index : wanted) {
        const std::uint64_t bytes = room(items_[index]);
        if (chunks_.size() == first || chunk_bytes + bytes > kGetChunkBytes ||
            chunks_.back().items.size() == model::kBatchMax) {
            chunks_.push_back({shard, {}});
            chunk_bytes = 0;
        }
        chunks_.back().items.push_back(index);
        chunk_bytes += bytes;
    }
    for (std::size_t part = first, all = chunks_.size(); part < all; ++part) ask_for(part);
}

void GetCall::ask_for(std::size_t part) {
    const auto& [shard, chunk, aside] = chunks_[part];
    const bool sealed = shards().sealer() != nullptr;
    thread_local std::vector<Digest> digests;
    thread_local std::vector<std::uint32_t> rooms;
    thread_local std::vector<ByteRange> ranges;
    digests.clear();
    rooms.clear();
    ranges.clear();
    bool whole = true;
    for (const std::uint32_t index : chunk) {
        digests.push_back(items_[index].key);
        const std::uint64_t most = sealed ? asked_room(index) : room(items_[index]);
        rooms.push_back(static_cast<std::uint32_t>(std::min<std::uint64_t>(most, UINT32_MAX)));
        ranges.push_back(sealed ? asked_range(index) : items_[index].range);
        whole = whole && ranges.back().whole();
    }
    if (whole) ranges.clear();
    if (ask(shard, part, wire::Get{shards()[shard].namespace_id(), digests, rooms, verify_, ranges})) return;
    for (const std::uint32_t index : chunk) missed(index, shard);
}

// Half of the time that is left is the read's: what it does not bring then is still asked for in time.
void GetCall::get_by_reading(std::uint32_t shard, std::span<const std::uint32_t> wanted) {
    Reader& reader = shards()[shard].reader();
    Sealer* const sealer = shards().sealer();
    std::vector<ReadItem> items;
    ReadPart read{{shard, {}}, {}, {}};
    std::vector<std::uint32_t> others;
    std::size_t aside_bytes = 0;
    const auto place_of = [&](const GetItem& item) -> const wire::Place* {
        if (verify_ && !item.range.whole()) return nullptr;  // a block's checksum says nothing of its parts
        const wire::Place* known = reader.places().find(item.key);
        return known == nullptr && places_ != nullptr ? places_->find(item.key) : known;
    };
    for (const std::uint32_t index : wanted) {
        const GetItem& item = items_[index];
        const wire::Place* place = place_of(item);
        const auto length = place == nullptr    ? std::nullopt
                            : sealer != nullptr ? plain_bytes(place->length)
                                                : std::optional(place->length);
        if (!length || items.size() == Reader::kBlocksAtOnce || !reader.may_reach(*place)) {
            others.push_back(index);
            continue;
        }
        const auto range = item.range.within(*length);
        if (!range) {
            report_.blocks[index] = {Outcome::Outside, *length};
            continue;
        }
        if (range->length > room(item)) {
            report_.blocks[index] = {Outcome::TooSmall, range->length};
            continue;
        }
        items.push_back({item.key, *place, *range, {}});
        if (sealer != nullptr) {
            read.cuts.push_back(item.range.whole() ? SealedCut::all(*length)
                                                   : SealedCut::of(*range, *length));
            items.back().range = read.cuts.back().stored();
            aside_bytes += read.cuts.back().aside_bytes();
        } else {
            place_plain(item, range->length, items.back().into);
        }
        read.chunk.items.push_back(index);
        read.lengths.push_back(range->length);
    }
    if (sealer != nullptr && !items.empty()) {
        read.chunk.aside = sealer->borrow(aside_bytes);
        MutableBytes aside = read.chunk.aside.first(aside_bytes);
        for (std::size_t at = 0; at < items.size(); ++at) {
            Sealer::land(read.cuts[at], items_[read.chunk.items[at]].into, aside, items[at].into);
            aside = aside.subspan(read.cuts[at].aside_bytes());
        }
    }
    if (!items.empty()) {
        const Instant now = shards().environment().clock->now();
        reads_.push_back(std::move(read));
        begun();
        if (!reader.read(*this, reads_.size() - 1, std::move(items), now + (deadline() - now) / 2)) {
            ended();
            const auto& unread = reads_.back().chunk.items;
            others.insert(others.end(), unread.begin(), unread.end());
        }
    }
    if (!others.empty()) get_by_message(shard, others);
}

void GetCall::read_done(std::uint64_t part, std::span<const std::optional<std::uint64_t>> checksums) {
    const auto& [chunk, lengths, cuts] = reads_[part];
    const std::uint32_t shard = chunk.shard;
    std::vector<std::uint32_t> gone;
    std::uint32_t broken = 0;
    std::byte* aside = chunk.aside.memory.get();
    for (std::size_t at = 0; at < chunk.items.size(); ++at) {
        const std::uint32_t index = chunk.items[at];
        bool opens = true;
        if (!cuts.empty()) {
            const MutableBytes its(aside, cuts[at].aside_bytes());
            aside += its.size();
            opens = checksums[at] &&
                    shards().sealer()->open(items_[index].key, cuts[at], items_[index].into, its);
            if (checksums[at] && !opens) ++broken;
        }
        if (checksums[at] && opens) {
            landed(index, lengths[at], *checksums[at]);
            came_from_afar(index, *checksums[at]);
        } else if (checksums[at]) {
            missed(index, shard);
        } else {
            gone.push_back(index);
        }
    }
    shards().broken_seals(shard, broken);
    // What has moved since the match may have come back elsewhere.
    if (!gone.empty()) get_by_message(shard, gone);
    ended();
}

void GetCall::read_lost(std::uint64_t part, const Error&) {
    const auto items = reads_[part].chunk.items;
    get_by_message(reads_[part].chunk.shard, items);
    ended();
}

void GetCall::place(std::uint64_t part, const wire::Body& answer, std::vector<MutableBytes>& into) {
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    const auto& chunk = chunks_[part].items;
    if (outcomes == nullptr || outcomes->outcomes.size() != chunk.size() || outcomes->lengths.empty()) return;
    if (shards().sealer() != nullptr) return place_sealed(chunks_[part], *outcomes, into);
    for (std::size_t at = 0; at < chunk.size(); ++at) {
        if (outcomes->outcomes[at] != wire::Outcome::Ok) continue;
        const std::uint64_t left = place_plain(items_[chunk[at]], outcomes->lengths[at], into);
        if (left > 0)
            into.push_back({static_cast<std::byte*>(nullptr), left});  // more than we said we could take
    }
}

void GetCall::answer(std::uint64_t part, const wire::Body& answer) {
    if (std::holds_alternative<wire::Attached>(answer)) {
        const auto shard = static_cast<std::uint32_t>(part & ~kRefresh);
        get_mapped(shard, std::exchange(unmapped_[shard], {}));
        return ended();
    }
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    const std::uint32_t shard = chunks_[part].shard;
    const auto& chunk = chunks_[part].items;
    if (outcomes == nullptr || outcomes->outcomes.size() != chunk.size() ||
        outcomes->lengths.size() != chunk.size() || outcomes->checksums.size() != chunk.size()) {
        note({Errc::Corrupt, "the pool answered something else"});
        return ended();
    }
    if (shards().sealer() != nullptr) {
        answer_sealed(part, *outcomes);
        return ended();
    }
    std::vector<std::uint32_t> later;
    for (std::size_t at = 0; at < chunk.size(); ++at) {
        const std::uint32_t index = chunk[at];
        const std::uint32_t length = outcomes->lengths[at];
        const auto outcome = outcomes->outcomes[at];
        const ByteRange& range = items_[index].range;
        const bool fits = length <= room(items_[index]) && (range.whole() || length == range.length);
        if (outcome == wire::Outcome::Ok && fits) {
            landed(index, length, outcomes->checksums[at]);
            came_from_afar(index, outcomes->checksums[at]);
        }
        if (outcome == wire::Outcome::TooSmall) report_.blocks[index] = {Outcome::TooSmall, length};
        if (outcome == wire::Outcome::Outside) report_.blocks[index] = {Outcome::Outside, length};
        if (outcome == wire::Outcome::Later) later.push_back(index);
        if (outcome == wire::Outcome::Miss) missed(index, shard);
    }
    // A whole answer of Later cannot be asked again for ever: it had room for one block at least.
    if (!later.empty() && later.size() < chunk.size()) get_by_message(shard, later);
    ended();
}

}  // namespace cmpool::client
