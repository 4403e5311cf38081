#pragma once

#include <cstdint>

#include <cmpool/base/result.h>
#include <cmpool/base/units.h>

namespace cmpool::engine {

/// The largest block that is cached and moved.
inline constexpr std::uint64_t kBlockBytesMax = 64 * MiB;

/// Shape of one KV block: what all layers keep of `tokens` tokens in a row. That is keys and values
/// (two parts), or one latent row from which both are made (one part, one head).
///
///   Layout  [layers][parts: keys, values][tokens][kv_heads][head_dim], row-major, no padding;
///           a latent row is the latent followed by the rotated key that all heads share
///   Units   `elem_bytes` in bytes; every other field is a count
///   Errors  check() gives Invalid for a zero field, parts beyond 2 or a block above kBlockBytesMax
///   Source  block: Kwon et al., PagedAttention, SOSP 2023, sec. 4; order of axes: LMCache;
///           latent: DeepSeek-V2, arXiv 2405.04434, sec. 2.1
struct BlockShape {
    std::uint32_t layers, tokens, kv_heads, head_dim, elem_bytes;
    std::uint32_t parts = 2;

    [[nodiscard]] static constexpr BlockShape latent(std::uint32_t layers, std::uint32_t tokens,
                                                     std::uint32_t width, std::uint32_t elem_bytes) noexcept {
        return {layers, tokens, 1, width, elem_bytes, 1};
    }

    [[nodiscard]] constexpr std::uint64_t bytes() const noexcept { return layer_bytes() * layers; }
    /// A block's bytes of layer l are the run of this length from l * layer_bytes() on.
    [[nodiscard]] constexpr std::uint64_t layer_bytes() const noexcept {
        return std::uint64_t{parts} * tokens * kv_heads * head_dim * elem_bytes;
    }
    [[nodiscard]] Result<void> check() const;

    friend constexpr bool operator==(const BlockShape&, const BlockShape&) noexcept = default;
};

// Llama-3-8B, 16 tokens to a block, bf16. An assertion is a comment that cannot go stale.
static_assert(BlockShape{32, 16, 8, 128, 2}.bytes() == 2 * MiB);
// DeepSeek-V3, one token, bf16: 68.6 KiB.
static_assert(BlockShape::latent(61, 1, 512 + 64, 2).bytes() == 70'272);

}  // namespace cmpool::engine
