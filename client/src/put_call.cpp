#include "calls.h"

#include <algorithm>
#include <numeric>

namespace cmpool::client {
namespace {

std::uint64_t checksum_of(std::span<const Bytes> pieces) {
    if (pieces.size() == 1) return model::checksum(pieces.front());
    model::ChecksumStream stream;
    for (const auto& piece : pieces) stream.update(piece);
    return stream.digest();
}

}  // namespace

PutCall::PutCall(std::shared_ptr<Session> session, Instant deadline, std::span<const PutItem> items)
    : ReportCall(std::move(session), deadline, items.size()), items_(items) {
    for (auto& block : report_.blocks) block.outcome = Outcome::Dropped;
}

bool PutCall::accept(std::uint32_t index) {
    std::uint64_t length = 0;
    for (const auto& piece : items_[index].from) length += piece.size();
    lengths_.push_back(length);
    if (length > 0 && length <= model::kBlockBytesMax) return true;
    note({Errc::Invalid, fmt::format("expected a block from 1 byte to {}, saw {} bytes",
                                     format_bytes(model::kBlockBytesMax), length)});
    return false;
}

void PutCall::begin() {
    std::uint64_t total = 0;
    for (std::uint32_t index = 0; index < items_.size(); ++index) {
        if (!accept(index)) continue;
        accepted_.push_back(index);
        total += lengths_[index];
    }
    if (accepted_.empty()) return end({});
    if (session().can_pull() || total <= kPutUnaskedBytes) return queue(accepted_);
    // Large, and the bytes would travel: ask first what is there already.
    std::vector<Digest> keys;
    for (const std::uint32_t index : accepted_) keys.push_back(items_[index].key);
    ask(kWanted, wire::Exists{session().namespace_id(), keys});
}

void PutCall::over() noexcept {
    for (auto& chunk : chunks_) chunk.window.reset();
}

// Chains are put in the order given, so that parents come first.
void PutCall::queue(const std::vector<std::uint32_t>& wanted) {
    std::uint64_t bytes = kPutChunkBytes;
    const std::size_t first = chunks_.size();
    for (const std::uint32_t index : wanted) {
        if (bytes + lengths_[index] > kPutChunkBytes || chunks_.size() == first) {
            chunks_.emplace_back();
            bytes = 0;
        }
        chunks_.back().items.push_back(index);
        bytes += lengths_[index];
    }
    ++outstanding_;  // so that the call cannot end between two chunks
    send_next();
    ended();
}

void PutCall::send_next() {
    // One is counted for whoever called us.
    while (next_chunk_ < chunks_.size() && outstanding_ <= kPutsInFlight) {
        const std::uint64_t part = next_chunk_++;
        if (!session().can_pull() || !send_pulled(part)) send_payload(part);
    }
}

wire::PutItem PutCall::describe(std::uint32_t index) const {
    const PutItem& item = items_[index];
    return {.checksum = checksum_of(item.from),
            .group = item.group,
            .length = static_cast<std::uint32_t>(lengths_[index]),
            .position = item.position,
            .cost_us = item.cost_us,
            .digest = item.key,
            .parent = item.parent};
}

// The pool reads our memory: one copy, by its hand. Only for blocks that lie in one piece.
bool PutCall::send_pulled(std::uint64_t part) {
    Chunk& chunk = chunks_[part];
    const std::byte* begin = nullptr;
    const std::byte* end = nullptr;
    for (const std::uint32_t index : chunk.items) {
        if (items_[index].from.size() != 1) return false;
        const Bytes bytes = items_[index].from.front();
        begin = begin == nullptr ? bytes.data() : std::min(begin, bytes.data());
        end = std::max(end, bytes.data() + bytes.size());
    }
    auto window = session().window({begin, static_cast<std::size_t>(end - begin)});
    if (!window) return false;
    chunk.window = std::move(*window);
    const MutableBytes memory = chunk.window->bytes();
    std::vector<wire::PutItem> items;
    for (const std::uint32_t index : chunk.items) {
        items.push_back(describe(index));
        items.back().window_offset =
            static_cast<std::uint64_t>(items_[index].from.front().data() - memory.data());
    }
    wire::Put put{session().namespace_id(), items, {}};
    put.window.push_back({.bytes = memory.size(),
                          .token = chunk.window->token().value,
                          .descriptor = chunk.window->descriptor().bytes});
    ask(part, std::move(put));
    return true;
}

void PutCall::send_payload(std::uint64_t part) {
    std::vector<wire::PutItem> items;
    std::vector<Bytes> payload;
    for (const std::uint32_t index : chunks_[part].items) {
        items.push_back(describe(index));
        payload.insert(payload.end(), items_[index].from.begin(), items_[index].from.end());
    }
    ask(part, wire::Put{session().namespace_id(), items, {}}, payload);
}

void PutCall::stored(std::uint32_t index, wire::Outcome outcome) {
    auto& block = report_.blocks[index];
    block.bytes = static_cast<std::uint32_t>(lengths_[index]);
    if (outcome == wire::Outcome::Ok) block.outcome = Outcome::Stored;
    if (outcome == wire::Outcome::Present) block.outcome = Outcome::Present;
    if (outcome == wire::Outcome::Refused) {
        note({Errc::NoCapacity,
              "the pool refused a block: it is larger than a segment, all memory is in use, or its bytes "
              "changed on the way"});
    }
    if (outcome == wire::Outcome::Orphan) {
        note({Errc::NoCapacity, "the pool refused a block whose parent it does not hold, or holds no more"});
    }
}

void PutCall::answer(std::uint64_t part, const wire::Body& answer) {
    const auto* outcomes = std::get_if<wire::Outcomes>(&answer);
    const std::vector<std::uint32_t> asked = part == kWanted ? accepted_ : chunks_[part].items;
    if (outcomes == nullptr || outcomes->outcomes.size() != asked.size()) {
        note({Errc::Corrupt, "the pool answered something else"});
        return ended();
    }
    std::vector<std::uint32_t> again;
    for (std::size_t at = 0; at < asked.size(); ++at) {
        const wire::Outcome outcome = outcomes->outcomes[at];
        if (part == kWanted && outcome == wire::Outcome::Ok) {
            stored(asked[at], wire::Outcome::Present);
        } else if (part == kWanted || outcome == wire::Outcome::NoPull) {
            again.push_back(asked[at]);
        } else {
            stored(asked[at], outcome);
        }
    }
    if (part != kWanted) chunks_[part].window.reset();
    if (part != kWanted && !again.empty()) session().cannot_pull();
    if (!again.empty()) {
        queue(again);
    } else {
        send_next();
    }
    ended();
}

}  // namespace cmpool::client
