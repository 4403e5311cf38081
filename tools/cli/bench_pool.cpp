// Our side of the bench: the calls that an engine makes.
#include "bench.h"
#include "connect.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include <cmpool/base/units.h>
#include <cmpool/model/placement.h>

namespace cmpool::cli {
namespace {

using client::Digest;
using client::Outcome;
using client::PoolClient;

constexpr std::uint32_t kChainTokens = 16;
/// Blocks that PutRoom::Refreshed removes in time, and puts anew at each turn: enough for what a pool
/// does ahead of need, few enough for a turn.
constexpr std::uint64_t kRefreshedBytesMax = 16 * MiB;
constexpr std::uint64_t kRefreshedBatchesMax = 64;
/// A pool that has not evicted after so many times its capacity never will.
constexpr std::uint64_t kFillUpCapacities = 2;

Result<void> expect_all(const client::Report& report, Outcome outcome, const char* what) {
    const auto count = report.count(outcome);
    if (count == report.blocks.size()) return {};
    return fail(report.trouble ? report.trouble->code : Errc::Corrupt,
                "expected a batch of {} blocks to be {}, saw {}{}{}", report.blocks.size(), what, count,
                report.trouble ? ": " : "", report.trouble ? report.trouble->detail : "");
}

void remove_all(PoolClient& pool, std::span<const Digest> keys) {
    for (; !keys.empty(); keys = keys.subspan(std::min(keys.size(), model::kBatchMax)))
        pool.remove(keys.first(std::min(keys.size(), model::kBatchMax)));
}

class GetWork final : public Work {
public:
    GetWork(const BenchCase& row, PoolClient& pool, const std::vector<Digest>& keys, MutableBytes buffer)
        : pool_(pool), keys_(keys), rng_(SystemEntropy().next_u64()) {
        for (std::uint32_t index = 0; index < row.batch; ++index)
            into_.push_back(buffer.subspan(index * row.size, row.size));
        for (const auto& into : into_) items_.push_back({.key = {}, .into = {&into, 1}});
    }
    Result<void> warm_up() override {
        for (std::size_t first = 0; first + items_.size() <= keys_.size(); first += items_.size()) {
            for (std::size_t at = 0; at < items_.size(); ++at) items_[at].key = keys_[first + at];
            auto done = run();
            if (!done) return done;
        }
        return {};
    }
    void prepare() override {
        for (auto& item : items_) item.key = keys_[rng_.below(keys_.size())];
    }
    Result<void> run() override { return expect_all(pool_.get(items_), Outcome::Hit, "hits"); }

private:
    PoolClient& pool_;
    const std::vector<Digest>& keys_;
    Rng rng_;
    std::vector<MutableBytes> into_;
    std::vector<client::GetItem> items_;
};

/// Stores new blocks.
class PutWork final : public Work {
public:
    PutWork(const BenchCase& row, PoolClient& pool, PutRoom room, std::uint64_t own_blocks,
            MutableBytes buffer)
        : pool_(pool),
          room_(room),
          own_batches_(std::max<std::uint64_t>(own_blocks / row.batch, 1)),
          rng_(SystemEntropy().next_u64()) {
        if (room == PutRoom::Refreshed)
            own_batches_ = std::clamp<std::uint64_t>(kRefreshedBytesMax / row.call_bytes(), 1,
                                                     std::min(own_batches_, kRefreshedBatchesMax));
        for (std::uint32_t index = 0; index < row.batch; ++index)
            from_.push_back(buffer.subspan(index * row.size, row.size));
        for (const auto& from : from_) items_.push_back({.key = {}, .from = {&from, 1}});
    }
    ~PutWork() override {
        std::vector<Digest> all;
        for (const auto& batch : stored_) all.insert(all.end(), batch.begin(), batch.end());
        remove_all(pool_, all);
    }
    Result<void> take_turn() override {
        if (room_ != PutRoom::Refreshed) return {};
        for (std::uint64_t count = 0; count < own_batches_; ++count) {
            prepare();
            if (auto put = store(); !put) return put;
        }
        complete_ = true;
        return {};
    }
    void prepare() override {
        if (stored_.size() >= own_batches_) {
            if (room_ != PutRoom::Evicted) {
                const auto removed = pool_.remove(stored_.front());
                complete_ = removed.count(Outcome::Hit) == items_.size();
            }
            stored_.pop_front();
        }
        auto& batch = stored_.emplace_back();
        for (auto& item : items_) {
            item.key = random_key(rng_);
            item.group = model::group_key({&item.key, 1}, 0, 1);
            batch.push_back(item.key);
        }
    }
    Result<void> run() override {
        if (room_ == PutRoom::Refreshed && !complete_)
            return fail(Errc::Corrupt,
                        "expected to remove {} blocks before as many are put, saw some of them evicted: the "
                        "pool is too small for this row",
                        items_.size());
        return store();
    }

private:
    Result<void> store() { return expect_all(pool_.put(items_), Outcome::Stored, "stored"); }

    PoolClient& pool_;
    PutRoom room_;
    std::uint64_t own_batches_;
    Rng rng_;
    bool complete_ = true;  ///< what was removed last was all there
    std::vector<Bytes> from_;
    std::vector<client::PutItem> items_;
    std::deque<std::vector<Digest>> stored_;
};

/// A match and the end of its lease: an engine pays for both.
class MatchWork final : public Work {
public:
    MatchWork(const BenchCase& row, PoolClient& pool, const std::vector<Digest>& keys)
        : pool_(pool), keys_(keys), batch_(row.batch), rng_(SystemEntropy().next_u64()) {}
    Result<void> warm_up() override {
        for (std::size_t first = 0; first < keys_.size(); first += batch_) {
            chain_ = std::span(keys_).subspan(first, batch_);
            auto done = run();
            if (!done) return done;
        }
        return {};
    }
    void prepare() override {
        chain_ = std::span(keys_).subspan(rng_.below(keys_.size() / batch_) * batch_, batch_);
    }
    Result<void> run() override {
        const auto match = pool_.match(chain_);
        if (match.blocks() == batch_) return {};
        return fail(Errc::Corrupt, "expected a chain of {} blocks to match, saw {}{}{}", batch_,
                    match.blocks(), match.trouble() ? ": " : "",
                    match.trouble() ? match.trouble()->detail : "");
    }

private:
    PoolClient& pool_;
    const std::vector<Digest>& keys_;
    std::uint32_t batch_;
    Rng rng_;
    std::span<const Digest> chain_;
};

Result<std::vector<Digest>> new_keys(const PoolClient& pool, const BenchCase& row, std::size_t count,
                                     Rng& rng) {
    std::vector<Digest> keys;
    if (row.op != BenchOp::Match) {
        for (std::size_t index = 0; index < count; ++index) keys.push_back(random_key(rng));
        return keys;
    }
    std::vector<std::uint32_t> tokens(count * kChainTokens);
    for (auto& token : tokens) token = static_cast<std::uint32_t>(rng.next());
    return pool.chain(tokens);
}

/// One call's worth of a filling: whole chains would not fit into one.
Result<void> put_batch(PoolClient& pool, std::span<const Digest> chain, std::size_t first, std::size_t count,
                       bool chained, Bytes block) {
    std::vector<client::PutItem> items;
    for (std::size_t at = first; at < first + count; ++at) {
        client::PutItem item{.key = chain[at], .from = {&block, 1}};
        if (chained) {
            item.position = static_cast<std::uint32_t>(at);
            if (at > 0) item.parent = chain[at - 1];
            item.group = model::group_key(chain, item.position, pool.spec().group_blocks);
        } else {
            item.group = model::group_key({&item.key, 1}, 0, 1);
        }
        items.push_back(item);
    }
    return expect_all(pool.put(items), Outcome::Stored, "stored");
}

}  // namespace

std::uint64_t PoolStats::of(std::string_view name) const {
    const auto found = values.find(name);
    return found == values.end() ? 0 : found->second;
}

Result<PoolStats> pool_stats(PoolClient& pool) {
    auto seen = pool.stats();
    if (!seen) return fail(seen.error());
    PoolStats stats;
    for (auto& [name, value] : *seen) stats.values.emplace(std::move(name), value);
    return stats;
}

client::NamespaceSpec bench_namespace(BenchOp op, bool sealed) {
    auto spec = tool_namespace({.name = op == BenchOp::Match ? "bench-chains"
                                        : sealed             ? "bench-sealed"
                                                             : "bench"});
    if (op == BenchOp::Match) {
        spec.block_tokens = kChainTokens;
        spec.group_blocks = model::kGroupBlocksDefault;
    }
    return spec;
}

Digest random_key(Rng& rng) {
    Digest key;
    for (std::size_t at = 0; at < key.bytes.size(); at += sizeof(std::uint64_t)) {
        const std::uint64_t word = rng.next();
        std::memcpy(key.bytes.data() + at, &word, sizeof word);
    }
    return key;
}

std::size_t BenchCase::fill_blocks() const noexcept {
    return std::clamp<std::size_t>(kFillBytesMax / size, 1, kFillBlocksMax);
}

Filling::Filling(PoolClient& pool, const BenchCase& row)
    : pool_(pool), row_(row), rng_(SystemEntropy().next_u64()), block_(row.size) {
    for (auto& byte : block_) byte = static_cast<std::byte>(rng_.next());
}

Result<void> Filling::put_more(std::uint64_t count) {
    const auto keys = new_keys(pool_, row_, count, rng_);
    if (!keys) return fail(keys.error());
    keys_.insert(keys_.end(), keys->begin(), keys->end());
    const std::size_t step = row_.fill_blocks();
    for (std::size_t first = 0; first < count; first += step) {
        const auto wanted = std::min<std::size_t>(step, count - first);
        auto put = put_batch(pool_, *keys, first, wanted, row_.op == BenchOp::Match, block_);
        if (!put) return put;
    }
    return {};
}

Result<std::unique_ptr<Filling>> Filling::put(PoolClient& pool, const BenchCase& row, std::uint64_t count,
                                              Progress& progress) {
    std::unique_ptr<Filling> filling(new Filling(pool, row));
    const std::uint64_t step = row.op == BenchOp::Match ? row.batch : row.fill_blocks();
    while (filling->keys_.size() < count) {
        progress.at(filling->keys_.size(), count);
        const auto left = count - filling->keys_.size();
        auto put = filling->put_more(row.op == BenchOp::Match ? step : std::min(step, left));
        if (!put) return fail(put.error());
    }
    return filling;
}

Result<std::unique_ptr<Filling>> Filling::fill_up(PoolClient& pool, const BenchCase& row,
                                                  Progress& progress) {
    const auto before = pool_stats(pool);
    if (!before) return fail(before.error());
    const auto capacity = before->of("capacity_bytes");
    std::unique_ptr<Filling> filling(new Filling(pool, row));
    std::uint64_t evicted = before->of("evicted_blocks");
    for (std::uint64_t put_bytes = 0; put_bytes < kFillUpCapacities * capacity;) {
        auto put = filling->put_more(row.fill_blocks());
        if (!put) return fail(put.error());
        put_bytes += row.fill_blocks() * row.size;
        const auto now = pool_stats(pool);
        if (!now) return fail(now.error());
        // A pool with room evicts now and then, too, where both of a block's buckets are full.
        const auto evicted_before = std::exchange(evicted, now->of("evicted_blocks"));
        if (evicted - evicted_before >= std::max<std::uint64_t>(row.fill_blocks() / 2, 1)) return filling;
        progress.at(now->of("block_bytes"), capacity);
    }
    return fail(Errc::NoCapacity, "expected a pool of {} to evict, saw it take {} without",
                format_bytes(capacity), format_bytes(kFillUpCapacities * capacity));
}

Filling::~Filling() { remove_all(pool_, keys_); }

std::unique_ptr<Work> put_work(const BenchCase& row, PoolClient& pool, PutRoom room, std::uint64_t own_blocks,
                               MutableBytes buffer) {
    return std::make_unique<PutWork>(row, pool, room, own_blocks, buffer);
}

std::unique_ptr<Work> pool_work(const BenchCase& row, PoolClient& pool, const std::vector<Digest>& keys,
                                std::uint64_t own_blocks, MutableBytes buffer) {
    switch (row.op) {
        case BenchOp::Put:
            return put_work(row, pool, PutRoom::Removed, own_blocks, buffer);
        case BenchOp::Match:
            return std::make_unique<MatchWork>(row, pool, keys);
        case BenchOp::Get:
        case BenchOp::Memory:
            break;
    }
    return std::make_unique<GetWork>(row, pool, keys, buffer);
}

}  // namespace cmpool::cli
