#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::model {

/// Most blocks that one call or message names.
inline constexpr std::size_t kBatchMax = 4096;
/// Largest block.
inline constexpr std::uint64_t kBlockBytesMax = std::uint64_t{64} << 20;

/// Keyed BLAKE2b-256: a block's key. Nobody without the namespace's secret can make two prompts
/// that share one, or tell from it what was typed.
struct Digest {
    std::array<std::byte, 32> bytes{};

    friend bool operator==(const Digest& one, const Digest& other) noexcept {
        return std::memcmp(one.bytes.data(), other.bytes.data(), sizeof one.bytes) == 0;
    }

    /// The first 64 bits, little endian: uniform, so that tables and placement use them as they are.
    [[nodiscard]] std::uint64_t prefix() const noexcept {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data(), sizeof word);
        return word;
    }
    [[nodiscard]] bool is_zero() const noexcept { return *this == Digest{}; }
};
static_assert(sizeof(Digest) == 32 && alignof(Digest) == 1);

/// The parent of a chain's first block, and of every block that is in no chain.
inline constexpr Digest kNoParent{};

/// What a digest was made from, so that a prefix can never equal an opaque key.
enum class DigestKind : std::uint8_t {
    Prefix = 1,
    Opaque = 2,
    Fingerprint = 3,
    Credential = 4,
    Content = 5,
    Part = 6
};

/// A namespace's secret: it keys every digest in it.
using Secret = std::array<std::byte, 32>;

/// Digests under one secret, with the key's own block hashed once.
///
///   Layout   input of a block: kind (1 byte), parent digest (32), then token ids as u32 little endian
///   Threads  any; const calls do not interfere
///   Source   RFC 7693 (BLAKE2), by libsodium's crypto_generichash
class Digester {
public:
    explicit Digester(const Secret& secret);
    ~Digester();
    Digester(Digester&&) noexcept;
    Digester& operator=(Digester&&) noexcept;

    /// The block that holds `tokens` after everything that `parent` stands for.
    [[nodiscard]] Digest block(const Digest& parent, std::span<const std::uint32_t> tokens) const noexcept;
    /// One digest per full block of `block_tokens` tokens, root first; the incomplete tail has none.
    [[nodiscard]] std::vector<Digest> chain(std::span<const std::uint32_t> tokens,
                                            std::uint32_t block_tokens) const;
    /// A key that the caller made: any bytes, such as 36 from vLLM or 64 hex digits from SGLang.
    [[nodiscard]] Digest opaque(Bytes key) const noexcept;

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Unkeyed, of bytes that several parties must be able to name alike: model blocks, fingerprints.
[[nodiscard]] Digest plain_digest(DigestKind kind, Bytes bytes) noexcept;

/// The key of one of a block's parts, such as a rank's heads: unkeyed, over a digest that nobody can forge.
[[nodiscard]] Digest part_digest(const Digest& block, std::uint32_t part, std::uint32_t parts) noexcept;

/// XXH3-64 of a payload: finds bit rot, not malice.
[[nodiscard]] std::uint64_t checksum(Bytes payload) noexcept;

/// The checksum of a payload that lies in pieces.
class ChecksumStream {
public:
    ChecksumStream();
    ~ChecksumStream();
    ChecksumStream(const ChecksumStream&) = delete;
    ChecksumStream& operator=(const ChecksumStream&) = delete;
    void update(Bytes piece) noexcept;
    [[nodiscard]] std::uint64_t digest() const noexcept;
    /// As if it were new.
    void reset() noexcept;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace cmpool::model

template <>
struct std::hash<cmpool::model::Digest> {
    std::size_t operator()(const cmpool::model::Digest& digest) const noexcept { return digest.prefix(); }
};
