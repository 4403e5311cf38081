#include <algorithm>
#include <deque>
#include <optional>
#include <thread>
#include <unordered_set>

#include <cmpool/base/units.h>
#include <cmpool/client/context_cache.h>
#include <cmpool/model/placement.h>

#include <sys/resource.h>

namespace cmpool::client {

void KvPages::append_pieces(std::size_t index, std::vector<MutableBytes>& out) const {
    if (order == Order::PageFirst) {
        out.push_back(memory.subspan(index * page_bytes(), page_bytes()));
        return;
    }
    const std::size_t row = pages() * piece_bytes();
    for (std::size_t part = 0; part < std::size_t{layers} * parts; ++part)
        out.push_back(memory.subspan(part * row + index * piece_bytes(), piece_bytes()));
}

Result<void> KvPages::check() const {
    std::uint64_t product = 1;
    for (const std::uint64_t factor : {layers, parts, heads, head_size, elem_bytes, block_tokens}) {
        if (factor == 0) return fail(Errc::Invalid, "expected KV pages without zeros in their shape");
        product *= factor;
        if (product > model::kBlockBytesMax) {
            return fail(Errc::Invalid,
                        "expected a page of at most {}, saw {} x {} x {} x {} x {} of {} bytes",
                        format_bytes(model::kBlockBytesMax), layers, parts, block_tokens, heads, head_size,
                        elem_bytes);
        }
    }
    if (memory.empty() || memory.size() % page_bytes() != 0) {
        return fail(Errc::Invalid, "expected memory of whole pages of {} bytes, saw {} bytes", page_bytes(),
                    memory.size());
    }
    return {};
}

namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kBatchBytesMax = 16 * MiB;
constexpr std::uint64_t kFirstBatchBytes = 256 * KiB;  // nobody knows yet how fast it is
constexpr Nanos kBatchDeadlineMin = 20ms;
constexpr int kBatchLateness = 8;  // a batch may take so many times what it usually takes
constexpr std::uint64_t kStoreBatchBytes = 8 * MiB;
constexpr int kStoreNiceness = 10;
// Before anything was measured.
constexpr Nanos kComputeGuess = 100us;  // a token
constexpr double kLoadGuessNsPerByte = 1.0;
// Loading must save so much time, and so large a part of it, to be worth the trouble; when it lately did
// not, it is tried again after a while.
constexpr Nanos kWorthIt = 100us;
constexpr int kLittle = 8;
constexpr Nanos kTryAgain = 1s;
constexpr std::size_t kRecentMax = 16'384;

/// Digests that were stored lately: two generations, of which the older is forgotten.
class Recent {
public:
    [[nodiscard]] bool contains(const Digest& digest) const {
        return young_.contains(digest) || old_.contains(digest);
    }
    void add(const Digest& digest) {
        if (young_.size() >= kRecentMax) {
            old_ = std::move(young_);
            young_.clear();
        }
        young_.insert(digest);
    }
    void forget(const Digest& digest) {
        young_.erase(digest);
        old_.erase(digest);
    }

private:
    std::unordered_set<Digest> young_, old_;
};

/// What the threads of a cache share.
struct Shared {
    std::mutex mutex;
    CostModel costs;
    Recent recent;
    SystemClock clock;
    std::function<void()> on_progress;

    void progressed() const {
        if (on_progress) on_progress();
    }
};

/// Calls of one kind, one after the other, on a thread with a client of its own.
template <class Job, class Worker>
class Line {
public:
    explicit Line(std::unique_ptr<Worker> worker, std::size_t jobs_max)
        : worker_(std::move(worker)),
          jobs_max_(jobs_max),
          thread_([this](const std::stop_token& stop) { run(stop); }) {}

    [[nodiscard]] bool hand_in(Job job) {
        const std::scoped_lock lock(mutex_);
        if (jobs_.size() >= jobs_max_) return false;
        jobs_.push_back(std::move(job));
        changed_.notify_one();
        return true;
    }

private:
    void run(const std::stop_token& stop) {
        worker_->open();
        std::unique_lock lock(mutex_);
        while (changed_.wait(lock, stop, [this] { return !jobs_.empty(); }) && !stop.stop_requested()) {
            Job job = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            worker_->work(job, stop);
            lock.lock();
        }
        for (Job& job : jobs_) worker_->give_up(job);
    }

    std::unique_ptr<Worker> worker_;
    std::size_t jobs_max_;
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::deque<Job> jobs_;
    std::jthread thread_;  // last: it ends before what it uses
};

/// A pool, as a thread sees it that may find it absent.
class Caller {
public:
    Caller(std::string uri, const NamespaceSpec& spec, const KvPages& kv, Shared& shared)
        : uri_(std::move(uri)), spec_(spec), kv_(kv), shared_(shared) {}

    void open() {
        auto pool = PoolClient::open(uri_, spec_);
        if (!pool) return;  // the caller's own client had the same answer
        pool_ = std::move(*pool);
        if (auto pages = pool_->register_buffer(kv_.memory)) pages_.emplace(std::move(*pages));
    }

protected:
    std::string uri_;
    NamespaceSpec spec_;
    KvPages kv_;
    Shared& shared_;
    std::unique_ptr<PoolClient> pool_;
    std::optional<Registration> pages_;
};

struct LoadJob {
    std::shared_ptr<Load::State> state;
    std::vector<Digest> keys;
    std::vector<std::uint32_t> pages;
};

class Loader : public Caller {
public:
    Loader(std::string uri, const NamespaceSpec& spec, const KvPages& kv, Shared& shared,
           std::optional<std::uint64_t> bytes_per_s)
        : Caller(std::move(uri), spec, kv, shared), bytes_per_s_(bytes_per_s) {}

    void work(const LoadJob& job, const std::stop_token& stop) {
        bool more = !stop.stop_requested() && pool_ != nullptr;
        while (more) more = load_batch(job) && !stop.stop_requested();
        give_up(job);
    }
    void give_up(const LoadJob& job) {
        {
            const std::scoped_lock lock(job.state->mutex);
            job.state->meeting.stop();
            job.state->changed.notify_all();
        }
        shared_.progressed();
    }

private:
    bool load_batch(const LoadJob& job) {
        Load::State& state = *job.state;
        const Instant begun = shared_.clock.now();
        Meeting::Range range;
        Nanos until_met{};
        {
            const std::scoped_lock lock(state.mutex);
            range = state.meeting.claim_back(batch_blocks());
            state.batch_begun = begun;
            until_met = std::max(state.computing_until - begun, Nanos{0}) +
                        state.compute.block * static_cast<std::int64_t>(state.meeting.unclaimed());
        }
        if (range.count == 0) return false;
        const auto limit = deadline(range.count, until_met, state.patient);
        const Nanos least = time_on_the_way(range.count);
        const bool late = limit && least > *limit;
        const std::size_t good = late ? 0 : get(job, range, limit);
        hold(state, begun + (late ? *limit : least));
        const Nanos took = shared_.clock.now() - begun;
        const auto per_block = learn(range.count, good, took);
        {
            const std::scoped_lock lock(state.mutex);
            state.meeting.landed(good);
            state.load_per_block = per_block;
            state.batch_begun = shared_.clock.now();
            state.changed.notify_all();
        }
        shared_.progressed();
        return good == range.count;
    }

    [[nodiscard]] Nanos time_on_the_way(std::size_t blocks) const {
        constexpr double kLongest = 1e15;  // some eleven days
        if (!bytes_per_s_) return Nanos{0};
        const double seconds =
            double(kv_.page_bytes() * blocks) / double(std::max<std::uint64_t>(*bytes_per_s_, 1));
        return Nanos(static_cast<std::int64_t>(std::min(seconds * 1e9, kLongest)));
    }
    // Until then, or until nobody wants it any more.
    void hold(Load::State& state, Instant until) {
        std::unique_lock lock(state.mutex);
        state.changed.wait_for(lock, until - shared_.clock.now(), [&] { return state.meeting.stopped(); });
    }

    std::size_t get(const LoadJob& job, Meeting::Range range, std::optional<Nanos> limit) {
        std::vector<MutableBytes> pieces;
        for (std::size_t index = range.first; index < range.first + range.count; ++index)
            kv_.append_pieces(job.pages[index], pieces);
        const std::size_t each = pieces.size() / range.count;
        std::vector<GetItem> items;
        for (std::size_t index = 0; index < range.count; ++index) {
            const auto position = static_cast<std::uint32_t>(range.first + index);
            items.push_back({job.keys[position], std::span(pieces).subspan(index * each, each),
                             model::group_key(job.keys, position, spec_.group_blocks)});
        }
        const auto report = pool_->get(items, {.deadline = limit});
        std::size_t good = 0;
        while (good < range.count) {
            const auto& block = report.blocks[range.count - 1 - good];
            if (block.outcome != Outcome::Hit || block.bytes != kv_.page_bytes()) break;
            ++good;
        }
        return good;
    }

    [[nodiscard]] std::size_t batch_blocks() {
        const std::scoped_lock lock(shared_.mutex);
        const auto page = shared_.costs.load(kv_.page_bytes());
        const std::uint64_t most = std::max<std::uint64_t>(kBatchBytesMax / kv_.page_bytes(), 1);
        std::uint64_t count = std::max<std::uint64_t>(kFirstBatchBytes / kv_.page_bytes(), 1);
        if (page) count = static_cast<std::uint64_t>(kBatchTime / std::max(*page, Nanos{1}));
        return std::clamp<std::uint64_t>(count, 1, std::min<std::uint64_t>(most, model::kBatchMax));
    }
    // What is not there by then is computed. A late batch may cost its engine about as much as computing it
    // would, and ends before the engine, busy until `until_met`, is there: then nobody waits. Shorter
    // deadlines would open the breaker on a machine that is merely busy.
    [[nodiscard]] std::optional<Nanos> deadline(std::size_t blocks, Nanos until_met, bool patient) {
        const auto parsed = PoolUri::parse(uri_);
        if (!parsed) return std::nullopt;
        if (patient) return parsed->deadline;
        const std::scoped_lock lock(shared_.mutex);
        const auto usual = shared_.costs.load(kv_.page_bytes() * blocks).value_or(Nanos{0});
        Nanos limit = usual * kBatchLateness;
        if (const auto cost = shared_.costs.compute(kv_.block_tokens)) {
            const Nanos otherwise = cost->step + cost->block * static_cast<std::int64_t>(blocks);
            limit =
                std::min(std::max(limit, otherwise), std::max(otherwise, until_met - until_met / kLittle));
        }
        return std::min(parsed->deadline, std::max(kBatchDeadlineMin, limit));
    }
    Nanos learn(std::size_t asked, std::size_t good, Nanos took) {
        const std::scoped_lock lock(shared_.mutex);
        // How long what did not come would have taken, nobody knows: long.
        shared_.costs.loaded(kv_.page_bytes() * (good == 0 ? asked : good),
                             good == 0 ? took * kBatchLateness : took);
        return *shared_.costs.load(kv_.page_bytes());
    }

    std::optional<std::uint64_t> bytes_per_s_;
};

struct StoreJob {
    std::shared_ptr<Store::State> state;
    std::vector<std::uint32_t> tokens;
    std::size_t first;
    std::vector<std::uint32_t> pages;
};

class Storer : public Caller {
public:
    using Caller::Caller;

    // On Linux each thread has a niceness of its own: whoever computes goes first.
    void open() {
        (void)::setpriority(PRIO_PROCESS, 0, kStoreNiceness);
        Caller::open();
    }
    void work(const StoreJob& job, const std::stop_token& stop) {
        if (pool_) put_all(job, stop);
        give_up(job);
    }
    void give_up(const StoreJob& job) {
        job.state->done.store(true);
        job.state->done.notify_all();
        shared_.progressed();
    }

private:
    void put_all(const StoreJob& job, const std::stop_token& stop) {
        const auto keys = pool_->chain(job.tokens);
        if (!keys || keys->size() < job.pages.size()) {
            pool_->progress();  // not connected yet: that is found out on the side
            return;
        }
        const std::uint64_t batch = std::max<std::uint64_t>(kStoreBatchBytes / kv_.page_bytes(), 1);
        std::vector<std::size_t> wanted;
        for (std::size_t index = job.first; index < job.pages.size(); ++index) {
            if (!is_recent((*keys)[index])) wanted.push_back(index);
        }
        for (std::size_t at = 0; at < wanted.size(); at += batch) {
            if (job.state->dropped.load() || stop.stop_requested()) return;
            const auto count = std::min<std::size_t>({wanted.size() - at, batch, model::kBatchMax});
            if (!put(job, *keys, std::span(wanted).subspan(at, count))) return;
        }
    }

    // False when the pool is not up to it: what is left is dropped.
    bool put(const StoreJob& job, std::span<const Digest> keys, std::span<const std::size_t> wanted) {
        std::vector<MutableBytes> pieces;
        for (const std::size_t index : wanted) kv_.append_pieces(job.pages[index], pieces);
        const std::vector<Bytes> from(pieces.begin(), pieces.end());
        const std::size_t each = from.size() / wanted.size();
        std::vector<PutItem> items;
        for (std::size_t at = 0; at < wanted.size(); ++at) {
            const auto position = static_cast<std::uint32_t>(wanted[at]);
            items.push_back({.key = keys[position],
                             .from = std::span(from).subspan(at * each, each),
                             .parent = position == 0 ? model::kNoParent : keys[position - 1],
                             .position = position,
                             .group = model::group_key(keys, position, spec_.group_blocks),
                             .cost_us = cost_us()});
        }
        const auto report = pool_->put(items);
        const std::scoped_lock lock(shared_.mutex);
        for (std::size_t at = 0; at < wanted.size(); ++at) {
            const auto outcome = report.blocks[at].outcome;
            if (outcome == Outcome::Stored || outcome == Outcome::Present)
                shared_.recent.add(keys[wanted[at]]);
        }
        return !report.trouble;
    }

    [[nodiscard]] bool is_recent(const Digest& digest) {
        const std::scoped_lock lock(shared_.mutex);
        return shared_.recent.contains(digest);
    }
    [[nodiscard]] std::uint32_t cost_us() {
        const std::scoped_lock lock(shared_.mutex);
        const Nanos cost = shared_.costs.compute(kv_.block_tokens).value_or(ComputeCost{}).block;
        return static_cast<std::uint32_t>(std::clamp<std::int64_t>(cost / 1us, 0, UINT32_MAX));
    }
};

class PoolCache final : public ContextCache {
public:
    PoolCache(std::string_view uri, std::unique_ptr<PoolClient> pool, const KvPages& kv,
              ContextCacheOptions options)
        : pool_(std::move(pool)), kv_(kv), patient_(options.patient) {
        shared_.on_progress = std::move(options.on_progress);
        const std::string where(uri);
        loads_.emplace(std::make_unique<Loader>(where, pool_->spec(), kv, shared_, options.load_bytes_per_s),
                       kLoadJobsMax);
        stores_.emplace(std::make_unique<Storer>(where, pool_->spec(), kv, shared_), kStoreJobsMax);
    }

    Prefix match(std::span<const std::uint32_t> tokens) override {
        pool_->progress();
        Prefix prefix;
        auto keys = pool_->chain(tokens);
        if (!keys || keys->empty()) return prefix;
        keys->resize(std::min(keys->size(), model::kBatchMax));
        prefix.lease = pool_->match(*keys);
        prefix.keys = std::move(*keys);
        prefix.present = prefix.lease.blocks();
        const std::scoped_lock lock(shared_.mutex);
        if (!prefix.lease.trouble()) {
            // Gone from the pool, it may be stored again.
            for (const auto& key : std::span(prefix.keys).subspan(prefix.present)) shared_.recent.forget(key);
        }
        prefix.blocks = worth_loading(prefix.present) ? prefix.present : 0;
        return prefix;
    }

    std::unique_ptr<Load> load(Prefix prefix, std::span<const std::uint32_t> pages) override {
        prefix.blocks = std::min(prefix.blocks, pages.size());
        auto state = std::make_shared<Load::State>(prefix.blocks, shared_.clock);
        {
            const std::scoped_lock lock(shared_.mutex);
            state->compute = compute_cost();
            state->load_per_block = load_per_block();
            state->patient = patient_;
        }
        prefix.keys.resize(prefix.blocks);
        LoadJob job{state, std::move(prefix.keys), {pages.begin(), pages.begin() + ptrdiff_t(prefix.blocks)}};
        if (!loads_->hand_in(std::move(job))) state->meeting.stop();
        return std::make_unique<Load>(std::move(state), std::move(prefix.lease));
    }

    Store store(std::span<const std::uint32_t> tokens, std::size_t first,
                std::span<const std::uint32_t> pages) override {
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

    [[nodiscard]] ComputeCost compute_cost() const {
        const ComputeCost guess{.block = kComputeGuess * kv_.block_tokens};
        return shared_.costs.compute(kv_.block_tokens).value_or(guess);
    }
    [[nodiscard]] Nanos load_per_block() const {
        const Nanos guess(static_cast<std::int64_t>(double(kv_.page_bytes()) * kLoadGuessNsPerByte));
        return shared_.costs.load(kv_.page_bytes()).value_or(guess);
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
    bool patient_;
    Instant try_again_{};
    std::optional<Line<LoadJob, Loader>> loads_;
    std::optional<Line<StoreJob, Storer>> stores_;
};

}  // namespace

Result<std::unique_ptr<ContextCache>> open_context_cache(std::string_view uri, const NamespaceSpec& spec,
                                                         const KvPages& kv, ContextCacheOptions options) {
    if (auto sound = kv.check(); !sound) return fail(sound.error());
    if (spec.block_tokens != kv.block_tokens) {
        return fail(Errc::Invalid, "expected pages of the namespace's {} tokens, saw {}", spec.block_tokens,
                    kv.block_tokens);
    }
    auto pool = PoolClient::open(uri, spec);
    if (!pool) return fail(pool.error());
    return std::make_unique<PoolCache>(uri, std::move(*pool), kv, std::move(options));
}

}  // namespace cmpool::client
