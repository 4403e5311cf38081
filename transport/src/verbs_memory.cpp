#include "verbs_memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <cmpool/base/assert.h>
#include <cmpool/base/units.h>

#include <infiniband/verbs.h>
#include <sys/mman.h>

namespace cmpool::transport {

namespace {

/// Devices see a range at an address of their own. Its low bits are ours, so that large pages stay large;
/// the others say nothing about where our memory lies.
constexpr std::uint64_t kBaseMask = 1 * GiB - 1;
/// Grants of one region are looked through for dead ones so often.
constexpr std::size_t kGrantsSwept = 64;

unsigned remote_rights(Access access) noexcept {
    unsigned rights = 0;
    if (allows(access, Access::Read)) rights |= IBV_ACCESS_REMOTE_READ;
    if (allows(access, Access::ReadWrite)) rights |= IBV_ACCESS_REMOTE_WRITE;
    if (allows(access, Access::Atomic)) rights |= IBV_ACCESS_REMOTE_ATOMIC;
    return rights;
}

Result<ibv_mr*> enroll(VerbsDevice& device, MutableBytes memory, std::uint64_t base, unsigned rights) {
    ibv_mr* region =
        ::ibv_reg_mr_iova(device.domain(), memory.data(), memory.size(), base, static_cast<int>(rights));
    if (region != nullptr) return region;
    return fail(Errc::NoCapacity, "cannot register {} with {}: {}; is \"ulimit -l\" large enough?",
                format_bytes(memory.size()), device.name(), std::strerror(errno));
}

}  // namespace

// ---- grants ----

VerbsGrant::VerbsGrant(ibv_mr* region) noexcept : key_(region->rkey), region_(region) {}

void VerbsGrant::end() noexcept {
    const std::scoped_lock lock(mutex_);
    if (window_ != nullptr) ::ibv_dealloc_mw(std::exchange(window_, nullptr));
    if (region_ != nullptr) ::ibv_dereg_mr(std::exchange(region_, nullptr));
}

// ---- ranges ----

std::uint64_t VerbsEntry::base() const noexcept {
    return reinterpret_cast<std::uintptr_t>(memory.data()) & kBaseMask;
}

Result<ibv_mr*> VerbsEntry::region(VerbsDevice& device) {
    {
        const std::shared_lock held(gate);
        if (revoked) return fail(Errc::Denied, "segment {:x} is revoked", id);
    }
    if (regions_.size() <= device.index()) regions_.resize(device.index() + 1);
    ibv_mr*& known = regions_[device.index()];
    if (known != nullptr) return known;
    // Peers get at it through grants only: the region's own key opens nothing to them.
    const unsigned rights =
        IBV_ACCESS_LOCAL_WRITE | (device.limits().windows ? unsigned{IBV_ACCESS_MW_BIND} : 0u);
    auto made = enroll(device, memory, base(), rights);
    if (made) known = *made;
    return made;
}

Result<void> VerbsEntry::prepare(VerbsDevice& device) {
    const std::scoped_lock lock(mutex_);
    auto made = region(device);
    if (!made) return fail(made.error());
    return {};
}

Result<std::shared_ptr<VerbsGrant>> VerbsEntry::grant(VerbsDevice& device) {
    const std::scoped_lock lock(mutex_);
    auto whole = region(device);
    if (!whole) return fail(whole.error());
    std::shared_ptr<VerbsGrant> made;
    if (device.limits().windows) {
        ibv_mw* window = ::ibv_alloc_mw(device.domain(), IBV_MW_TYPE_2);
        if (window == nullptr) {
            return fail(Errc::NoCapacity, "{} has no memory window left: {}", device.name(),
                        std::strerror(errno));
        }
        made = std::make_shared<VerbsGrant>(
            window, VerbsGrant::Binding{*whole, ::ibv_inc_rkey(window->rkey), base(), memory.size(),
                                        remote_rights(access)});
    } else {
        auto own = enroll(device, memory, base(), IBV_ACCESS_LOCAL_WRITE | remote_rights(access));
        if (!own) return fail(own.error());
        made = std::make_shared<VerbsGrant>(*own);
    }
    if (grants_.size() % kGrantsSwept == kGrantsSwept - 1)
        std::erase_if(grants_, [](const auto& grant) { return grant.expired(); });
    grants_.push_back(made);
    return made;
}

void VerbsEntry::revoke() {
    SegmentEntry::revoke();
    const std::scoped_lock lock(mutex_);
    for (const auto& grant : std::exchange(grants_, {})) {
        if (const auto alive = grant.lock()) alive->end();
    }
    // A region with a window on it could not go.
    for (ibv_mr* region : std::exchange(regions_, {})) {
        if (region != nullptr) CMPOOL_ASSERT(::ibv_dereg_mr(region) == 0);
    }
}

std::optional<VerbsPiece> VerbsEntry::piece(std::size_t device, Bytes part) const noexcept {
    const std::scoped_lock lock(mutex_);
    if (device >= regions_.size() || regions_[device] == nullptr) return std::nullopt;
    const auto offset = static_cast<std::uint64_t>(part.data() - memory.data());
    return VerbsPiece{base() + offset, static_cast<std::uint32_t>(part.size()), regions_[device]->lkey};
}

// ---- the registry ----

void VerbsRegistry::add(std::shared_ptr<VerbsEntry> entry) {
    const std::unique_lock lock(mutex_);
    entries_.emplace(reinterpret_cast<std::uintptr_t>(entry->memory.data()), std::move(entry));
}

void VerbsRegistry::remove(const VerbsEntry& entry) {
    const std::unique_lock lock(mutex_);
    auto [at, end] = entries_.equal_range(reinterpret_cast<std::uintptr_t>(entry.memory.data()));
    for (; at != end; ++at) {
        if (at->second.get() != &entry) continue;
        entries_.erase(at);
        return;
    }
}

// Of ranges that overlap only those that begin last are looked at: where that is not enough, the bytes
// go through the stage.
std::optional<VerbsPiece> VerbsRegistry::find(std::size_t device, Bytes part) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(part.data());
    const std::shared_lock lock(mutex_);
    auto next = entries_.upper_bound(begin);
    if (next == entries_.begin()) return std::nullopt;
    const auto last = std::prev(next)->first;
    for (auto at = entries_.lower_bound(last); at != next; ++at) {
        const auto& memory = at->second->memory;
        if (!range_fits(begin - last, part.size(), memory.size())) continue;
        if (auto piece = at->second->piece(device, part)) return piece;
    }
    return std::nullopt;
}

// ---- the stage ----

VerbsStage::~VerbsStage() {
    if (region_ != nullptr) ::ibv_dereg_mr(region_);
    if (!memory_.empty()) ::munmap(memory_.data(), memory_.size());
}

Result<std::uint32_t> VerbsStage::take() {
    if (memory_.empty()) {
        constexpr std::size_t kBytes = kSlots * kSlotBytes;
        void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            return fail(Errc::NoCapacity, "no memory for a stage: {}", std::strerror(errno));
        memory_ = MutableBytes(static_cast<std::byte*>(at), kBytes);
        auto region = enroll(device_, memory_, reinterpret_cast<std::uintptr_t>(at), IBV_ACCESS_LOCAL_WRITE);
        if (!region) {
            ::munmap(at, kBytes);
            memory_ = {};
            return fail(region.error());
        }
        region_ = *region;
        for (std::uint32_t slot = kSlots; slot > 0; --slot) free_.push_back(slot - 1);
    }
    if (free_.empty()) return fail(Errc::Again, "all slots of the stage are taken");
    const auto slot = free_.back();
    free_.pop_back();
    return slot;
}

MutableBytes VerbsStage::bytes(std::uint32_t slot) const noexcept {
    return memory_.subspan(slot * kSlotBytes, kSlotBytes);
}

VerbsPiece VerbsStage::piece(std::uint32_t slot, std::uint64_t bytes) const noexcept {
    return {reinterpret_cast<std::uintptr_t>(memory_.data()) + slot * kSlotBytes,
            static_cast<std::uint32_t>(bytes), region_->lkey};
}

}  // namespace cmpool::transport
