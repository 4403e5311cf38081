#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/client/kv_pages.h>
#include <cmpool/client/load.h>
#include <cmpool/client/pool_client.h>

namespace cmpool::client {

/// What a cache knows about a prompt.
struct Prefix {
    std::vector<Digest> keys;  ///< of the prompt's full blocks, root first
    std::size_t blocks = 0;    ///< how many of them, from the front, load() is worth calling for
    std::size_t present = 0;   ///< how many are there; more than `blocks` where recompute is cheaper now
    Match lease;
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
    /// Begins to load a prefix into `pages`, one page a block, from its back. `next_tokens` is how many
    /// tokens behind it the next step computes that can wait for layers; 0: none.
    [[nodiscard]] virtual std::unique_ptr<Load> load(Prefix prefix, std::span<const std::uint32_t> pages,
                                                     std::size_t next_tokens) = 0;
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
    bool by_layers = true;  ///< what is loaded last may come layer by layer, beside the next step
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
