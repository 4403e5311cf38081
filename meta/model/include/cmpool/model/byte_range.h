#pragma once

#include <cstdint>
#include <optional>

namespace cmpool::model {

/// Some of a block's bytes, which lie together: a layer, a rank's share. As it is made, all of them.
///
///   Units    bytes
struct ByteRange {
    std::uint32_t offset = 0;
    std::uint32_t length = 0;  ///< 0, at offset 0: the whole block

    [[nodiscard]] constexpr bool whole() const noexcept { return offset == 0 && length == 0; }
    /// What it means in a block of so many bytes; nothing where it is empty or leaves the block.
    [[nodiscard]] constexpr std::optional<ByteRange> within(std::uint32_t block_bytes) const noexcept {
        if (whole()) return ByteRange{0, block_bytes};
        if (length == 0 || std::uint64_t{offset} + length > block_bytes) return std::nullopt;
        return *this;
    }
    friend constexpr bool operator==(const ByteRange&, const ByteRange&) noexcept = default;
};

static_assert(ByteRange{}.within(7) == ByteRange{0, 7});
static_assert(ByteRange{3, 4}.within(7) == ByteRange{3, 4} && !ByteRange{3, 5}.within(7));
static_assert(!ByteRange{3, 0}.within(7) && !ByteRange{UINT32_MAX, UINT32_MAX}.within(UINT32_MAX));

}  // namespace cmpool::model
