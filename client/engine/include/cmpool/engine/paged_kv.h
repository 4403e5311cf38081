#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/engine/block_shape.h>

namespace cmpool::engine {

/// The engine's KV memory: a fixed number of equal blocks in one contiguous arena.
///
///   Layout    block i is block_bytes(i), one run of shape().bytes(); blocks follow each other
///   Lifetime  views end with the PagedKv; a block's bytes are its holder's until release()
///   Threads   acquire() and release() belong to one thread; a held block's bytes to whoever holds it
///   Limits    capacity_blocks blocks, all memory at most kArenaBytesMax
///   Errors    create() gives Invalid; acquire() gives NoCapacity when every block is held
class PagedKv {
public:
    static constexpr std::uint64_t kArenaBytesMax = 256 * GiB;

    [[nodiscard]] static Result<PagedKv> create(const BlockShape& shape, std::uint32_t capacity_blocks);

    /// The same in memory that somebody else owns and keeps longer, such as a segment that peers write
    /// to: as many whole blocks as fit. Its start is aligned to 64 bytes.
    [[nodiscard]] static Result<PagedKv> over(const BlockShape& shape, MutableBytes memory);

    [[nodiscard]] Result<std::uint32_t> acquire();
    void release(std::uint32_t index);

    [[nodiscard]] MutableBytes block_bytes(std::uint32_t index) noexcept;
    /// All blocks together, page-aligned, for a pool client that registers memory.
    [[nodiscard]] MutableBytes bytes() noexcept;
    [[nodiscard]] const BlockShape& shape() const noexcept { return shape_; }
    [[nodiscard]] std::uint32_t capacity_blocks() const noexcept { return capacity_blocks_; }
    [[nodiscard]] std::size_t free_blocks() const noexcept { return free_.size(); }

private:
    struct Free {
        bool owned = true;
        void operator()(std::byte* arena) const noexcept;
    };

    PagedKv(const BlockShape& shape, std::uint32_t capacity_blocks, std::byte* arena, Free free);

    BlockShape shape_;
    std::uint32_t capacity_blocks_;
    std::unique_ptr<std::byte, Free> arena_;
    std::vector<std::uint32_t> free_;  // the last one is handed out next
    std::vector<bool> held_;
};

/// The blocks of one sequence in the order of its tokens; released with it.
class BlockTable {
public:
    explicit BlockTable(PagedKv& kv) noexcept : kv_(&kv) {}
    BlockTable(const BlockTable&) = delete;
    BlockTable& operator=(const BlockTable&) = delete;
    ~BlockTable();

    /// Grows the table until it holds `tokens` tokens. Errors: NoCapacity; what it got so far stays.
    [[nodiscard]] Result<void> reserve(std::size_t tokens);
    [[nodiscard]] std::span<const std::uint32_t> blocks() const noexcept { return blocks_; }

private:
    PagedKv* kv_;
    std::vector<std::uint32_t> blocks_;
};

}  // namespace cmpool::engine
