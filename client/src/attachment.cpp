#include "attachment.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include <cmpool/base/units.h>

namespace cmpool::client {

using model::kHeaderBytes;
using model::kUnitBytes;

namespace {

/// Of a block, what is loaded ahead: a small one whole; of a large one the processor sees by itself how it
/// goes on.
constexpr std::size_t kAheadBytes = 4 * KiB + kHeaderBytes;

}  // namespace

Attachment::Attachment(std::unique_ptr<transport::RemoteSegment> index, MutableBytes index_bytes,
                       unsigned bucket_bits, std::unique_ptr<transport::RemoteSegment> control,
                       MutableBytes control_bytes, std::uint64_t segment_bytes, std::uint64_t pin_bytes_max)
    : index_(std::move(index)),
      control_(std::move(control)),
      buckets_(reinterpret_cast<const model::Bucket*>(index_bytes.data())),
      bucket_bits_(bucket_bits),
      page_(*reinterpret_cast<model::ControlPage*>(control_bytes.data())),
      segment_bytes_(segment_bytes),
      pin_bytes_left_(pin_bytes_max) {}

void Attachment::add_segment(std::size_t index, std::unique_ptr<transport::RemoteSegment> segment,
                             Bytes bytes) {
    if (index >= data_.size()) data_.resize(index + 1);
    // What is mapped stays where it is: somebody may look at it.
    if (data_[index].segment == nullptr) data_[index] = {std::move(segment), bytes};
}

std::optional<Sighting> Attachment::probe(const model::Digest& digest) const noexcept {
    const auto found = model::find_slot(buckets_, bucket_bits_, digest.prefix());
    if (!found) return std::nullopt;
    return Sighting{found->slot, found->seen, found->at};
}

void Attachment::prefetch(const model::Digest& digest) const noexcept {
    model::prefetch(buckets_[model::bucket_of(digest.prefix(), bucket_bits_)]);
}

void Attachment::prefetch(const Sighting& sighting) const noexcept {
    const Bytes block = extent(sighting.at);
    for (std::size_t at = 0; at < std::min(kAheadBytes, block.size()); at += kUnitBytes)
        __builtin_prefetch(block.data() + at);
}

Bytes Attachment::extent(const model::Location& at) const noexcept {
    const std::uint64_t offset = at.offset_units * kUnitBytes;
    const std::uint64_t length = at.units * kUnitBytes;
    const std::uint64_t index = offset / segment_bytes_;
    const std::uint64_t within = offset % segment_bytes_;
    if (index >= data_.size() || length < kHeaderBytes || within + length > data_[index].bytes.size())
        return {};
    return data_[index].bytes.subspan(within, length);
}

bool Attachment::unchanged(const Sighting& sighting) const noexcept {
    return model::load_slot(*sighting.slot) == sighting.seen;
}

// The bytes may be overwritten while we copy them: what we copied is looked at only once the slot
// has proved that they were not.
std::optional<Attachment::Copied> Attachment::copy(const GetItem& item, const Sighting& sighting, bool verify,
                                                   Sealer* sealer) const noexcept {
    const auto copied = copy_pinned(item, sighting, verify, sealer);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!unchanged(sighting)) return std::nullopt;
    return copied;
}

std::optional<Attachment::Copied> Attachment::copy_pinned(const GetItem& item, const Sighting& sighting,
                                                          bool verify, Sealer* sealer) const noexcept {
    const Bytes block = extent(sighting.at);
    if (block.empty()) return std::nullopt;
    model::BlockHeader header;
    std::memcpy(static_cast<void*>(&header), block.data(), sizeof header);
    if (header.digest != item.key || header.length > block.size() - kHeaderBytes) return std::nullopt;
    const Bytes payload = block.subspan(kHeaderBytes, header.length);
    if (sealer != nullptr) return open(item, payload, *sealer);
    const auto range = item.range.within(header.length);
    if (!range) return Copied{Outcome::Outside, header.length, 0};
    Bytes rest = payload.subspan(range->offset, range->length);
    Copied copied{Outcome::Hit, range->length, header.payload_checksum};
    if (verify && !item.range.whole()) {
        copied.sound = model::checksum(payload) == header.payload_checksum;
        copied.checksum = model::checksum(rest);
    }
    for (const MutableBytes piece : item.into) {
        const std::size_t count = std::min(piece.size(), rest.size());
        if (count > 0) std::memcpy(piece.data(), rest.data(), count);
        rest = rest.subspan(count);
    }
    if (!rest.empty()) copied.outcome = Outcome::TooSmall;
    return copied;
}

Attachment::Copied Attachment::open(const GetItem& item, Bytes payload, Sealer& sealer) noexcept {
    const auto plain = plain_bytes(payload.size());
    if (!plain) return {Outcome::Miss, 0, 0};
    const auto range = item.range.within(*plain);
    if (!range) return {Outcome::Outside, *plain, 0};
    if (range->length > room(item)) return {Outcome::TooSmall, range->length, 0};
    const auto cut = item.range.whole() ? SealedCut::all(*plain) : SealedCut::of(*range, *plain);
    const auto [offset, bytes] = cut.stored();
    const bool opened = sealer.open_from(payload.subspan(offset, bytes), item.key, cut, item.into);
    return {opened ? Outcome::Hit : Outcome::Miss, range->length, 0};
}

std::vector<std::uint32_t> Attachment::pin(std::span<const Sighting> run) {
    std::vector<std::uint32_t> pins;
    pins.reserve(run.size());
    for (const auto& sighting : run) {
        const std::uint64_t bytes = sighting.at.units * kUnitBytes;
        if (bytes > pin_bytes_left_ || (free_pins_.empty() && pins_used_ == model::kPinsMax)) break;
        pin_bytes_left_ -= bytes;
        if (free_pins_.empty()) free_pins_.push_back(pins_used_++);
        pins.push_back(free_pins_.back());
        free_pins_.pop_back();
        model::store_release(page_.pins[pins.back()], model::pin_word(sighting.at));
    }
    model::store_release(page_.pins_end, pins_used_);
    // We publish pins and then look at the slots; the server clears a slot and then looks at the pins.
    // With a full fence on both sides, one of us sees the other.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    std::size_t kept = 0;
    while (kept < pins.size() && unchanged(run[kept])) ++kept;
    unpin(std::span(pins).subspan(kept), run.subspan(kept));
    pins.resize(kept);
    return pins;
}

void Attachment::unpin(std::span<const std::uint32_t> pins, std::span<const Sighting> run) noexcept {
    for (std::size_t index = 0; index < pins.size(); ++index) {
        model::store_release(page_.pins[pins[index]], 0);
        free_pins_.push_back(pins[index]);
        pin_bytes_left_ += run[index].at.units * kUnitBytes;
    }
}

void Attachment::forget(const Lent& lent) noexcept {
    std::erase_if(lent_, [&](const Lent& each) { return each.run.data() == lent.run.data(); });
}

std::unordered_map<model::Digest, Sighting> Attachment::lent() const {
    std::unordered_map<model::Digest, Sighting> all;
    for (const auto& [digests, run] : lent_) {
        for (std::size_t index = 0; index < run.size(); ++index) all.emplace(digests[index], run[index]);
    }
    return all;
}

void Attachment::touch(std::span<const Sighting> run) noexcept {
    const std::uint64_t tail = model::load_acquire(page_.touch_tail);
    for (std::size_t left = run.size(); left > 0; --left) {
        if (touch_head_ - tail >= model::kTouchRingSlots) break;  // full: the rest goes untold
        const auto& sighting = run[left - 1];
        const auto bytes =
            reinterpret_cast<const std::byte*>(sighting.slot) - reinterpret_cast<const std::byte*>(buckets_);
        const std::uint64_t bucket = static_cast<std::uint64_t>(bytes) / sizeof(model::Bucket);
        const auto place = static_cast<std::uint64_t>(sighting.slot - buckets_[bucket].slots);
        const std::uint64_t word =
            model::touch_word(bucket * model::kSlotsPerBucket + place, sighting.at.generation);
        model::store_release(page_.touches[touch_head_++ % model::kTouchRingSlots], word);
    }
    model::store_release(page_.touch_head, touch_head_);
}

namespace {

// Only this client writes the counters: a plain sum, stored so that the server may read it.
void add(std::uint64_t& counter, std::uint64_t count) noexcept {
    model::store_release(counter, counter + count);
}

}  // namespace

void Attachment::count_match(std::uint64_t asked, std::uint64_t hit) noexcept {
    add(page_.counts.match_calls, 1);
    add(page_.counts.match_blocks_asked, asked);
    add(page_.counts.match_blocks_hit, hit);
}

void Attachment::count_get(std::uint64_t hits, std::uint64_t misses, std::uint64_t bytes,
                           std::uint64_t stale) noexcept {
    add(page_.counts.get_hits, hits);
    add(page_.counts.get_misses, misses);
    add(page_.counts.get_bytes, bytes);
    add(page_.counts.stale_reads, stale);
}

void Attachment::count_near(std::uint64_t hits) noexcept { add(page_.counts.near_hits, hits); }

void Attachment::count_broken(std::uint64_t blocks) noexcept { add(page_.counts.broken_seals, blocks); }

}  // namespace cmpool::client
