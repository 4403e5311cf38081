// How rows of the bench are shown.
#include "bench_row.h"

#include <cstdio>

#include <cmpool/model/index_layout.h>

namespace cmpool::cli {
namespace {

constexpr std::size_t kNameColumns = 28;

template <class Map, class Value>
std::string name_in(const Map& names, Value value) {
    for (const auto& [name, one] : names) {
        if (one == value) return name;
    }
    return {};
}

/// Microseconds in at most seven columns.
std::string narrow(double us) {
    if (us < 1000) return fmt::format("{:.2f}", us);
    return us < 100'000 ? fmt::format("{:.1f}", us) : fmt::format("{:.0f}", us);
}

std::string keys_text(double keys_per_s) { return grouped(static_cast<std::uint64_t>(keys_per_s)); }

Json json_of(const BenchCase& row) {
    return {{"op", name_in(bench_ops(), row.op)},
            {"transport", name_in(bench_transports(), row.transport)},
            {"size", row.size},
            {"batch", row.batch},
            {"threads", row.threads},
            {"sealed", row.sealed}};
}

Json json_of(const Row& row) {
    const auto& [asked, ours, limit, redis, scaling] = row;
    auto object = json_of(asked);
    object.update({{"gbps", row.gbps(ours)},
                   {"keys_per_s", row.keys_per_s(ours)},
                   {"p50_us", ours.p50_us},
                   {"p99_us", ours.p99_us},
                   {"limit_gbps", row.gbps(limit)},
                   {"limit_p50_us", limit.p50_us},
                   {"ratio", row.ratio(limit)},
                   {"ratio_of", asked.by_throughput() ? "gbps" : "p50_us"},
                   {"limit", limit.name}});
    if (redis)
        object.update({{"redis_gbps", row.gbps(*redis)},
                       {"redis_keys_per_s", row.keys_per_s(*redis)},
                       {"redis_p50_us", redis->p50_us},
                       {"ratio_redis", row.ratio(*redis)}});
    if (scaling)
        object["scaling"] = {{"keys_per_s", scaling->keys_per_s},
                             {"p99_us", scaling->p99_us},
                             {"limit_keys_per_s", scaling->limit_keys_per_s}};
    return object;
}

Json json_of(const FullRow& row) {
    auto object = json_of(row.asked);
    const double batch = row.asked.batch;
    object.update({{"full", true},
                   {"keys_per_s", row.full.calls_per_s * batch},
                   {"p50_us", row.full.p50_us},
                   {"p99_us", row.full.p99_us},
                   {"room_keys_per_s", row.room.calls_per_s * batch},
                   {"room_p50_us", row.room.p50_us},
                   {"room_p99_us", row.room.p99_us},
                   {"ratio_p99", row.full.p99_us / row.room.p99_us},
                   {"evicted_blocks", row.evicted_blocks},
                   {"refused_blocks", row.refused_blocks}});
    return object;
}

Json json_of(const MemoryRow& row) {
    auto object = json_of(row.asked);
    object.update({{"blocks", row.blocks},
                   {"capacity_bytes", row.capacity_bytes},
                   {"private_start_bytes", row.start_bytes},
                   {"private_before_bytes", row.before_bytes},
                   {"private_after_bytes", row.after_bytes},
                   {"index_bytes", row.index_bytes},
                   {"header_bytes_per_block", model::kHeaderBytes},
                   {"private_bytes_per_block", row.own_per_block()},
                   {"rounding_bytes_per_block", row.rounding_per_block()},
                   {"beyond_payload_bytes_per_block", row.beyond_payload()},
                   {"goal_bytes_per_block", kBeyondPayloadGoal}});
    return object;
}

void print_text(const Row& row) {
    const auto& [asked, ours, limit, redis, scaling] = row;
    std::string line =
        fmt::format("{:<{}}{:>7.2f}{:>11}{:>8}{:>8} |{:>7.2f}{:>8} {:<8} |{:>6.2f} {:<4}", name_of(asked),
                    kNameColumns, row.gbps(ours), keys_text(row.keys_per_s(ours)), narrow(ours.p50_us),
                    narrow(ours.p99_us), row.gbps(limit), narrow(limit.p50_us), limit.name, row.ratio(limit),
                    asked.by_throughput() ? "GB/s" : "p50");
    if (redis)
        line +=
            fmt::format("|{:>6.2f}{:>8}{:>7.1f}", row.gbps(*redis), narrow(redis->p50_us), row.ratio(*redis));
    fmt::print("{}\n", line);
    if (scaling)
        fmt::print("  {} threads against 1: keys/s x{:.2f}, p99 x{:.2f}; the limit's keys/s x{:.2f}\n",
                   asked.threads, scaling->keys_per_s, scaling->p99_us, scaling->limit_keys_per_s);
}

void print_text(const FullRow& row) {
    const double batch = row.asked.batch;
    fmt::print("{:<{}}{:>11}{:>9}{:>9} |{:>11}{:>9}{:>9} |{:>6.2f} |{:>13}{:>9}\n", name_of(row.asked),
               kNameColumns, keys_text(row.full.calls_per_s * batch), narrow(row.full.p50_us),
               narrow(row.full.p99_us), keys_text(row.room.calls_per_s * batch), narrow(row.room.p50_us),
               narrow(row.room.p99_us), row.full.p99_us / row.room.p99_us, grouped(row.evicted_blocks),
               grouped(row.refused_blocks));
}

void print_text(const MemoryRow& row) {
    const auto line = [](const char* what, double bytes, const std::string& more = {}) {
        fmt::print("  {:<34}{:>9.1f} B a block{}\n", what, bytes, more);
    };
    fmt::print("{} blocks of {} in a pool of {}; its own memory: {} at its start, {} before, {} after\n",
               grouped(row.blocks), format_bytes(row.asked.size), format_bytes(row.capacity_bytes),
               format_bytes(row.start_bytes), format_bytes(row.before_bytes), format_bytes(row.after_bytes));
    line("header before the payload", static_cast<double>(model::kHeaderBytes));
    line("own memory, after less start", row.own_per_block(),
         fmt::format(", {:.1f} of it in the index", row.index_per_block()));
    line("beyond payload", row.beyond_payload(),
         fmt::format(", {} the goal of {:.0f}",
                     row.beyond_payload() <= kBeyondPayloadGoal ? "within" : "above", kBeyondPayloadGoal));
    line("besides: payload rounded up", row.rounding_per_block());
}

template <class Any>
void print_any(const Any& row, bool json) {
    if (json) {
        print_json(json_of(row));
    } else {
        print_text(row);
    }
    std::fflush(stdout);
}

}  // namespace

const std::map<std::string, BenchOp>& bench_ops() {
    static const std::map<std::string, BenchOp> ops{
        {"get", BenchOp::Get}, {"put", BenchOp::Put}, {"match", BenchOp::Match}, {"memory", BenchOp::Memory}};
    return ops;
}

const std::map<std::string, client::Transport>& bench_transports() {
    static const std::map<std::string, client::Transport> transports{{"shm", client::Transport::Shm},
                                                                     {"tcp", client::Transport::Tcp}};
    return transports;
}

std::string name_of(const BenchCase& row) {
    return fmt::format("{}{} {} {} x{}{}", name_in(bench_ops(), row.op), row.sealed ? " sealed" : "",
                       name_in(bench_transports(), row.transport), format_bytes(row.size), row.batch,
                       row.threads > 1 ? fmt::format(" {}t", row.threads) : "");
}

void print_heading(bool full, bool redis) {
    if (full) {
        fmt::print("{:<{}}{:^29} |{:^29} |\n", "", kNameColumns, "into a full pool", "with room");
        fmt::print("{:<{}}{:>11}{:>9}{:>9} |{:>11}{:>9}{:>9} |{:>6} |{:>13}{:>9}\n", "call", kNameColumns,
                   "keys/s", "p50 us", "p99 us", "keys/s", "p50 us", "p99 us", "p99 x", "evicted", "refused");
        return;
    }
    fmt::print("{:<{}}{:^34} |{:^24} |{:<11}{}\n", "", kNameColumns, "pool", "limit", " pool/limit",
               redis ? fmt::format("|{:^21}", "redis") : "");
    fmt::print("{:<{}}{:>7}{:>11}{:>8}{:>8} |{:>7}{:>8} {:<8} |{:>6} {:<4}{}\n", "call", kNameColumns, "GB/s",
               "keys/s", "p50 us", "p99 us", "GB/s", "p50 us", "by", "ratio", "of",
               redis ? fmt::format("|{:>6}{:>8}{:>7}", "GB/s", "p50 us", "ratio") : "");
}

void print_row(const Row& row, bool json) { print_any(row, json); }
void print_row(const FullRow& row, bool json) { print_any(row, json); }
void print_row(const MemoryRow& row, bool json) { print_any(row, json); }

void print_failed(const BenchCase& row, const Error& error, bool json) {
    if (json) {
        auto object = json_of(row);
        object["error"] = error.detail;
        print_json(object);
    } else {
        fmt::print("{:<{}}{}\n", name_of(row), kNameColumns, error.detail);
    }
    std::fflush(stdout);
}

}  // namespace cmpool::cli
