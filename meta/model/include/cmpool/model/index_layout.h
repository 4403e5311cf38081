#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <cmpool/model/digest.h>

// The index that a pool shard writes and its clients read, over mapped or one-sided memory: pure
// functions on words, since both sides use them.
//
//   One writer. A reader never trusts what it finds: a torn or half-written slot decodes to a tag
//   that is absent, and bytes copied out count only when the slot is unchanged afterwards.
//
//   Reader: find slot -> copy header and payload -> acquire fence -> re-read the slot -> compare digest.
//   Owner on reuse: clear slot -> full fence -> look at pins -> write.
//
//   Source: one-sided reads after Pilaf (ATC 2013); XOR validation after Hyatt's lockless
//   transposition tables (2002).
namespace cmpool::model {

inline constexpr std::uint64_t kUnitBytes = 64;  ///< extents start and end on this grid
inline constexpr std::uint64_t kHeaderBytes = 64;
inline constexpr std::uint32_t kSlotsPerBucket = 7;
inline constexpr unsigned kBucketBitsMax = 24;
inline constexpr unsigned kOffsetBits = 38;
inline constexpr unsigned kUnitsBits = 26;
inline constexpr unsigned kGenerationBits = 24;
/// What an offset can name: all segments that a domain has had since the server's start.
inline constexpr std::uint64_t kDomainBytesMax = kUnitBytes << kOffsetBits;
inline constexpr std::uint64_t kSegmentBytesMin = 1 << 20;
inline constexpr std::uint32_t kSegmentsMax = kDomainBytesMax / kSegmentBytesMin;

/// Where an extent lies and which insert filled it. Offsets count units from the domain's first
/// segment, header included.
struct Location {
    std::uint64_t offset_units = 0;
    std::uint32_t units = 0;
    std::uint32_t generation = 0;  ///< low kGenerationBits of the shard's insert sequence

    friend bool operator==(const Location&, const Location&) noexcept = default;
};

struct Slot {
    std::uint64_t tag_word = 0;       ///< (tag 40 bits, generation 24) XOR mix(location_word)
    std::uint64_t location_word = 0;  ///< offset 38 bits, units 26; 0: empty

    friend bool operator==(const Slot&, const Slot&) noexcept = default;
};
static_assert(sizeof(Slot) == 16);

/// Two cache lines of x86, one of Kunpeng's home agent.
struct alignas(128) Bucket {
    std::uint64_t spill = 0;     ///< entries whose home is here but that lie in the next bucket
    std::uint64_t identity = 0;  ///< low half of the incarnation, bucket index: catches misdirected reads
    Slot slots[kSlotsPerBucket];
};
static_assert(sizeof(Bucket) == 128);

/// A bijective mix of 64 bits (Stafford's variant 13 of the MurmurHash3 finaliser).
[[nodiscard]] constexpr std::uint64_t mix64(std::uint64_t word) noexcept {
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
    word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
    return word ^ (word >> 31);
}

[[nodiscard]] constexpr std::uint64_t bucket_of(std::uint64_t prefix, unsigned bucket_bits) noexcept {
    return prefix & ((std::uint64_t{1} << bucket_bits) - 1);
}
[[nodiscard]] constexpr std::uint64_t tag_of(std::uint64_t prefix) noexcept {
    return prefix >> kGenerationBits;
}

[[nodiscard]] constexpr Slot encode_slot(std::uint64_t prefix, const Location& at) noexcept {
    const std::uint64_t location = at.offset_units << kUnitsBits | at.units;
    const std::uint64_t generation = at.generation & ((std::uint32_t{1} << kGenerationBits) - 1);
    return {(tag_of(prefix) << kGenerationBits | generation) ^ mix64(location), location};
}

/// What a slot says about `prefix`: nothing when it is empty, torn, or somebody else's.
[[nodiscard]] constexpr std::optional<Location> decode_slot(const Slot& slot, std::uint64_t prefix) noexcept {
    const std::uint64_t open = slot.tag_word ^ mix64(slot.location_word);
    if (slot.location_word == 0 || open >> kGenerationBits != tag_of(prefix)) return std::nullopt;
    return Location{slot.location_word >> kUnitsBits,
                    static_cast<std::uint32_t>(slot.location_word & ((std::uint64_t{1} << kUnitsBits) - 1)),
                    static_cast<std::uint32_t>(open & ((std::uint64_t{1} << kGenerationBits) - 1))};
}

static_assert(decode_slot(encode_slot(0x0123456789abcdef, {77, 3, 9}), 0x0123456789abcdef) ==
              Location{77, 3, 9});
static_assert(!decode_slot(encode_slot(0x0123456789abcdef, {77, 3, 9}), 0x1123456789abcdef));
static_assert(!decode_slot(Slot{}, 0));

/// 64 bytes before each payload. Readers compare the digest; the rest serves scrubbing and repair.
struct BlockHeader {
    std::uint32_t magic;
    std::uint32_t check;  ///< low half of XXH3-64 over everything behind it
    std::uint64_t generation;
    Digest digest;
    std::uint32_t length;
    std::uint32_t namespace_and_state;  ///< namespace id << 8 | state
    std::uint64_t payload_checksum;     ///< XXH3-64
};
static_assert(sizeof(BlockHeader) == kHeaderBytes && offsetof(BlockHeader, digest) == 16);
static_assert(offsetof(BlockHeader, length) == 48 && offsetof(BlockHeader, payload_checksum) == 56);

inline constexpr std::uint32_t kHeaderMagic = 0x424f4d43;  // "CMOB"

[[nodiscard]] inline std::uint32_t header_check(const BlockHeader& header) noexcept {
    return static_cast<std::uint32_t>(checksum(std::as_bytes(std::span(&header, 1)).subspan(8)));
}
[[nodiscard]] inline bool header_valid(const BlockHeader& header) noexcept {
    return header.magic == kHeaderMagic && header.check == header_check(header);
}

/// Units that a payload of `length` bytes takes, header included.
[[nodiscard]] constexpr std::uint32_t units_for(std::uint64_t length) noexcept {
    return static_cast<std::uint32_t>((kHeaderBytes + length + kUnitBytes - 1) / kUnitBytes);
}

/// Aligned 8-byte words are never torn; nothing larger is relied on.
[[nodiscard]] inline std::uint64_t load_acquire(const std::uint64_t& word) noexcept {
    return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}
inline void store_release(std::uint64_t& word, std::uint64_t value) noexcept {
    __atomic_store_n(&word, value, __ATOMIC_RELEASE);
}

[[nodiscard]] inline Slot load_slot(const Slot& slot) noexcept {
    const std::uint64_t location = load_acquire(slot.location_word);
    return {load_acquire(slot.tag_word), location};
}

/// Loads a bucket's two lines ahead of need.
inline void prefetch(const Bucket& bucket) noexcept {
    __builtin_prefetch(&bucket);
    __builtin_prefetch(&bucket.slots[3]);
}

/// Where a lookup found a key.
struct Found {
    const Slot* slot;
    Slot seen;
    Location at;
};

/// Looks in the home bucket, then, where entries have spilled, in the next. `buckets` has one guard
/// bucket more than 2^bucket_bits.
[[nodiscard]] inline std::optional<Found> find_slot(const Bucket* buckets, unsigned bucket_bits,
                                                    std::uint64_t prefix) noexcept {
    const Bucket* home = buckets + bucket_of(prefix, bucket_bits);
    const Bucket* last = load_acquire(home->spill) == 0 ? home : home + 1;
    for (const Bucket* bucket = home; bucket <= last; ++bucket) {
        for (const Slot& slot : bucket->slots) {
            const Slot seen = load_slot(slot);
            if (const auto at = decode_slot(seen, prefix)) return Found{&slot, seen, *at};
        }
    }
    return std::nullopt;
}

// ---- The control page: what the server makes for one same-host client, and the client writes. ----

inline constexpr std::uint32_t kPinsMax = 8192;         ///< blocks that one client holds at once
inline constexpr std::uint32_t kTouchRingSlots = 4096;  ///< a power of two; a full ring forgets touches

/// A pin names an extent and the insert that filled it; 0: none, which the highest bit keeps apart.
[[nodiscard]] constexpr std::uint64_t pin_word(const Location& at) noexcept {
    return std::uint64_t{1} << 63 | at.offset_units << kGenerationBits | at.generation;
}
static_assert(pin_word({}) != 0 && kOffsetBits + kGenerationBits < 63);

/// A touch names a slot of the index and the insert it showed: the server finds the block without a search.
[[nodiscard]] constexpr std::uint64_t touch_word(std::uint64_t slot_index,
                                                 std::uint32_t generation) noexcept {
    return slot_index << kGenerationBits | generation;
}

/// What was read, by whoever read it.
struct ReadCounts {
    std::uint64_t match_calls = 0;
    std::uint64_t match_blocks_asked = 0;
    std::uint64_t match_blocks_hit = 0;
    std::uint64_t get_hits = 0;    ///< blocks
    std::uint64_t get_misses = 0;  ///< blocks
    std::uint64_t get_bytes = 0;
    std::uint64_t stale_reads = 0;   ///< copies thrown away because the slot had changed
    std::uint64_t broken_seals = 0;  ///< blocks of sealed namespaces that did not open
    std::uint64_t near_hits = 0;     ///< blocks got that belong to other members
};

/// Shared with a client that may be hostile: the server reads words, bounds what it does with them,
/// and believes nothing. Counts are the client's word, for statistics only.
struct ControlPage {
    alignas(128) std::uint64_t pins_end;    ///< no pin at or beyond this index; the client writes it
    alignas(128) std::uint64_t touch_head;  ///< the client's count of touches written
    alignas(128) std::uint64_t touch_tail;  ///< the server's count of touches taken
    alignas(128) ReadCounts counts;
    alignas(128) std::uint64_t pins[kPinsMax];
    std::uint64_t touches[kTouchRingSlots];  ///< touch words; of a chain the last block first
};
static_assert(sizeof(ControlPage) % 128 == 0);

}  // namespace cmpool::model
