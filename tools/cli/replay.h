#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <cmpool/base/result.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/client/pool_uri.h>

namespace cmpool::cli {

/// Most requests of a trace, and most blocks of one request.
inline constexpr std::size_t kTraceRequestsMax = 10'000'000;
inline constexpr std::size_t kTraceBlocksMax = model::kBatchMax;
/// Longest line of a trace.
inline constexpr std::size_t kTraceLineMax = std::size_t{1} << 20;
inline constexpr std::uint32_t kReplayClientsMax = 64;

/// A request as it was recorded. Equal ids are equal prefixes.
struct TraceRequest {
    std::uint64_t at_ms = 0;
    std::uint32_t tokens = 0;
    std::vector<std::uint64_t> blocks;
};

/// A trace in Mooncake's format, plain or zstd: a JSON object a line with `timestamp` in milliseconds,
/// `input_length` in tokens and `hash_ids`, one for each 512 tokens. Reads `limit` requests at most.
/// Errors: Invalid, with the line.
[[nodiscard]] Result<std::vector<TraceRequest>> read_trace(const std::string& file, std::size_t limit);
inline constexpr std::uint32_t kTraceBlockTokens = 512;

enum class ReplayVerb : std::uint8_t { Match, Get, Put };
inline constexpr std::size_t kReplayVerbs = 3;

/// What one client process has seen so far, in memory that it shares with its parent. Latencies are in
/// buckets: 16 to each power of two of microseconds.
struct ReplayCounts {
    static constexpr std::size_t kBuckets = 16 * 32;
    using Buckets = std::array<std::atomic<std::uint32_t>, kBuckets>;

    std::atomic<std::uint64_t> requests, blocks, tokens, hit_blocks, hit_tokens, put_blocks, put_copies;
    std::atomic<std::uint64_t> got_bytes, put_bytes, errors, troubles, deadline_overruns, verify_failures;
    std::array<Buckets, kReplayVerbs> latencies;

    void took(ReplayVerb verb, std::uint64_t us) noexcept;
};
/// The middle of a bucket, in microseconds.
[[nodiscard]] double bucket_us(std::size_t bucket) noexcept;

struct ReplayPlan {
    client::PoolUri uri;
    client::NamespaceSpec spec;
    std::uint32_t block_bytes = 4096;
    double speed = 0;  ///< 0: as fast as it goes
    std::uint32_t clients = 1;
};

/// Takes every plan.clients-th request from `first` on: matches it, gets what matched, compares every byte,
/// puts the rest. Returns when all are done. Errors: those of opening the pool.
[[nodiscard]] Result<void> replay_requests(const ReplayPlan& plan, std::span<const TraceRequest> trace,
                                           std::uint32_t first, ReplayCounts& counts);

}  // namespace cmpool::cli
