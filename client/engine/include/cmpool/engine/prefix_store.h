#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <cmpool/base/bytes.h>
#include <cmpool/base/clock.h>

namespace cmpool::engine {

/// Where prefix blocks come from and go to. Every failure is a miss.
/// `pages[i]` is the block of tokens [i * block_tokens, (i + 1) * block_tokens): views into a
/// PagedKv, so that bytes can be scattered straight into them and put straight from them.
///
///   Threads  one caller; an implementation's own threads are its business
///   Limits   load() by the implementation's deadline, flush() by its argument; store() never waits
class PrefixStore {
public:
    virtual ~PrefixStore() = default;

    /// Fills the longest run of cached blocks, from the front; returns how many are now filled,
    /// 0 for a miss. The content of the other pages is undefined. After the return nothing writes
    /// to any page any more.
    virtual std::size_t load(std::span<const std::uint32_t> tokens, std::span<const MutableBytes> pages) = 0;

    /// Hands in blocks [first, pages.size()) for storing; those before are known to the store or were
    /// handed in earlier. Returns at once. Tokens and the list of pages are copied; the pages' bytes
    /// are only borrowed, and stay as they are until flush() has returned.
    virtual void store(std::span<const std::uint32_t> tokens, std::size_t first,
                       std::span<const Bytes> pages) = 0;

    /// Waits until all that was handed in is stored, at most `limit`; drops what is left then. After
    /// the return nothing reads any page any more.
    virtual void flush(Nanos limit) = 0;
};

}  // namespace cmpool::engine
