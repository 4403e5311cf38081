#include "calls.h"

#include <algorithm>
#include <numeric>

namespace cmpool::client {
namespace {

std::uint64_t room(const GetItem& item) {
    std::uint64_t bytes = 0;
    for (const auto& piece : item.into) bytes += piece.size();
    return bytes;
}

std::uint64_t checksum_of(const GetItem& item, std::uint64_t bytes) {
    model::ChecksumStream stream;
    for (const auto& piece : item.into) {
        const auto part = piece.first(std::min<std::uint64_t>(piece.size(), bytes));
        stream.update(part);
        bytes -= part.size();
    }
    return stream.digest();
}

}  // namespace

GetCall::GetCall(std::shared_ptr<Session> session, Instant deadline, std::span<const GetItem> items,
                 bool verify)
    : ReportCall(std::move(session), deadline, items.size()), items_(items), verify_(verify) {}

void GetCall::begin() {
    std::vector<std::uint32_t> all(items_.size());
    std::iota(all.begin(), all.end(), 0u);
    if (all.empty()) return end({});
    if (session().attachment() != nullptr) return get_mapped(all);
    get_by_message(all);
}

void GetCall::landed(std::uint32_t index, std::uint32_t bytes, std::uint64_t checksum) {
    if (verify_ && checksum_of(items_[index], bytes) != checksum) {
        return note({Errc::Corrupt, fmt::format("block {} of the batch does not have its checksum", index)});
    }
    report_.blocks[index] = {.outcome = Outcome::Hit, .bytes = bytes};
}

void GetCall::get_mapped(const std::vector<std::uint32_t>& wanted) {
    Attachment& memory = *session().attachment();
    std::vector<Sighting> touched;
    std::vector<std::uint32_t> unmapped;
    std::uint64_t stale = 0;
    std::uint64_t bytes = 0;
    std::vector<std::uint32_t> unseen;
    for (const std::uint32_t index : wanted) {
        const GetItem& item = items_[index];
        const auto sighting = memory.probe(item.key);
        if (!sighting) {
            unseen.push_back(index);
            continue;
        }
        if (memory.extent(sighting->at).empty()) {
            unmapped.push_back(index);
            continue;
        }
        const auto copied = memory.copy(item.key, *sighting, item.into);
        if (!copied) {
            ++stale;
            unseen.push_back(index);
            continue;
        }
        if (!copied_out(index, *copied)) continue;
        touched.push_back(*sighting);
        bytes += copied->bytes;
    }
    get_lent(unseen);
    memory.touch(touched);
    unmapped_ = std::move(unmapped);
    if (!unmapped_.empty() && refresh_once()) {
        memory.count_get(touched.size(), 0, bytes, stale);
        return;  // answer() comes back for the rest
    }
    memory.count_get(touched.size(), wanted.size() - touched.size(), bytes, stale);
    end({});
}

// What a match of ours has pinned is there, even if the index has lost it.
void GetCall::get_lent(const std::vector<std::uint32_t>& unseen) {
    if (unseen.empty()) return;
    const Attachment& memory = *session().attachment();
    const auto lent = memory.lent();
    for (const std::uint32_t index : unseen) {
        const auto found = lent.find(items_[index].key);
        if (found == lent.end()) continue;
        const auto copied = memory.copy_pinned(items_[index].key, found->second, items_[index].into);
        if (copied) (void)copied_out(index, *copied);
    }
}

bool GetCall::copied_out(std::uint32_t index, const Attachment::Copied& copied) {
    if (copied.outcome == Outcome::Hit) {
        landed(index, copied.bytes, copied.checksum);
        return true;
    }
    report_.blocks[index] = {.outcome = copied.outcome, .bytes = copied.bytes};
    return false;
}

void GetCall::get_by_message(const std::vector<std::uint32_t>& wanted) {
    std::uint64_t chunk_bytes = 0;
    const std::size_t first = chunks_.size();
    for (const std::uint32_t index : wanted) {
        const std::uint64_t bytes = room(items_[index]);
        if (chunks_.size() == first || chunk_bytes + bytes > kGetChunkBytes ||
            chunks_.back().size() == model::kBatchMax) {
            chunks_.emplace_back();
            chunk_bytes = 0;
        }
        chunks_.back().push_back(index);
        chunk_bytes += bytes;
    }
    outstanding_ += chunks_.size() - first;  // so that the call cannot end between two of them
    for (std::size_t part = first; part < chunks_.size(); ++part) {
        std::vector<Digest> digests;
        std::vector<std::uint32_t> rooms;
        for (const std::uint32_t index : chunks_[part]) {
            digests.push_back(items_[index].key);
            rooms.push_back(
                static_cast<std::uint32_t>(std::min<std::uint64_t>(room(items_[index]), UINT32_MAX)));
        }
        ask(part, wire::Get{session().namespace_id(), digests, rooms, verify_});
        ended();
    }
}

void GetCall::place(std::uint64_t part, const wire::Body& answer, std::vector<MutableBytes>& into) {
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    const auto& chunk = chunks_[part];
    if (outcomes == nullptr || outcomes->outcomes.size() != chunk.size() || outcomes->lengths.empty()) return;
    for (std::size_t at = 0; at < chunk.size(); ++at) {
        if (outcomes->outcomes[at] != wire::Outcome::Ok) continue;
        std::uint64_t left = outcomes->lengths[at];
        for (const auto& piece : items_[chunk[at]].into) {
            const auto count = std::min<std::uint64_t>(piece.size(), left);
            if (count > 0) into.push_back(piece.first(count));
            left -= count;
        }
        if (left > 0)
            into.push_back({static_cast<std::byte*>(nullptr), left});  // more than we said we could take
    }
}

void GetCall::answer(std::uint64_t part, const wire::Body& answer) {
    if (std::holds_alternative<wire::Attached>(answer)) {
        --outstanding_;
        return get_mapped(std::exchange(unmapped_, {}));
    }
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    const auto chunk = chunks_[part];
    if (outcomes == nullptr || outcomes->outcomes.size() != chunk.size() ||
        outcomes->lengths.size() != chunk.size() || outcomes->checksums.size() != chunk.size()) {
        note({Errc::Corrupt, "the pool answered something else"});
        return ended();
    }
    std::vector<std::uint32_t> later;
    for (std::size_t at = 0; at < chunk.size(); ++at) {
        const std::uint32_t index = chunk[at];
        const std::uint32_t length = outcomes->lengths[at];
        const auto outcome = outcomes->outcomes[at];
        const bool fits = length <= room(items_[index]);
        if (outcome == wire::Outcome::Ok && fits) landed(index, length, outcomes->checksums[at]);
        if (outcome == wire::Outcome::TooSmall) report_.blocks[index] = {Outcome::TooSmall, length};
        if (outcome == wire::Outcome::Later) later.push_back(index);
    }
    // A whole answer of Later cannot be asked again for ever: it had room for one block at least.
    if (!later.empty() && later.size() < chunk.size()) get_by_message(later);
    ended();
}

}  // namespace cmpool::client
