#include "loader.h"
#include "storer.h"

#include <algorithm>

#include <cmpool/client/context_cache.h>
#include <cmpool/client/rank_cache.h>

namespace cmpool::client {

namespace {

using namespace std::chrono_literals;

// Before anything was measured.
constexpr Nanos kComputeGuess = 100us;  // a token
constexpr double kLoadGuessNsPerByte = 1.0;
// Loading must save so much time, and so large a part of it, to be worth the trouble; when it lately did
// not, it is tried again after a while.
constexpr Nanos kWorthIt = 100us;
constexpr int kLittle = 8;
constexpr Nanos kTryAgain = 1s;

class PoolCache final : public RankCache {
public:
    PoolCache(std::string_view uri, std::unique_ptr<PoolClient> pool, const KvPages& kv, const Rank& rank,
              ContextCacheOptions options)
        : pool_(std::move(pool)),
          kv_(kv),
          share_{rank},
          patient_(options.patient),
          by_layers_(options.by_layers) {
        shared_.on_progress = std::move(options.on_progress);
        const std::string where(uri);
        loads_.emplace(
            std::make_unique<Loader>(where, pool_->spec(), kv, share_, shared_, options.load_bytes_per_s),
            kLoadJobsMax);
        stores_.emplace(std::make_unique<Storer>(where, pool_->spec(), kv, share_, shared_), kStoreJobsMax);
    }

    Prefix match(std::span<const std::uint32_t> tokens) override {
        pool_->progress();
        Prefix prefix;
        auto keys = pool_->chain(tokens);
        if (!keys || keys->empty()) return prefix;
        keys->resize(std::min(keys->size(), model::kBatchMax / share_.parts()));
        prefix.lease = pool_->match(*keys, kLeaseMsDefault, {.parts = share_.parts()});
        prefix.keys = std::move(*keys);
        prefix.present = prefix.lease.blocks();
        const std::scoped_lock lock(shared_.mutex);
        if (!prefix.lease.trouble()) forget(std::span(prefix.keys).subspan(prefix.present));
        prefix.blocks = worth_loading(prefix.present) ? prefix.present : 0;
        return prefix;
    }

    std::unique_ptr<Load> load(Prefix prefix, std::span<const std::uint32_t> pages,
                               std::size_t next_tokens) override {
        prefix.blocks = std::min(prefix.blocks, pages.size());
        auto state = std::make_shared<Load::State>(prefix.blocks, shared_.clock);
        {
            const std::scoped_lock lock(shared_.mutex);
            state->compute = compute_cost();
            state->load_per_block = load_per_block();
            state->patient = patient_;
            if (by_layers_ && next_tokens > 0 && kv_.layers > 1 && !share_.striped())
                state->beside = beside(next_tokens);
        }
        prefix.keys.resize(prefix.blocks);
        return hand_in(std::move(state), std::move(prefix.keys), pages, std::move(prefix.lease));
    }

    Ticket ticket(const Prefix& prefix) const override {
        Ticket ticket{.epoch = pool_->status().incarnation,
                      .blocks = static_cast<std::uint32_t>(prefix.blocks),
                      .leased = prefix.lease.leased() ? 1U : 0U};
        if (prefix.blocks > 0) ticket.last = prefix.keys[prefix.blocks - 1];
        return ticket;
    }

    std::unique_ptr<Load> load(const Ticket& ticket, std::span<const std::uint32_t> tokens,
                               std::span<const std::uint32_t> pages) override {
        pool_->progress();
        auto state = std::make_shared<Load::State>(ticket.blocks, shared_.clock);
        state->patient = true;
        auto keys = pool_->chain(tokens);
        const bool fits = keys && ticket.blocks <= keys->size() && ticket.blocks <= pages.size() &&
                          ticket.epoch == pool_->status().incarnation &&
                          (ticket.blocks == 0 || (*keys)[ticket.blocks - 1] == ticket.last);
        if (!fits) {
            state->meeting.stop();
            return std::make_unique<Load>(std::move(state), Match{});
        }
        {
            const std::scoped_lock lock(shared_.mutex);
            forget(std::span(*keys).subspan(ticket.blocks));
        }
        keys->resize(ticket.blocks);
        return hand_in(std::move(state), std::move(*keys), pages, {});
    }

    Store store(std::span<const std::uint32_t> tokens, std::size_t first,
                std::span<const std::uint32_t> pages) override {
        if (share_.striped() && share_.rank.index > 0) return Store();  // rank 0 has the same bytes
        auto state = std::make_shared<Store::State>();
        if (!stores_->hand_in({state, {tokens.begin(), tokens.end()}, first, {pages.begin(), pages.end()}})) {
            return Store();
        }
        return Store(std::move(state));
    }

    void computed(std::size_t tokens, Nanos time) override {
        const std::scoped_lock lock(shared_.mutex);
        shared_.costs.computed(tokens, time);
    }

private:
    static constexpr std::size_t kLoadJobsMax = 256;

    std::unique_ptr<Load> hand_in(std::shared_ptr<Load::State> state, std::vector<Digest> keys,
                                  std::span<const std::uint32_t> pages, Match lease) {
        const auto count = static_cast<std::ptrdiff_t>(keys.size());
        LoadJob job{state, std::move(keys), {pages.begin(), pages.begin() + count}, lease.places()};
        if (!loads_->hand_in(std::move(job))) state->meeting.stop();
        return std::make_unique<Load>(std::move(state), std::move(lease));
    }
    // Gone from the pool, they may be stored again.
    void forget(std::span<const Digest> blocks) {
        for (const auto& block : blocks) shared_.recent.forget(share_.key(block));
    }
    [[nodiscard]] ComputeCost compute_cost() const {
        const ComputeCost guess{.block = kComputeGuess * kv_.block_tokens};
        return shared_.costs.compute(kv_.block_tokens).value_or(guess);
    }
    // Some of the next step's time is kept back, since both it and loading are only known roughly.
    [[nodiscard]] Nanos beside(std::size_t next_tokens) const {
        const auto cost = shared_.costs.compute(next_tokens);
        return cost ? (cost->step + cost->block) / kLittle * (kLittle - 1) : Nanos{0};
    }
    [[nodiscard]] Nanos load_per_block() const {
        const std::uint64_t bytes = share_.block_bytes(kv_);
        const Nanos guess(static_cast<std::int64_t>(double(bytes) * kLoadGuessNsPerByte));
        return shared_.costs.load(bytes).value_or(guess);
    }
    // The time that meeting in the middle saves against computing all, when all goes as it lately did.
    [[nodiscard]] bool worth_loading(std::size_t blocks) {
        if (blocks == 0) return false;
        const Instant now = shared_.clock.now();
        const Nanos load = load_per_block();
        const ComputeCost compute = compute_cost();
        const auto count = static_cast<std::int64_t>(blocks);
        const Nanos alone = compute.step + compute.block * count;
        const auto share = static_cast<std::int64_t>(front_share(blocks, load, compute));
        const bool worth = alone - load * (count - share) > std::max(kWorthIt, alone / kLittle);
        if (!worth && !patient_ && now < try_again_) return false;
        if (!worth) try_again_ = now + kTryAgain;
        return true;
    }

    Shared shared_;
    std::unique_ptr<PoolClient> pool_;
    KvPages kv_;
    Share share_;
    bool patient_;
    bool by_layers_;
    Instant try_again_{};
    std::optional<Line<LoadJob, Loader>> loads_;
    std::optional<Line<StoreJob, Storer>> stores_;
};

Result<void> check(const Rank& rank, const KvPages& kv) {
    if (rank.count == 0 || rank.count > kRanksMax || rank.index >= rank.count) {
        return fail(Errc::Invalid, "expected a rank of 1 to {}, saw rank {} of {}", kRanksMax, rank.index,
                    rank.count);
    }
    const Share share{rank};
    if (share.striped() && kv.page_bytes() < std::uint64_t{64} * rank.count) {
        return fail(Errc::Invalid, "expected pages of 64 bytes for each of {} ranks, saw {} bytes",
                    rank.count, kv.page_bytes());
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<RankCache>> open_rank_cache(std::string_view uri, const NamespaceSpec& spec,
                                                   const KvPages& kv, const Rank& rank,
                                                   ContextCacheOptions options) {
    if (auto sound = kv.check(); !sound) return fail(sound.error());
    if (auto sound = check(rank, kv); !sound) return fail(sound.error());
    if (spec.block_tokens != kv.block_tokens) {
        return fail(Errc::Invalid, "expected pages of the namespace's {} tokens, saw {}", spec.block_tokens,
                    kv.block_tokens);
    }
    auto pool = PoolClient::open(uri, spec);
    if (!pool) return fail(pool.error());
    return std::make_unique<PoolCache>(uri, std::move(*pool), kv, rank, std::move(options));
}

Result<std::unique_ptr<ContextCache>> open_context_cache(std::string_view uri, const NamespaceSpec& spec,
                                                         const KvPages& kv, ContextCacheOptions options) {
    auto cache = open_rank_cache(uri, spec, kv, {}, std::move(options));
    if (!cache) return fail(cache.error());
    return std::move(*cache);
}

}  // namespace cmpool::client
