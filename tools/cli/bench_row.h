#pragma once

#include "bench.h"
#include "bench_rival.h"
#include "print.h"
#include "progress.h"

#include <optional>

namespace cmpool::cli {

/// What all rows of a run share.
struct BenchPlan {
    client::PoolUri uri;
    std::vector<std::uint32_t> threads;  ///< ascending; a row for each
    double seconds = 1;
    std::uint64_t blocks = 0;                   ///< that a row ranges over; 0: bench's choice
    Rival* rival = nullptr;                     ///< null: none
    std::optional<client::SealKey> seal_key{};  ///< for sealed rows
};

/// What so many threads give in all against one: 2 is twice as much.
struct Scaling {
    double keys_per_s = 0;
    double p99_us = 0;
    double limit_keys_per_s = 0;
};

struct Row {
    BenchCase asked;
    Pace ours, limit;
    std::optional<Pace> redis;
    std::optional<Scaling> scaling;  ///< where one thread was asked for too

    [[nodiscard]] double gbps(const Pace& pace) const;
    [[nodiscard]] double keys_per_s(const Pace& pace) const { return pace.calls_per_s * asked.batch; }
    /// Ours against another's, by the row's own measure: above 1 we are faster.
    [[nodiscard]] double ratio(const Pace& other) const;
};
/// The pool beside its limit, and beside the rival where there is one.
/// Errors: the first of any call.
[[nodiscard]] Result<std::vector<Row>> measure(const BenchCase& row, const BenchPlan& plan,
                                               Progress& progress);

/// Puts into a pool that must evict for each of them, beside puts that find room there.
struct FullRow {
    BenchCase asked;
    Pace full, room;
    std::uint64_t evicted_blocks = 0;  ///< while it was measured, with all numbers of threads
    std::uint64_t refused_blocks = 0;  ///< the same; a refusal is an error of the row
};
/// Errors: the first of any call; NoCapacity where the pool refused a block or did not evict.
[[nodiscard]] Result<std::vector<FullRow>> measure_full(const BenchCase& row, const BenchPlan& plan,
                                                        Progress& progress);

/// Server memory beyond payload that a block may take (design, 9), in bytes.
inline constexpr double kBeyondPayloadGoal = 192;

/// What the pool's memory holds besides payload, after so many blocks were stored; bytes.
struct MemoryRow {
    BenchCase asked;
    std::uint64_t blocks = 0;
    std::uint64_t capacity_bytes = 0;
    std::uint64_t start_bytes = 0;   ///< the daemon's own memory when it began to serve
    std::uint64_t before_bytes = 0;  ///< and before the first block: the index is there already
    std::uint64_t after_bytes = 0;
    std::uint64_t index_bytes = 0;   ///< part of after_bytes
    std::uint64_t extent_bytes = 0;  ///< in segments: headers, payloads and their rounding

    [[nodiscard]] double own_per_block() const;
    [[nodiscard]] double index_per_block() const;
    [[nodiscard]] double rounding_per_block() const;
    [[nodiscard]] double beyond_payload() const;  ///< a block's own memory and its header
};
/// Errors: Invalid where the pool holds blocks already, or tells nothing of its memory; NoCapacity where it
/// evicts; those of the calls.
[[nodiscard]] Result<MemoryRow> measure_memory(const BenchCase& row, const BenchPlan& plan,
                                               Progress& progress);

// ---- how they are shown: lines of at most 120 columns, or one JSON object each ----

[[nodiscard]] const std::map<std::string, BenchOp>& bench_ops();
[[nodiscard]] const std::map<std::string, client::Transport>& bench_transports();
/// "get shm 4 KiB x16", and the threads where they are several.
[[nodiscard]] std::string name_of(const BenchCase& row);

void print_heading(bool full, bool redis);
void print_row(const Row& row, bool json);
void print_row(const FullRow& row, bool json);
void print_row(const MemoryRow& row, bool json);
void print_failed(const BenchCase& row, const Error& error, bool json);

}  // namespace cmpool::cli
