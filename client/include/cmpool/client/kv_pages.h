#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/model/byte_range.h>

namespace cmpool::client {

using model::ByteRange;

/// An engine's paged KV cache, described once. A page holds what all layers keep for one block of tokens;
/// in the pool a block is always [layers][parts][tokens][heads][head_size], so that engines with the two
/// orders share blocks.
///
///   Layout  PageFirst   [pages][layers][parts][block_tokens][heads][head_size]
///           LayerFirst  [layers][parts][pages][block_tokens][heads][head_size]
///   Units   `elem_bytes` in bytes; every other field is a count
///   Errors  check() gives Invalid for a zero field, memory that is no whole number of pages, or a page
///           above model::kBlockBytesMax
struct KvPages {
    enum class Order : std::uint8_t { PageFirst, LayerFirst };

    std::uint32_t layers = 0;
    std::uint32_t parts = 0;  ///< 2: keys and values; 1: one latent vector for both
    std::uint32_t heads = 0;  ///< 1 for a latent vector
    std::uint32_t head_size = 0;
    std::uint32_t elem_bytes = 0;
    std::uint32_t block_tokens = 0;
    Order order = Order::PageFirst;
    MutableBytes memory;

    [[nodiscard]] std::uint64_t piece_bytes() const noexcept {  ///< one layer's part of a page
        return std::uint64_t{block_tokens} * heads * head_size * elem_bytes;
    }
    [[nodiscard]] std::uint64_t layer_bytes() const noexcept { return piece_bytes() * parts; }
    [[nodiscard]] std::uint64_t page_bytes() const noexcept { return layer_bytes() * layers; }
    [[nodiscard]] std::size_t pages() const noexcept { return memory.size() / page_bytes(); }

    /// Of a block's bytes, `count` layers from `first` on.
    [[nodiscard]] ByteRange layer_range(std::uint32_t first, std::uint32_t count) const noexcept;
    /// Of a block's bytes, the share of rank `index` of `count`: shares follow each other, differ by 64
    /// bytes or less (the last may have up to 63 more), and none is empty where a page has 64 bytes a rank.
    [[nodiscard]] ByteRange stripe(std::uint32_t index, std::uint32_t count) const noexcept;

    /// Appends where page `index` lies, in the pool's order: one piece, or layers x parts of them.
    void append_pieces(std::size_t index, std::vector<MutableBytes>& out) const {
        append_pieces(index, {}, out);
    }
    /// The same of some of a block's bytes.
    void append_pieces(std::size_t index, ByteRange range, std::vector<MutableBytes>& out) const;
    [[nodiscard]] Result<void> check() const;
};

}  // namespace cmpool::client
