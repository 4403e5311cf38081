// Our side of the bench: the calls that an engine makes.
#include "bench.h"
#include "connect.h"

#include <algorithm>
#include <cstring>
#include <deque>

#include <cmpool/base/units.h>
#include <cmpool/model/placement.h>

namespace cmpool::cli {
namespace {

using client::Digest;
using client::Outcome;
using client::PoolClient;

constexpr std::uint32_t kChainTokens = 16;
constexpr std::size_t kFillBatchMax = 256;
constexpr std::uint64_t kFillBytesMax = 16 * MiB;

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

/// Stores new blocks, and before that removes the oldest of its own once they are too many.
class PutWork final : public Work {
public:
    PutWork(const BenchCase& row, PoolClient& pool, std::uint64_t own_blocks, MutableBytes buffer)
        : pool_(pool), own_batches_(own_blocks / row.batch), rng_(SystemEntropy().next_u64()) {
        for (std::uint32_t index = 0; index < row.batch; ++index)
            from_.push_back(buffer.subspan(index * row.size, row.size));
        for (const auto& from : from_) items_.push_back({.key = {}, .from = {&from, 1}});
    }
    ~PutWork() override {
        for (const auto& batch : stored_) pool_.remove(batch);
    }
    void prepare() override {
        if (stored_.size() >= std::max<std::uint64_t>(own_batches_, 1)) {
            pool_.remove(stored_.front());
            stored_.pop_front();
        }
        auto& batch = stored_.emplace_back();
        for (auto& item : items_) {
            item.key = random_key(rng_);
            item.group = model::group_key({&item.key, 1}, 0, 1);
            batch.push_back(item.key);
        }
    }
    Result<void> run() override { return expect_all(pool_.put(items_), Outcome::Stored, "stored"); }

private:
    PoolClient& pool_;
    std::uint64_t own_batches_;
    Rng rng_;
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

client::NamespaceSpec bench_namespace(BenchOp op) {
    auto spec = tool_namespace({.name = op == BenchOp::Match ? "bench-chains" : "bench", .tenant = {}});
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

Result<std::unique_ptr<Filling>> Filling::put(PoolClient& pool, const BenchCase& row, std::uint64_t count) {
    std::unique_ptr<Filling> filling(new Filling(pool));
    Rng rng(SystemEntropy().next_u64());
    std::vector<std::byte> block(row.size);
    for (auto& byte : block) byte = static_cast<std::byte>(rng.next());
    const bool chained = row.op == BenchOp::Match;
    const std::size_t step =
        std::clamp<std::size_t>(kFillBytesMax / row.size, 1, std::min(kFillBatchMax, model::kBatchMax));
    const std::size_t run = chained ? row.batch : step;
    for (std::uint64_t done = 0; done < count; done += run) {
        const std::size_t wanted = chained ? run : std::min<std::uint64_t>(run, count - done);
        const auto keys = new_keys(pool, row, wanted, rng);
        if (!keys) return fail(keys.error());
        filling->keys_.insert(filling->keys_.end(), keys->begin(), keys->end());
        for (std::size_t first = 0; first < wanted; first += step) {
            auto kept = put_batch(pool, *keys, first, std::min(step, wanted - first), chained, block);
            if (!kept) return fail(kept.error());
        }
    }
    return filling;
}

Filling::~Filling() { remove_all(pool_, keys_); }

std::unique_ptr<Work> pool_work(const BenchCase& row, PoolClient& pool, const std::vector<Digest>& keys,
                                std::uint64_t own_blocks, MutableBytes buffer) {
    switch (row.op) {
        case BenchOp::Put:
            return std::make_unique<PutWork>(row, pool, own_blocks, buffer);
        case BenchOp::Match:
            return std::make_unique<MatchWork>(row, pool, keys);
        case BenchOp::Get:
            break;
    }
    return std::make_unique<GetWork>(row, pool, keys, buffer);
}

}  // namespace cmpool::cli
