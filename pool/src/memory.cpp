#include "memory.h"

#include "exposed_segment.h"

#include <algorithm>
#include <bit>

#include <cmpool/base/units.h>

namespace cmpool::pool {
namespace {

constexpr std::uint64_t kSegmentBytesMax = 256 * MiB;
/// What a slot of the index can count.
constexpr std::uint64_t kExtentBytesMax = model::kUnitBytes << model::kUnitsBits;
/// A pool full of blocks of this size fills at most five eighths of the index's slots: then about one
/// insert in a hundred finds both of its buckets full. Pages of it that no entry touches cost nothing.
constexpr std::uint64_t kIndexedBlockBytes = 4 * KiB;
constexpr unsigned kBucketBitsMin = 6;
/// A domain that had no segment to give up is asked again after so long.
constexpr std::chrono::milliseconds kGaveNoneFor{100};
/// A segment that the host could not make is tried again after so long.
constexpr std::chrono::milliseconds kTryMissingEvery{100};

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
    if (config.capacity_bytes > model::kDomainBytesMax || config.segment_bytes >= kExtentBytesMax) {
        return fail(Errc::Invalid, "expected a capacity up to {} in segments below {}, saw {} and {}",
                    format_bytes(model::kDomainBytesMax), format_bytes(kExtentBytesMax),
                    format_bytes(config.capacity_bytes), format_bytes(config.segment_bytes));
    }
    const std::uint64_t wanted =
        config.segment_bytes != 0
            ? config.segment_bytes
            : std::clamp(config.capacity_bytes / 8, model::kSegmentBytesMin, kSegmentBytesMax);
    std::unique_ptr<Memory> memory(new Memory(clock, fabric, config.one_sided, incarnation));
    memory->quotas_.set_near_bytes_max(config.near_bytes);
    memory->segment_bytes_ = round_up(wanted, model::kSegmentBytesMin);
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
                                              clock_, quotas_, domain_id);
    }
    return store.get();
}

// Who could not give up a segment is not asked again at once: finding that out may mean looking at all of
// its blocks.
std::unique_ptr<transport::Segment> Memory::take_segment(const Claim& claim) {
    std::vector<Quotas::DomainSegments> all;
    all.reserve(domains_.size());
    for (const auto& [id, store] : domains_) all.push_back({id, store->segment_count()});
    for (const std::uint32_t id :
         quotas_.givers(claim, all, segments_total_ - segments_missing_, segment_bytes_)) {
        if (const auto none = gave_none_until_.find(id); none != gave_none_until_.end()) {
            if (clock_.now() < none->second) continue;
            gave_none_until_.erase(none);
        }
        if (auto segment = domains_.at(id)->give_up_segment(claim)) return segment;
        gave_none_until_.emplace(id, clock_.now() + kGaveNoneFor);
    }
    return nullptr;
}

// The host had no descriptor or no memory for it when its turn was; later it may.
bool Memory::make_missing() {
    if (segments_missing_ == 0 || clock_.now() < try_missing_at_) return false;
    auto fresh = allocate(segment_bytes_, false, "data");
    if (!fresh) {
        try_missing_at_ = clock_.now() + kTryMissingEvery;
        return false;
    }
    --segments_missing_;
    ready_.push_back(std::move(*fresh));
    return true;
}

bool Memory::grow(DomainStore& store, const Claim& claim) {
    if (!store.can_grow()) return false;
    if (ready_.empty() && !make_missing()) {
        if (segments_missing_ > 0) return false;  // another one would be lost as well
        auto given_up = take_segment(claim);
        if (given_up == nullptr) return false;
        // Whoever mapped the old memory keeps seeing it until it is punched; so it is never given to
        // another tenant, a new segment is.
        given_up->punch();
        given_up.reset();
        ++segments_missing_;
        try_missing_at_ = {};
        if (!make_missing()) return false;
    }
    store.add_segment(std::move(ready_.back()));
    ready_.pop_back();
    return true;
}

// A segment that nobody has; else what borrowers have, here or elsewhere, whose priority is lowest.
bool Memory::find_room(DomainStore& store, const Claim& claim, std::uint64_t length) {
    if (!ready_.empty() || !claim.owns()) return grow(store, claim) || store.make_room(length, claim);
    std::uint32_t elsewhere = UINT32_MAX;
    for (const auto& [id, other] : domains_) {
        if (other.get() != &store) elsewhere = std::min(elsewhere, quotas_.lowest_borrower(claim, id));
    }
    const std::uint32_t here = quotas_.lowest_borrower(claim, store.domain_id());
    const bool here_first = here != UINT32_MAX && here <= elsewhere;
    return (here_first && store.make_room(length, claim.on_others())) || grow(store, claim) ||
           store.make_room(length, claim);
}

namespace {

bool full(const DomainStore::Begun& begun) { return begun.refused == wire::Outcome::Refused; }

}  // namespace

DomainStore::Begun Memory::begin(DomainStore& store, const BlockSpec& spec) {
    if (spec.near) return begin_near(store, spec);
    auto begun = store.begin(spec);
    if (!full(begun)) return begun;
    const Claim claim(store.space(spec.namespace_id), model::units_for(spec.length) * model::kUnitBytes);
    if (find_room(store, claim, spec.length)) begun = store.begin(spec);
    if (full(begun) && claim.owns()) {
        ++owners_refused_;
        lent_wanted_until_ = clock_.now() + kLentBackWithin;
    }
    return begun;
}

// What nobody else needs, and no more than its own budget: it makes room among its like only, and the last
// segment that is ready waits for those who own what they put.
DomainStore::Begun Memory::begin_near(DomainStore& store, const BlockSpec& spec) {
    const std::uint64_t bytes = model::units_for(spec.length) * model::kUnitBytes;
    if (const ExtentId known = store.find(spec.digest); known != kNoExtent && !store.expired(known))
        return {.refused = wire::Outcome::Present};
    if (bytes > quotas_.near_bytes_max()) return {.refused = wire::Outcome::Refused};
    while (quotas_.near_bytes() + bytes > quotas_.near_bytes_max()) {
        if (!domains_.at(quotas_.domain_with_most_near())->shed_near(bytes))
            return {.refused = wire::Outcome::Refused};
    }
    auto begun = store.begin(spec);
    if (!full(begun)) return begun;
    const Claim claim(store.near_space(spec.namespace_id), bytes);
    if ((ready_.size() > 1 && grow(store, claim)) || store.make_room(spec.length, claim))
        begun = store.begin(spec);
    return begun;
}

std::string Memory::check_invariants() const {
    std::size_t segments = ready_.size() + segments_missing_;
    for (const auto& [id, store] : domains_) {
        segments += store->segment_count();
        if (auto broken = store->check_invariants(); !broken.empty())
            return fmt::format("domain {}: {}", id, broken);
    }
    if (quotas_.near_bytes() > quotas_.near_bytes_max()) {
        return fmt::format("copies of others' blocks take {} bytes, and may take {}", quotas_.near_bytes(),
                           quotas_.near_bytes_max());
    }
    if (segments != segments_total_)
        return fmt::format("{} segments of {} are accounted for", segments, segments_total_);
    return {};
}

}  // namespace cmpool::pool
