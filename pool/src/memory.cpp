#include "memory.h"

#include "exposed_segment.h"

#include <algorithm>
#include <bit>

#include <cmpool/base/units.h>

namespace cmpool::pool {
namespace {

constexpr std::uint64_t kSegmentBytesMin = 1 * MiB;
constexpr std::uint64_t kSegmentBytesMax = 256 * MiB;
/// What a slot of the index can count.
constexpr std::uint64_t kExtentBytesMax = model::kUnitBytes << model::kUnitsBits;
constexpr std::uint64_t kDomainBytesMax = model::kUnitBytes << model::kOffsetBits;
/// A pool full of blocks of this size fills at most five eighths of the index's slots: then about one
/// insert in a hundred finds both of its buckets full. Pages of it that no entry touches cost nothing.
constexpr std::uint64_t kIndexedBlockBytes = 4 * KiB;
constexpr unsigned kBucketBitsMin = 6;

unsigned bucket_bits_for(std::uint64_t capacity_bytes) {
    const std::uint64_t slots = capacity_bytes / kIndexedBlockBytes * 8 / 5;
    const auto bits = static_cast<unsigned>(std::bit_width(slots / model::kSlotsPerBucket));
    return std::clamp(bits, kBucketBitsMin, model::kBucketBitsMax);
}

}  // namespace

Result<std::unique_ptr<Memory>> Memory::create(const ServerConfig& config, const Clock& clock,
                                               transport::Fabric& fabric, std::uint64_t incarnation) {
    if (config.capacity_bytes < kCapacityMin) {
        return fail(Errc::Invalid, "expected a capacity of at least {}, saw {}", format_bytes(kCapacityMin),
                    format_bytes(config.capacity_bytes));
    }
    if (config.capacity_bytes > kDomainBytesMax || config.segment_bytes >= kExtentBytesMax) {
        return fail(Errc::Invalid, "expected a capacity up to {} in segments below {}, saw {} and {}",
                    format_bytes(kDomainBytesMax), format_bytes(kExtentBytesMax),
                    format_bytes(config.capacity_bytes), format_bytes(config.segment_bytes));
    }
    const std::uint64_t wanted =
        config.segment_bytes != 0 ? config.segment_bytes
                                  : std::clamp(config.capacity_bytes / 8, kSegmentBytesMin, kSegmentBytesMax);
    std::unique_ptr<Memory> memory(new Memory(clock, fabric, config.one_sided, incarnation));
    memory->segment_bytes_ = round_up(wanted, kSegmentBytesMin);
    memory->segments_total_ = config.capacity_bytes / memory->segment_bytes_;
    if (memory->segments_total_ == 0) {
        return fail(Errc::Invalid, "expected segments no larger than the capacity {}, saw {}",
                    format_bytes(config.capacity_bytes), format_bytes(memory->segment_bytes_));
    }
    memory->bucket_bits_ = bucket_bits_for(memory->capacity_bytes());
    while (memory->ready_.size() < memory->segments_total_) {
        auto segment = memory->allocate(memory->segment_bytes_, config.prefault, "data");
        if (!segment) return fail(segment.error());
        memory->ready_.push_back(std::move(*segment));
    }
    return memory;
}

Result<std::unique_ptr<transport::Segment>> Memory::allocate(std::uint64_t bytes, bool prefault,
                                                             const char* name) {
    auto own = fabric_.allocate(
        {.bytes = bytes, .access = transport::Access::Read, .prefault = prefault, .name = name});
    if (!own) return fail(own.error());
    std::unique_ptr<transport::Segment> read;
    if (one_sided_ != nullptr) {
        auto known = one_sided_->register_memory((*own)->bytes(), transport::Access::Read);
        if (!known) return fail(known.error());
        read = std::move(*known);
    }
    return std::make_unique<ExposedSegment>(std::move(*own), std::move(read));
}

std::uint64_t Memory::block_bytes_max() const noexcept {
    return std::min(model::kBlockBytesMax, segment_bytes_ - model::kHeaderBytes);
}

Result<DomainStore*> Memory::domain(std::uint32_t domain_id) {
    auto& store = domains_[domain_id];
    if (store == nullptr) {
        auto index = allocate(IndexWriter::table_bytes(bucket_bits_), false, "index");
        if (!index) {
            domains_.erase(domain_id);
            return fail(index.error());
        }
        store = std::make_unique<DomainStore>(std::move(*index), bucket_bits_, segment_bytes_, incarnation_,
                                              clock_);
    }
    return store.get();
}

DomainStore* Memory::richest() const {
    DomainStore* most = nullptr;
    for (const auto& [id, store] : domains_) {
        if (most == nullptr || store->segment_count() > most->segment_count()) most = store.get();
    }
    return most;
}

// A ready segment, or, for a domain that has clearly less than the richest, one of the richest's.
bool Memory::grow(DomainStore& store) {
    if (ready_.empty()) {
        DomainStore* rich = richest();
        if (rich->segment_count() < store.segment_count() + 2) return false;
        auto given_up = rich->give_up_segment();
        if (given_up == nullptr) return false;
        // Whoever mapped the old memory keeps seeing it until it is punched; so it is never given to
        // another tenant, a new segment is.
        given_up->punch();
        given_up.reset();
        auto fresh = allocate(segment_bytes_, false, "data");
        if (!fresh) {
            --segments_total_;
            return false;
        }
        ready_.push_back(std::move(*fresh));
    }
    store.add_segment(std::move(ready_.back()));
    ready_.pop_back();
    return true;
}

DomainStore::Begun Memory::begin(DomainStore& store, const BlockSpec& spec) {
    const auto full = [](const DomainStore::Begun& begun) { return begun.refused == wire::Outcome::Refused; };
    auto begun = store.begin(spec);
    if (full(begun) && (grow(store) || store.make_room(spec.length))) begun = store.begin(spec);
    return begun;
}

std::string Memory::check_invariants() const {
    std::size_t segments = ready_.size();
    for (const auto& [id, store] : domains_) {
        segments += store->segment_count();
        if (auto broken = store->check_invariants(); !broken.empty())
            return fmt::format("domain {}: {}", id, broken);
    }
    if (segments != segments_total_)
        return fmt::format("{} segments of {} are accounted for", segments, segments_total_);
    return {};
}

}  // namespace cmpool::pool
