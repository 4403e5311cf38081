#include "index_writer.h"

#include <algorithm>

#include <cmpool/base/assert.h>

namespace cmpool::pool {

using model::kSlotsPerBucket;

std::uint64_t IndexWriter::table_bytes(unsigned bucket_bits) noexcept {
    return ((std::uint64_t{1} << bucket_bits) + 1) * sizeof(model::Bucket);
}

IndexWriter::IndexWriter(MutableBytes table, unsigned bucket_bits, std::uint64_t incarnation)
    : buckets_(reinterpret_cast<model::Bucket*>(table.data()), (std::uint64_t{1} << bucket_bits) + 1),
      bucket_bits_(bucket_bits),
      owners_(buckets_.size() * kSlotsPerBucket, kNoExtent),
      spilled_(owners_.size()),
      incarnation_(incarnation) {
    CMPOOL_ASSERT(table.size() >= table_bytes(bucket_bits));
}

model::Slot& IndexWriter::slot(std::uint64_t index) const noexcept {
    return buckets_[index / kSlotsPerBucket].slots[index % kSlotsPerBucket];
}

void IndexWriter::prefetch(std::uint64_t prefix) const noexcept {
    const std::uint64_t bucket = model::bucket_of(prefix, bucket_bits_);
    model::prefetch(buckets_[bucket]);
    __builtin_prefetch(&owners_[bucket * kSlotsPerBucket]);
}

ExtentId IndexWriter::find(std::uint64_t prefix) const noexcept {
    const auto found = model::find_slot(buckets_.data(), bucket_bits_, prefix);
    if (!found) return kNoExtent;
    const auto bucket = static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(found->slot) -
                                                   reinterpret_cast<const std::byte*>(buckets_.data())) /
                        sizeof(model::Bucket);
    return owners_[bucket * kSlotsPerBucket +
                   static_cast<std::uint64_t>(found->slot - buckets_[bucket].slots)];
}

ExtentId IndexWriter::at(std::uint64_t slot_index) const noexcept {
    return slot_index < owners_.size() ? owners_[slot_index] : kNoExtent;
}

std::uint64_t IndexWriter::free_slot(std::uint64_t bucket, unsigned& used) const noexcept {
    std::uint64_t free = kNoSlot;
    used = 0;
    for (unsigned place = 0; place < kSlotsPerBucket; ++place) {
        const std::uint64_t index = bucket * kSlotsPerBucket + place;
        if (owners_[index] != kNoExtent) {
            ++used;
        } else if (free == kNoSlot) {
            free = index;
        }
    }
    return free;
}

bool IndexWriter::insert(std::uint64_t prefix, const model::Location& at, ExtentId extent) noexcept {
    const std::uint64_t home = model::bucket_of(prefix, bucket_bits_);
    unsigned home_used = 0;
    unsigned next_used = 0;
    const std::uint64_t home_slot = free_slot(home, home_used);
    const std::uint64_t next_slot = free_slot(home + 1, next_used);
    const bool spill = home_slot == kNoSlot || (next_slot != kNoSlot && next_used + 1 < home_used);
    const std::uint64_t index = spill ? next_slot : home_slot;
    if (index == kNoSlot) return false;

    // Only now: a bucket that nothing ever lay in costs no memory.
    buckets_[index / kSlotsPerBucket].identity = incarnation_ << 32 | index / kSlotsPerBucket;
    owners_[index] = extent;
    spilled_[index] = spill;
    const model::Slot value = model::encode_slot(prefix, at);
    // The spill count first, so that a reader who sees the entry also looks for it.
    if (spill) model::store_release(buckets_[home].spill, buckets_[home].spill + 1);
    model::store_release(slot(index).tag_word, value.tag_word);
    model::store_release(slot(index).location_word, value.location_word);
    ++entries_;
    return true;
}

std::uint64_t IndexWriter::slot_of(std::uint64_t prefix, ExtentId extent) const noexcept {
    const std::uint64_t first = model::bucket_of(prefix, bucket_bits_) * kSlotsPerBucket;
    for (std::uint64_t index = first; index < first + 2 * kSlotsPerBucket; ++index) {
        if (owners_[index] == extent) return index;
    }
    return kNoSlot;
}

std::optional<IndexWriter::Shown> IndexWriter::shown(std::uint64_t prefix, ExtentId extent) const noexcept {
    const std::uint64_t index = slot_of(prefix, extent);
    if (index == kNoSlot) return std::nullopt;
    return Shown{index, model::load_slot(slot(index))};
}

bool IndexWriter::shows(std::uint64_t prefix, const model::Location& at, ExtentId extent) const noexcept {
    const std::uint64_t index = slot_of(prefix, extent);
    if (index == kNoSlot || model::load_slot(slot(index)) != model::encode_slot(prefix, at)) return false;
    return !spilled_[index] || buckets_[index / kSlotsPerBucket - 1].spill != 0;
}

void IndexWriter::erase(std::uint64_t prefix, ExtentId extent) noexcept {
    std::uint64_t index = slot_of(prefix, extent);
    // A flipped bit in the header makes the prefix a wrong one: then the whole table is searched.
    if (index == kNoSlot) {
        index =
            static_cast<std::uint64_t>(std::find(owners_.begin(), owners_.end(), extent) - owners_.begin());
    }
    CMPOOL_ASSERT(index < owners_.size());
    model::store_release(slot(index).location_word, 0);
    model::store_release(slot(index).tag_word, 0);
    owners_[index] = kNoExtent;
    if (spilled_[index]) {
        model::Bucket& home = buckets_[index / kSlotsPerBucket - 1];
        model::store_release(home.spill, home.spill - 1);
    }
    --entries_;
}

std::vector<ExtentId> IndexWriter::neighbours(std::uint64_t prefix) const {
    const std::uint64_t first = model::bucket_of(prefix, bucket_bits_) * kSlotsPerBucket;
    std::vector<ExtentId> found;
    for (std::uint64_t index = first; index < first + 2 * kSlotsPerBucket; ++index) {
        if (owners_[index] != kNoExtent) found.push_back(owners_[index]);
    }
    return found;
}

}  // namespace cmpool::pool
