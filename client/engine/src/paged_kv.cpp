#include <cstdlib>
#include <utility>

#include <cmpool/base/assert.h>
#include <cmpool/base/units.h>
#include <cmpool/engine/paged_kv.h>

#include <sys/mman.h>

namespace cmpool::engine {

namespace {

constexpr std::size_t kPageBytes = 4 * KiB;
constexpr std::size_t kHugePageBytes = 2 * MiB;

}  // namespace

Result<void> BlockShape::check() const {
    const auto seen = [this] {
        return fmt::format("{}x{}x{}x{}x{} of {} bytes", layers, parts, tokens, kv_heads, head_dim,
                           elem_bytes);
    };
    if (layers == 0 || parts == 0 || tokens == 0 || kv_heads == 0 || head_dim == 0 || elem_bytes == 0)
        return fail(Errc::Invalid, "expected a block shape without zeros, saw {}", seen());
    if (parts > 2)
        return fail(Errc::Invalid, "expected keys and values or a latent (2 parts or 1), saw {}", seen());
    // Six 32-bit factors overflow 64 bits: each product is compared before the next is made.
    std::uint64_t product = 1;
    for (const std::uint64_t factor : {layers, parts, tokens, kv_heads, head_dim, elem_bytes}) {
        product *= factor;
        if (product > kBlockBytesMax) {
            return fail(Errc::Invalid, "expected a block of at most {}, saw {}", format_bytes(kBlockBytesMax),
                        seen());
        }
    }
    return {};
}

void PagedKv::Free::operator()(std::byte* arena) const noexcept {
    if (owned) std::free(arena);
}

Result<PagedKv> PagedKv::create(const BlockShape& shape, std::uint32_t capacity_blocks) {
    if (auto sound = shape.check(); !sound) return fail(sound.error());
    // A step walks through all KV of its sequences: with small pages most of the time goes into finding
    // those. Only advice, so memory that is not used yet still costs nothing.
    const std::uint64_t block_bytes = shape.bytes() * capacity_blocks;
    const bool huge = block_bytes >= kHugePageBytes;
    const std::size_t alignment = huge ? kHugePageBytes : kPageBytes;
    const std::uint64_t arena_bytes = round_up(block_bytes, alignment);
    if (capacity_blocks == 0 || arena_bytes > kArenaBytesMax) {
        return fail(Errc::Invalid, "expected 1 block or more and at most {}, saw {} blocks of {}",
                    format_bytes(kArenaBytesMax), capacity_blocks, format_bytes(shape.bytes()));
    }
    auto* arena = static_cast<std::byte*>(std::aligned_alloc(alignment, arena_bytes));
    if (arena == nullptr) {
        return fail(Errc::NoCapacity, "the host has no {} of memory for {} KV blocks",
                    format_bytes(arena_bytes), capacity_blocks);
    }
    if (huge) ::madvise(arena, arena_bytes, MADV_HUGEPAGE);
    return PagedKv{shape, capacity_blocks, arena, Free{}};
}

Result<PagedKv> PagedKv::over(const BlockShape& shape, MutableBytes memory) {
    constexpr std::uintptr_t kAlignment = 64;
    if (auto sound = shape.check(); !sound) return fail(sound.error());
    const std::uint64_t capacity_blocks = memory.size() / shape.bytes();
    if (capacity_blocks == 0 || capacity_blocks > UINT32_MAX ||
        reinterpret_cast<std::uintptr_t>(memory.data()) % kAlignment != 0) {
        return fail(Errc::Invalid, "expected aligned memory for 1 block of {} or more, saw {}",
                    format_bytes(shape.bytes()), format_bytes(memory.size()));
    }
    return PagedKv{shape, static_cast<std::uint32_t>(capacity_blocks), memory.data(), Free{.owned = false}};
}

PagedKv::PagedKv(const BlockShape& shape, std::uint32_t capacity_blocks, std::byte* arena, Free free)
    : shape_(shape), capacity_blocks_(capacity_blocks), arena_(arena, free), held_(capacity_blocks, false) {
    free_.reserve(capacity_blocks);
    for (std::uint32_t index = capacity_blocks; index-- > 0;) free_.push_back(index);
}

Result<std::uint32_t> PagedKv::acquire() {
    if (free_.empty()) return fail(Errc::NoCapacity, "all {} KV blocks are held", capacity_blocks_);
    const std::uint32_t index = free_.back();
    free_.pop_back();
    held_[index] = true;
    return index;
}

void PagedKv::release(std::uint32_t index) {
    CMPOOL_ASSERT(index < capacity_blocks_ && held_[index]);
    held_[index] = false;
    free_.push_back(index);
}

MutableBytes PagedKv::block_bytes(std::uint32_t index) noexcept {
    CMPOOL_ASSERT(index < capacity_blocks_);
    return {arena_.get() + shape_.bytes() * index, shape_.bytes()};
}

MutableBytes PagedKv::bytes() noexcept { return {arena_.get(), shape_.bytes() * capacity_blocks_}; }

BlockTable::~BlockTable() {
    for (const std::uint32_t index : blocks_) kv_->release(index);
}

Result<void> BlockTable::reserve(std::size_t tokens) {
    while (blocks_.size() * kv_->shape().tokens < tokens) {
        const auto index = kv_->acquire();
        if (!index) return fail(index.error());
        blocks_.push_back(*index);
    }
    return {};
}

}  // namespace cmpool::engine
