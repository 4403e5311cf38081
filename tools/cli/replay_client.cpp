#include "replay.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include <cmpool/base/clock.h>
#include <cmpool/base/units.h>
#include <cmpool/client/environment.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/model/placement.h>

#include <time.h>

namespace cmpool::cli {
namespace {

/// Payload of one call.
constexpr std::uint64_t kCallBytes = 32 * MiB;
/// A call that ends so long after its deadline has overrun it.
constexpr std::chrono::milliseconds kOverrun{50};

/// A block's bytes follow from its key: whoever has the key knows what must come.
void derive(const client::Digest& key, MutableBytes out) noexcept {
    std::uint64_t word = key.prefix();
    std::size_t at = 0;
    for (; at + sizeof word <= out.size(); at += sizeof word) {
        word = word * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d;
        std::memcpy(out.data() + at, &word, sizeof word);
    }
    for (; at < out.size(); ++at) out[at] = static_cast<std::byte>(word >> (at % 8 * 8));
}

/// Trouble that is somebody's mistake, not the pool's absence.
bool wrong(const Error& error) {
    return error.code != Errc::Deadline && error.code != Errc::PeerDown && error.code != Errc::NoCapacity &&
           error.code != Errc::Again && error.code != Errc::LeaseLost;
}

class Replayer {
public:
    Replayer(client::PoolClient& pool, const ReplayPlan& plan, ReplayCounts& counts)
        : pool_(pool),
          plan_(plan),
          counts_(counts),
          blocks_a_call_(std::clamp<std::size_t>(kCallBytes / plan.block_bytes, 1, 1024)) {
        expected_.resize(plan.block_bytes);
        memory_.resize(blocks_a_call_ * plan.block_bytes);
    }

private:
    template <class Call>
    auto timed(ReplayVerb verb, const Call& call) {
        const Instant begin = clock_.now();
        auto result = call();
        const Nanos took = clock_.now() - begin;
        counts_.took(verb, static_cast<std::uint64_t>(took.count() / 1000));
        if (took > plan_.uri.deadline + kOverrun) ++counts_.deadline_overruns;
        return result;
    }

public:
    void request(const TraceRequest& request) {
        keys_.clear();
        for (const std::uint64_t id : request.blocks) {
            const auto key = pool_.key(as_bytes(fmt::format("block {}", id)));
            if (!key) {
                ++counts_.troubles;
                return finish(request, 0);
            }
            keys_.push_back(*key);
        }
        std::size_t hits = 0;
        if (!keys_.empty()) {
            const auto match = timed(ReplayVerb::Match, [&] { return pool_.match(keys_); });
            note(match.trouble());
            hits = get(match.blocks());
            put(hits);
        }
        finish(request, hits);
    }

private:
    void note(const std::optional<Error>& trouble) {
        if (!trouble) return;
        ++(wrong(*trouble) ? counts_.errors : counts_.troubles);
    }
    [[nodiscard]] std::uint64_t group(std::size_t at) const {
        return model::group_key(keys_, static_cast<std::uint32_t>(at), plan_.spec.group_blocks);
    }
    [[nodiscard]] MutableBytes slot(std::size_t at) {
        return MutableBytes(memory_).subspan(at * plan_.block_bytes, plan_.block_bytes);
    }

    /// How many blocks from the first on came, whole.
    std::size_t get(std::size_t matched) {
        for (std::size_t first = 0; first < matched; first += blocks_a_call_) {
            const std::size_t count = std::min(blocks_a_call_, matched - first);
            std::vector<MutableBytes> pieces;
            for (std::size_t at = 0; at < count; ++at) pieces.push_back(slot(at));
            std::vector<client::GetItem> items;
            for (std::size_t at = 0; at < count; ++at)
                items.push_back({keys_[first + at], {&pieces[at], 1}, group(first + at)});
            const auto report = timed(ReplayVerb::Get, [&] { return pool_.get(items); });
            note(report.trouble);
            for (std::size_t at = 0; at < count; ++at) {
                if (report.blocks[at].outcome != client::Outcome::Hit) return first + at;
                derive(keys_[first + at], expected_);
                if (report.blocks[at].bytes != plan_.block_bytes ||
                    std::memcmp(expected_.data(), slot(at).data(), expected_.size()) != 0) {
                    ++counts_.verify_failures;
                    return first + at;
                }
                counts_.got_bytes += plan_.block_bytes;
            }
        }
        return matched;
    }

    void put(std::size_t from) {
        for (std::size_t first = from; first < keys_.size(); first += blocks_a_call_) {
            const std::size_t count = std::min(blocks_a_call_, keys_.size() - first);
            std::vector<Bytes> pieces;
            for (std::size_t at = 0; at < count; ++at) {
                derive(keys_[first + at], slot(at));
                pieces.emplace_back(slot(at));
            }
            std::vector<client::PutItem> items;
            for (std::size_t at = 0; at < count; ++at) {
                const std::size_t block = first + at;
                items.push_back({.key = keys_[block],
                                 .from = {&pieces[at], 1},
                                 .parent = block == 0 ? model::kNoParent : keys_[block - 1],
                                 .position = static_cast<std::uint32_t>(block),
                                 .group = group(block)});
            }
            const auto report = timed(ReplayVerb::Put, [&] { return pool_.put(items); });
            note(report.trouble);
            for (const auto& block : report.blocks) {
                counts_.put_copies += block.copies;
                if (block.outcome != client::Outcome::Stored) continue;
                ++counts_.put_blocks;
                counts_.put_bytes += plan_.block_bytes;
            }
        }
    }

    void finish(const TraceRequest& request, std::size_t hits) {
        counts_.blocks += request.blocks.size();
        counts_.tokens += request.tokens;
        counts_.hit_blocks += hits;
        counts_.hit_tokens +=
            std::min<std::uint64_t>(std::uint64_t{hits} * kTraceBlockTokens, request.tokens);
        ++counts_.requests;
    }

    client::PoolClient& pool_;
    const ReplayPlan& plan_;
    ReplayCounts& counts_;
    SystemClock clock_;
    std::size_t blocks_a_call_;
    std::vector<client::Digest> keys_;
    std::vector<std::byte> expected_;
    std::vector<std::byte> memory_;
};

/// Until a request's turn has come; progress is made at the next call.
void wait_until(const Clock& clock, Instant when) {
    for (Nanos left = when - clock.now(); left.count() > 0; left = when - clock.now()) {
        const timespec time{.tv_sec = left.count() / 1'000'000'000, .tv_nsec = left.count() % 1'000'000'000};
        ::nanosleep(&time, nullptr);
    }
}

}  // namespace

void ReplayCounts::took(ReplayVerb verb, std::uint64_t us) noexcept {
    std::size_t bucket = us;
    if (us >= 16) {
        const auto power = static_cast<unsigned>(std::bit_width(us)) - 5;
        bucket = 16 * (power + 1) + ((us >> power) & 15);
    }
    ++latencies[static_cast<std::size_t>(verb)][std::min(bucket, kBuckets - 1)];
}

double bucket_us(std::size_t bucket) noexcept {
    if (bucket < 16) return static_cast<double>(bucket) + 0.5;
    const auto power = static_cast<unsigned>(bucket / 16 - 1);
    return (static_cast<double>(16 + bucket % 16) + 0.5) * static_cast<double>(std::uint64_t{1} << power);
}

Result<void> replay_requests(const ReplayPlan& plan, std::span<const TraceRequest> trace, std::uint32_t first,
                             ReplayCounts& counts) {
    auto pool = client::PoolClient::open_in(client::system_environment(), plan.uri, plan.spec);
    if (!pool) return fail(pool.error());
    if (const auto status = (*pool)->status(); !status.ready) {
        return fail(status.trouble.value_or(
            Error{Errc::Deadline, fmt::format("{} does not answer", plan.uri.address)}));
    }
    Replayer replayer(**pool, plan, counts);
    const SystemClock clock;
    const Instant begin = clock.now();
    const std::uint64_t begin_ms = trace.empty() ? 0 : trace.front().at_ms;
    for (std::size_t at = first; at < trace.size(); at += plan.clients) {
        if (plan.speed > 0) {
            const double ms = static_cast<double>(trace[at].at_ms - begin_ms) / plan.speed;
            wait_until(clock, begin + Nanos(static_cast<std::int64_t>(ms * 1e6)));
        }
        replayer.request(trace[at]);
    }
    return {};
}

}  // namespace cmpool::cli
