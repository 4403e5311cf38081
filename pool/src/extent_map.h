#pragma once

#include <array>
#include <cstdint>
#include <string>

#include <cmpool/pool/chunked.h>
#include <cmpool/pool/eviction.h>

namespace cmpool::pool {

using ExtentId = std::uint32_t;
inline constexpr ExtentId kNoExtent = UINT32_MAX;

enum class ExtentState : std::uint8_t {
    Unused,   ///< the record is nobody's
    Free,     ///< memory that can be taken
    Writing,  ///< begun and not committed: nobody can see it
    Live,     ///< in the index
    Doomed,   ///< out of the index, but somebody still reads it
};

/// A run of units in one segment, and what lies there. 56 bytes; at most one a block.
struct Extent {
    std::uint64_t offset_units = 0;
    std::uint32_t units = 0;
    ExtentId before = kNoExtent;  ///< neighbours in memory, inside one segment
    ExtentId after = kNoExtent;
    ExtentId prev = kNoExtent;  ///< free: in its size class. Live: warmer in its group
    ExtentId next = kNoExtent;  ///< free: in its size class. Live: colder in its group
    GroupId group = kNoGroup;
    std::uint32_t room = 0;  ///< whose it is: the store numbers its namespaces
    std::uint32_t generation = 0;
    std::uint32_t position = 0;
    std::uint32_t holds = 0;   ///< leases and sends that read it
    std::uint32_t born_s = 0;  ///< when it was inserted, on the server's clock
    ExtentState state = ExtentState::Unused;
    std::uint16_t parent_tag = 0;  ///< of its parent's digest, to know it among others; 0: it has none
};
static_assert(sizeof(Extent) <= 56);

/// Variable-size memory inside segments: two-level segregated fit, so taking and giving back are
/// O(1), and neighbours merge at once, so memory moves between sizes as the mix changes.
///
///   Units   64-byte units everywhere
///   Source  Masmano et al., TLSF: a new dynamic memory allocator for real-time systems, ECRTS 2004;
///           here the records lie outside the memory they describe
class ExtentMap {
public:
    ExtentMap();

    /// Adds a segment's memory as one free extent.
    /// Returns its id, which stays that of the segment's first extent.
    ExtentId add_segment(std::uint64_t offset_units, std::uint32_t units);
    /// Takes back a segment that is one free extent again.
    void remove_segment(ExtentId whole);

    [[nodiscard]] bool fits(std::uint32_t units) const noexcept { return find_fit(units) != kNoExtent; }
    /// kNoExtent when no free run is long enough.
    [[nodiscard]] ExtentId allocate(std::uint32_t units);
    /// Gives back; the id dies, since the memory may merge with its neighbours. Returns the free
    /// extent that it became part of.
    ExtentId free(ExtentId id);

    /// Makes a free extent the first of its size class, where fits() and allocate() see it: they look
    /// at a few extents of a class only.
    void bring_forward(ExtentId id);

    [[nodiscard]] Extent& operator[](ExtentId id) noexcept { return extents_[id]; }
    [[nodiscard]] const Extent& operator[](ExtentId id) const noexcept { return extents_[id]; }
    /// Loads a record ahead of need; it may lie across two lines.
    void prefetch(ExtentId id) const noexcept {
        __builtin_prefetch(&extents_[id]);
        __builtin_prefetch(&extents_[id].state);
    }
    [[nodiscard]] std::size_t size() const noexcept { return extents_.size(); }
    [[nodiscard]] std::uint64_t free_units() const noexcept { return free_units_; }

    /// Empty when every list, bitmap and neighbour agrees.
    [[nodiscard]] std::string check_invariants() const;

private:
    static constexpr unsigned kSecondBits = 4;
    static constexpr unsigned kSecondCount = 1u << kSecondBits;
    static constexpr unsigned kFirstCount = 28;
    static constexpr unsigned kFitScanMax = 16;

    struct SizeClass {
        unsigned first;
        unsigned second;
    };
    [[nodiscard]] static SizeClass class_of(std::uint32_t units) noexcept;
    [[nodiscard]] ExtentId find_fit(std::uint32_t units) const noexcept;
    [[nodiscard]] ExtentId new_record();
    void drop_record(ExtentId id);
    void link_free(ExtentId id);
    void unlink_free(ExtentId id);
    void absorb_after(ExtentId id);

    Chunked<Extent> extents_;
    ExtentId unused_ = kNoExtent;  ///< records to use again, by `next`
    std::uint64_t free_units_ = 0;
    std::uint32_t first_map_ = 0;
    std::array<std::uint32_t, kFirstCount> second_map_{};
    std::array<std::array<ExtentId, kSecondCount>, kFirstCount> heads_;
};

}  // namespace cmpool::pool
