#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include <cmpool/engine/pool_prefix_store.h>
#include <cmpool/model/placement.h>

namespace cmpool::engine {
namespace {

using client::PoolClient;

/// A chain whose blocks [first, pages.size()) are to be stored.
struct Job {
    std::vector<std::uint32_t> tokens;
    std::size_t first;
    std::vector<Bytes> pages;
};

/// Stores chains one after the other on a thread with a client of its own.
class Storer {
public:
    explicit Storer(std::unique_ptr<PoolClient> pool)
        : pool_(std::move(pool)), thread_([this](const std::stop_token& stop) { run(stop); }) {}

    void hand_in(Job job) {
        const std::scoped_lock lock(mutex_);
        if (jobs_.size() >= kStoreQueueMax) return;
        jobs_.push_back(std::move(job));
        changed_.notify_all();
    }

    void flush(Nanos limit) {
        std::unique_lock lock(mutex_);
        const auto idle = [this] { return jobs_.empty() && !busy_; };
        if (changed_.wait_for(lock, limit, idle)) return;
        jobs_.clear();
        changed_.wait(lock, [this] { return !busy_; });  // a put ends by its deadline
    }

private:
    void run(const std::stop_token& stop) {
        std::unique_lock lock(mutex_);
        while (changed_.wait(lock, stop, [this] { return !jobs_.empty(); })) {
            const Job job = std::move(jobs_.front());
            jobs_.pop_front();
            busy_ = true;
            lock.unlock();
            store(job);
            lock.lock();
            busy_ = false;
            changed_.notify_all();
        }
    }

    void store(const Job& job) {
        const auto keys = pool_->chain(job.tokens);
        if (!keys || keys->size() < job.pages.size()) {
            pool_->progress();  // not connected yet: that is found out on the side
            return;
        }
        const std::uint32_t group_blocks = pool_->spec().group_blocks;
        std::vector<client::PutItem> items;
        for (std::size_t index = job.first; index < job.pages.size(); ++index) {
            const auto position = static_cast<std::uint32_t>(index);
            items.push_back({.key = (*keys)[index],
                             .from = {&job.pages[index], 1},
                             .parent = index == 0 ? model::kNoParent : (*keys)[index - 1],
                             .position = position,
                             .group = model::group_key(*keys, position, group_blocks)});
        }
        for (std::size_t at = 0; at < items.size(); at += model::kBatchMax) {
            const auto count = std::min(items.size() - at, model::kBatchMax);
            (void)pool_->put(std::span(items).subspan(at, count));
        }
    }

    std::unique_ptr<PoolClient> pool_;
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::deque<Job> jobs_;
    bool busy_ = false;
    std::jthread thread_;  // last: it ends before what it uses
};

class PoolPrefixStore final : public PrefixStore {
public:
    PoolPrefixStore(std::unique_ptr<PoolClient> reader, std::unique_ptr<PoolClient> writer,
                    client::Registration pages, Nanos deadline)
        : pool_(std::move(reader)),
          pages_(std::move(pages)),
          deadline_(deadline),
          storer_(std::move(writer)) {}

    std::size_t load(std::span<const std::uint32_t> tokens, std::span<const MutableBytes> pages) override {
        pool_->progress();
        auto keys = pool_->chain(tokens);
        if (!keys) return 0;
        keys->resize(std::min({keys->size(), pages.size(), model::kBatchMax}));
        // Both calls together have one deadline.
        const Instant ends = clock_.now() + deadline_;
        const auto match = pool_->match(*keys);
        std::vector<client::GetItem> items;
        for (std::size_t index = 0; index < match.blocks(); ++index)
            items.push_back({(*keys)[index], {&pages[index], 1}});
        const auto report = pool_->get(items, {.deadline = ends - clock_.now()});
        // Only what came whole, and only from the front: a gap ends the prefix.
        std::size_t filled = 0;
        for (const auto& block : report.blocks) {
            if (block.outcome != client::Outcome::Hit || block.bytes != pages[filled].size()) break;
            ++filled;
        }
        return filled;
    }

    void store(std::span<const std::uint32_t> tokens, std::size_t first,
               std::span<const Bytes> pages) override {
        storer_.hand_in({{tokens.begin(), tokens.end()}, first, {pages.begin(), pages.end()}});
    }

    void flush(Nanos limit) override { storer_.flush(limit); }

private:
    SystemClock clock_;
    std::unique_ptr<PoolClient> pool_;
    client::Registration pages_;
    Nanos deadline_;
    Storer storer_;
};

}  // namespace

client::NamespaceSpec namespace_of(const Model& model, const BlockShape& shape) {
    // The revision names weights and block size, so that either changed is another namespace and not
    // a refusal.
    const auto weights = model::plain_digest(model::DigestKind::Fingerprint, as_bytes(model.identity()));
    return {.model = "cmpool-engine",
            .revision = fmt::format("{}-b{}", to_hex(weights.bytes).substr(0, 16), shape.tokens),
            .dtype = "f32",
            .layout = fmt::format("layers {} x kv {} x tokens {} x heads {} x dim {}", shape.layers,
                                  shape.parts, shape.tokens, shape.kv_heads, shape.head_dim),
            .parallel = "1",
            .engine = model.identity().substr(0, model::kNameBytesMax),
            .block_tokens = shape.tokens};
}

Result<std::unique_ptr<PrefixStore>> open_pool_prefix_store(std::string_view uri, const Model& model,
                                                            PagedKv& kv) {
    const auto parsed = client::PoolUri::parse(uri);
    if (!parsed) return fail(parsed.error());
    const auto spec = namespace_of(model, kv.shape());
    auto reader = PoolClient::open(uri, spec);
    if (!reader) return fail(reader.error());
    auto writer = PoolClient::open(uri, spec);
    if (!writer) return fail(writer.error());
    auto pages = (*writer)->register_buffer(kv.bytes());
    if (!pages) return fail(pages.error());
    return std::make_unique<PoolPrefixStore>(std::move(*reader), std::move(*writer), std::move(*pages),
                                             parsed->deadline);
}

}  // namespace cmpool::engine
