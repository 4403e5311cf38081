#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/client/meeting.h>
#include <cmpool/client/pool_client.h>

namespace cmpool::client {

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
    [[nodiscard]] std::uint64_t page_bytes() const noexcept { return piece_bytes() * layers * parts; }
    [[nodiscard]] std::size_t pages() const noexcept { return memory.size() / page_bytes(); }
    /// Appends where page `index` lies, in the pool's order: one piece, or layers x parts of them.
    void append_pieces(std::size_t index, std::vector<MutableBytes>& out) const;
    [[nodiscard]] Result<void> check() const;
};

/// What a cache knows about a prompt.
struct Prefix {
    std::vector<Digest> keys;  ///< of the prompt's full blocks, root first
    std::size_t blocks = 0;    ///< how many of them, from the front, load() is worth calling for
    std::size_t present = 0;   ///< how many are there; more than `blocks` where recompute is cheaper now
    Match lease;
};

/// What the computing side should do next about a prefix that is being loaded.
struct Advice {
    std::size_t compute_blocks = 0;  ///< compute so many from the front; 0: wait
    Nanos look_again{};              ///< when waiting: ask again after so long, or when a load reports
};

/// A prefix on its way into pages. Destroying it ends it: it returns when nothing writes to any page
/// any more, at most one batch's deadline later.
///
///   Threads  belongs to the computing side's thread
class Load {
public:
    /// What both sides see of it.
    struct State {
        State(std::size_t count, const Clock& time)
            : meeting(count), blocks(count), batch_begun(time.now()), clock(time) {}

        std::mutex mutex;
        std::condition_variable changed;
        Meeting meeting;
        std::size_t blocks;
        Instant batch_begun;  // of the range that is out, or will be next
        Nanos load_per_block{};
        ComputeCost compute;
        Instant computing_until{};  // what the computing side has claimed will be done by then
        bool patient = false;       // the computing side takes nothing while the loading side is at it
        const Clock& clock;
    };
    Load(std::shared_ptr<State> state, Match lease) noexcept
        : state_(std::move(state)), lease_(std::move(lease)) {}
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;
    ~Load();

    /// All blocks are here or claimed by the computing side.
    [[nodiscard]] bool met() const;
    [[nodiscard]] Advice advise() const;
    /// Takes up to `count` blocks from the front for computing; returns where the computing side ends.
    std::size_t claim(std::size_t count);
    /// Blocks that came from the cache, so far.
    [[nodiscard]] std::size_t loaded_blocks() const;

private:
    std::shared_ptr<State> state_;
    Match lease_;
};

/// Blocks on their way out of pages, which stay as they are until done().
///
///   Threads  any
class Store {
public:
    struct State {
        std::atomic<bool> done{false};
        std::atomic<bool> dropped{false};
    };
    Store() = default;
    explicit Store(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
    [[nodiscard]] bool done() const noexcept { return !state_ || state_->done.load(); }
    /// Nothing more is begun: done() follows within one batch's deadline.
    void drop() noexcept {
        if (state_) state_->dropped.store(true);
    }
    /// Returns when it is done.
    void wait() const noexcept {
        if (state_) state_->done.wait(false);
    }

private:
    std::shared_ptr<State> state_;
};

/// The prefix cache as an engine sees it: tokens in, blocks out. It never makes an engine slower than it is
/// without one: what cannot be had in time is a miss, what cannot be stored in time is dropped.
///
///   Threads  one caller; what runs beside it is the cache's own business
class ContextCache {
public:
    virtual ~ContextCache() = default;

    /// The longest run of cached blocks from the start of `tokens`, counting full blocks only, and a lease
    /// on them. Its `blocks` is 0 where computing them is cheaper now.
    [[nodiscard]] virtual Prefix match(std::span<const std::uint32_t> tokens) = 0;
    /// Begins to load a prefix into `pages`, one page a block, from its back.
    [[nodiscard]] virtual std::unique_ptr<Load> load(Prefix prefix, std::span<const std::uint32_t> pages) = 0;
    /// Hands in blocks [first, pages.size()) of a prompt for storing, and returns at once. Their bytes are
    /// borrowed until the Store is done.
    [[nodiscard]] virtual Store store(std::span<const std::uint32_t> tokens, std::size_t first,
                                      std::span<const std::uint32_t> pages) = 0;
    /// What computing prompt tokens has taken, so that loading can be weighed against it.
    virtual void computed(std::size_t tokens, Nanos time) = 0;
};

struct ContextCacheOptions {
    /// Called on a thread of the cache when a load or store got on; must not call back.
    std::function<void()> on_progress;
    /// Loads whatever is there and computes nothing of it meanwhile: what is reused then follows from what
    /// the pool holds, and not from who is faster today. Deadlines hold all the same.
    bool patient = false;
    /// Loads take at most so much of the way to the pool: an operator's cap, where others need it too. A
    /// batch then lasts as long as a wire of this rate would need for it. 0: nothing comes.
    std::optional<std::uint64_t> load_bytes_per_s;
};

/// Of one store queue.
inline constexpr std::size_t kStoreJobsMax = 64;

/// A cache in a pool. Three connections: matches on the caller's thread, loads and stores on one each.
///
///   Lifetime  `kv.memory` outlives it
///   Limits    kStoreJobsMax prompts wait to be stored, one more is dropped; it copies no payload, and
///             remembers 2 x 16,384 digests that were stored lately
///   Errors    Invalid for the URI or the pages; Denied and Mismatch when the pool refuses. A pool that is
///             not there is no error, only misses
[[nodiscard]] Result<std::unique_ptr<ContextCache>> open_context_cache(std::string_view uri,
                                                                       const NamespaceSpec& spec,
                                                                       const KvPages& kv,
                                                                       ContextCacheOptions options = {});

}  // namespace cmpool::client
