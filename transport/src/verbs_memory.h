#pragma once

#include "segment_table.h"
#include "verbs_device.h"

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <vector>

struct ibv_mr;
struct ibv_mw;

namespace cmpool::transport {

/// A local range as a device knows it.
struct VerbsPiece {
    std::uint64_t address = 0;
    std::uint32_t bytes = 0;
    std::uint32_t key = 0;
};

/// What one lane was given of one region: a window that only its queue pair can use, or, where the device
/// has no windows, a registration of its own. Its key is worth nothing once it has ended.
///
///   Threads  any
class VerbsGrant {
public:
    /// How a window comes to show its range; a region needs nothing.
    struct Binding {
        ibv_mr* region = nullptr;
        std::uint32_t key = 0;
        std::uint64_t address = 0;
        std::uint64_t bytes = 0;
        unsigned rights = 0;  ///< enum ibv_access_flags
    };

    VerbsGrant(ibv_mw* window, const Binding& how) noexcept : binding(how), key_(how.key), window_(window) {}
    explicit VerbsGrant(ibv_mr* region) noexcept;
    ~VerbsGrant() { end(); }
    VerbsGrant(const VerbsGrant&) = delete;
    VerbsGrant& operator=(const VerbsGrant&) = delete;

    Binding binding;

    /// What the peer says to be let in.
    [[nodiscard]] std::uint32_t key() const noexcept { return key_; }
    [[nodiscard]] bool needs_binding() const noexcept { return binding.region != nullptr; }
    /// Keeps end() out while somebody posts the binding; none once it has ended.
    struct Window {
        std::unique_lock<std::mutex> lock;
        ibv_mw* window;
    };
    [[nodiscard]] Window window() { return {std::unique_lock(mutex_), window_}; }
    [[nodiscard]] bool ended() {
        const std::scoped_lock lock(mutex_);
        return window_ == nullptr && region_ == nullptr;
    }
    /// When this returns, nothing that uses the key starts or lands any more.
    void end() noexcept;

private:
    std::uint32_t key_;
    std::mutex mutex_;  // of what follows
    ibv_mw* window_ = nullptr;
    ibv_mr* region_ = nullptr;
};

/// A range of our memory, registered with each device that has to reach it.
///
///   Threads  any
class VerbsEntry final : public SegmentEntry {
public:
    VerbsEntry(std::uint64_t segment, Token secret, Access granted, MutableBytes bytes)
        : SegmentEntry(segment, secret, granted, bytes) {}
    ~VerbsEntry() override { revoke(); }

    /// Registers it with the device, unless it is. Errors: NoCapacity, where memory cannot be locked.
    [[nodiscard]] Result<void> prepare(VerbsDevice& device);
    /// Errors: Denied once revoked; NoCapacity.
    [[nodiscard]] Result<std::shared_ptr<VerbsGrant>> grant(VerbsDevice& device);
    /// Ends every grant, then the registrations.
    void revoke() override;
    /// A part of it, for our own requests; none where this device does not know it.
    [[nodiscard]] std::optional<VerbsPiece> piece(std::size_t device, Bytes part) const noexcept;
    /// Where it begins, for peers.
    [[nodiscard]] std::uint64_t base() const noexcept;

private:
    [[nodiscard]] Result<ibv_mr*> region(VerbsDevice& device);

    mutable std::mutex mutex_;      // of what follows
    std::vector<ibv_mr*> regions_;  // by device
    std::vector<std::weak_ptr<VerbsGrant>> grants_;
};

/// All ranges that are registered, by address: where a request's local memory is found.
///
///   Threads  any
class VerbsRegistry {
public:
    void add(std::shared_ptr<VerbsEntry> entry);
    void remove(const VerbsEntry& entry);
    /// The part, if one range has it whole.
    [[nodiscard]] std::optional<VerbsPiece> find(std::size_t device, Bytes part) const;

private:
    mutable std::shared_mutex mutex_;
    std::multimap<std::uintptr_t, std::shared_ptr<VerbsEntry>> entries_;  // by beginning
};

/// Memory of a lane's own through which go the bytes that nobody has registered.
///
///   Limits  kSlots slots of kSlotBytes, taken from the host when the first is needed
class VerbsStage {
public:
    static constexpr std::size_t kSlots = 16;
    static constexpr std::uint64_t kSlotBytes = 64 * 1024;

    explicit VerbsStage(VerbsDevice& device) noexcept : device_(device) {}
    ~VerbsStage();
    VerbsStage(const VerbsStage&) = delete;
    VerbsStage& operator=(const VerbsStage&) = delete;

    /// A free slot's number. Errors: Again when none is free; NoCapacity.
    [[nodiscard]] Result<std::uint32_t> take();
    void give_back(std::uint32_t slot) { free_.push_back(slot); }
    [[nodiscard]] MutableBytes bytes(std::uint32_t slot) const noexcept;
    [[nodiscard]] VerbsPiece piece(std::uint32_t slot, std::uint64_t bytes) const noexcept;

private:
    VerbsDevice& device_;
    MutableBytes memory_;
    ibv_mr* region_ = nullptr;
    std::vector<std::uint32_t> free_;
};

}  // namespace cmpool::transport
