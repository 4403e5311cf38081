#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>
#include <cmpool/client/seal_key.h>
#include <cmpool/model/byte_range.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/namespace.h>

namespace cmpool::client {

/// A sealed block is its plain bytes in chunks, each encrypted by itself, so that a part of a block can be
/// read alone. Behind each chunk stands its trailer.
inline constexpr std::uint32_t kSealChunkBytes = 64 * KiB;
inline constexpr std::uint32_t kSealTrailerBytes = 32;
inline constexpr std::uint32_t kSealStrideBytes = kSealChunkBytes + kSealTrailerBytes;

/// What a block of so many plain bytes takes in the pool.
[[nodiscard]] constexpr std::uint64_t sealed_bytes(std::uint64_t plain) noexcept {
    return plain + (plain + kSealChunkBytes - 1) / kSealChunkBytes * kSealTrailerBytes;
}
/// The plain bytes of a sealed block; nothing where no block takes so many.
[[nodiscard]] constexpr std::optional<std::uint32_t> plain_bytes(std::uint64_t sealed) noexcept {
    const std::uint64_t last = sealed % kSealStrideBytes;
    if (sealed == 0 || sealed > model::kBlockBytesMax || (last > 0 && last <= kSealTrailerBytes))
        return std::nullopt;
    const std::uint64_t chunks = (sealed + kSealStrideBytes - 1) / kSealStrideBytes;
    return static_cast<std::uint32_t>(sealed - chunks * kSealTrailerBytes);
}
/// Largest block of a sealed namespace.
inline constexpr std::uint64_t kSealedPlainMax = *plain_bytes(model::kBlockBytesMax);
static_assert(kSealedPlainMax == 64 * MiB - 32'768);  // as the headers and READMEs say
static_assert(sealed_bytes(kSealedPlainMax) == model::kBlockBytesMax);
static_assert(sealed_bytes(1) == 33 && plain_bytes(33) == 1U && !plain_bytes(32) && !plain_bytes(0));
static_assert(sealed_bytes(kSealChunkBytes) == kSealStrideBytes && !plain_bytes(kSealStrideBytes + 32));

/// The chunks that hold some of a block's plain bytes.
struct SealedCut {
    std::uint32_t first = 0;    ///< chunk
    std::uint32_t skip = 0;     ///< bytes of it before those that are wanted
    std::uint32_t length = 0;   ///< bytes that are wanted
    std::uint32_t covered = 0;  ///< plain bytes of all these chunks
    bool whole = false;         ///< all of a block, which must not be longer

    /// Of a block with so many plain bytes; where that is not known, as if it went on behind the range.
    [[nodiscard]] static SealedCut of(model::ByteRange range, std::optional<std::uint32_t> plain) noexcept;
    [[nodiscard]] static SealedCut all(std::uint32_t plain) noexcept { return {0, 0, plain, plain, true}; }
    /// Where they lie in the sealed block.
    [[nodiscard]] model::ByteRange stored() const noexcept {
        return {first * kSealStrideBytes, static_cast<std::uint32_t>(sealed_bytes(covered))};
    }
    /// Of these chunks, which are not counted from the block's first: the bytes of one.
    [[nodiscard]] std::uint32_t chunk_bytes(std::uint32_t chunk) const noexcept;
    [[nodiscard]] std::uint32_t chunks() const noexcept {
        return (covered + kSealChunkBytes - 1) / kSealChunkBytes;
    }
    /// Of one of these chunks, what is wanted: from, to.
    [[nodiscard]] std::pair<std::uint32_t, std::uint32_t> wanted(std::uint32_t chunk) const noexcept;
    /// Only some of it is wanted: it lands and opens aside.
    [[nodiscard]] bool edge(std::uint32_t chunk) const noexcept;
    /// What land() needs besides the caller's memory.
    [[nodiscard]] std::size_t aside_bytes() const noexcept;
};

/// Seals and opens the blocks of one namespace with AES-256-GCM.
///
///   Layout   chunk: ciphertext (64 KiB, the block's last one less), then its trailer: salt (12 bytes, one a
///            block), the block's plain length (u32 little endian), tag (16)
///   Always   each put of a block has a key of its own: keyed BLAKE2b over salt, length and the block's
///   digest,
///            under a key that HKDF-SHA256 makes of the seal key for tenant and fingerprint. So a nonce,
///            which is the chunk's number, is used once with a key unless the *same* block draws the same
///            96-bit salt twice: nobody puts one block anywhere near 2^32 times, and no count of blocks
///            matters. That chunks belong to this digest, this length and one put, and stand at their place,
///            follows from the key and the nonce; what is torn, foreign, swapped, cut short or made up does
///            not open
///   Units    offsets and lengths that callers name are of plain bytes
///   Threads  that of its client; contexts are made once, nothing is allocated for a block
///   Source   NIST SP 800-38D (GCM), RFC 5869 (HKDF), by OpenSSL; RFC 7693 (BLAKE2), by libsodium
class Sealer {
public:
    Sealer(const SealKey& key, const model::NamespaceSpec& spec, Entropy& entropy);
    ~Sealer();
    Sealer(const Sealer&) = delete;
    Sealer& operator=(const Sealer&) = delete;

    /// What digests of a sealed namespace are keyed with: the server's secret alone lets nobody guess
    /// prompts, and who holds another key finds nothing.
    [[nodiscard]] static model::Secret digest_secret(const SealKey& key, const model::NamespaceSpec& spec,
                                                     const model::Secret& secret);

    /// Seals a block into exactly sealed_bytes() of it. Returns the checksum of what it has written.
    std::uint64_t seal(const model::Digest& digest, std::span<const Bytes> from, MutableBytes into);

    /// Appends where a cut's stored bytes land: in the caller's memory, of which there is enough, trailers
    /// and edges aside, in `cut.aside_bytes()`.
    static void land(const SealedCut& cut, std::span<const MutableBytes> into, MutableBytes aside,
                     std::vector<MutableBytes>& out);
    /// Opens in place what has landed so. On false the memory holds nothing meaningful.
    [[nodiscard]] bool open(const model::Digest& digest, const SealedCut& cut,
                            std::span<const MutableBytes> into, MutableBytes aside) noexcept;
    /// Opens from memory that somebody else may be writing to. GCM reads its input twice, to authenticate and
    /// to decrypt, so each byte is copied out once before: what was authenticated is what was decrypted. In
    /// pieces that stay in the nearest cache, or the copy would cost as much as a second pass. `stored` is
    /// the cut's.
    [[nodiscard]] bool open_from(Bytes stored, const model::Digest& digest, const SealedCut& cut,
                                 std::span<const MutableBytes> into) noexcept;

    /// Memory for what is on its way, used again and again.
    struct Scratch {
        std::unique_ptr<std::byte[]> memory;
        std::size_t bytes = 0;
        [[nodiscard]] MutableBytes first(std::size_t count) const noexcept { return {memory.get(), count}; }
    };
    [[nodiscard]] Scratch borrow(std::size_t bytes);
    void give_back(Scratch scratch) noexcept;

    /// Blocks that did not open, since the beginning.
    std::uint64_t broken = 0;

private:
    class Cursor;
    struct Contexts;
    struct Opening;
    [[nodiscard]] bool begin(Opening& opening, const std::byte* trailer) noexcept;
    /// From `foreign`, or where it is null in place.
    [[nodiscard]] bool open_chunk(Opening& opening, std::uint32_t chunk, Cursor& cursor, std::byte* edge,
                                  const std::byte* trailer, const std::byte* foreign) noexcept;

    std::array<std::byte, 32> key_{};
    Entropy& entropy_;
    std::unique_ptr<Contexts> contexts_;
    std::unique_ptr<std::byte[]> edge_;  ///< a chunk
    /// Of foreign memory. A multiple of the six cipher blocks that OpenSSL works on at once; half as large,
    /// each call of it costs more than its cache saves, twice as large it is slower again.
    alignas(64) std::array<std::byte, 3072> piece_;
    std::vector<Scratch> kept_;
};

}  // namespace cmpool::client
