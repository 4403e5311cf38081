#pragma once

#include <cstdint>

#include <cmpool/base/result.h>
#include <cmpool/base/units.h>

namespace cmpool::engine {

/// The largest block that is cached and moved.
inline constexpr std::uint64_t kBlockBytesMax = 64 * MiB;

/// Shape of one KV block: the keys and values that all layers hold for `tokens` tokens in a row.
///
///   Layout  [layers][2: keys, values][tokens][kv_heads][head_dim], row-major, no padding
///   Units   `elem_bytes` in bytes; every other field is a count
///   Errors  check() gives Invalid for a zero field or a block above kBlockBytesMax
///   Source  block: Kwon et al., PagedAttention, SOSP 2023, sec. 4; order of axes: LMCache
struct BlockShape {
    std::uint32_t layers, tokens, kv_heads, head_dim, elem_bytes;

    [[nodiscard]] constexpr std::uint64_t bytes() const noexcept {
        return std::uint64_t{layers} * 2 * tokens * kv_heads * head_dim * elem_bytes;
    }
    [[nodiscard]] Result<void> check() const;

    friend constexpr bool operator==(const BlockShape&, const BlockShape&) noexcept = default;
};

// Llama-3-8B, 16 tokens to a block, bf16. An assertion is a comment that cannot go stale.
static_assert(BlockShape{32, 16, 8, 128, 2}.bytes() == 2 * MiB);

}  // namespace cmpool::engine
