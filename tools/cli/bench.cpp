#include "bench_row.h"
#include "connect.h"
#include "verbs.h"

#include <algorithm>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

constexpr std::uint64_t kCallBytesMax = 1 * GiB;
constexpr std::uint32_t kThreadsMax = 256;
/// More than any pool holds: a larger number is a mistake.
constexpr std::uint64_t kBlocksMax = std::uint64_t{1} << 32;

struct BenchOptions {
    Common common;
    std::vector<std::string> ops;
    std::vector<std::string> sizes{"4KiB", "64KiB", "1MiB"};
    std::vector<std::uint32_t> batches{1, 16};
    std::vector<std::string> transports;
    std::vector<std::uint32_t> threads{1};
    double seconds = 1;
    std::uint64_t blocks = 0;
    bool full = false;
    bool sealed = false;
    std::string compare;
};

std::vector<std::string> ops_of(const BenchOptions& options) {
    if (!options.ops.empty()) return options.ops;
    return options.full ? std::vector<std::string>{"put"} : std::vector<std::string>{"get", "put", "match"};
}

std::vector<std::string> transports_of(const BenchOptions& options, const client::PoolUri& uri) {
    if (!options.transports.empty()) return options.transports;
    if (uri.transport == client::Transport::Shm) return {"shm"};
    if (uri.transport == client::Transport::Tcp) return {"tcp"};
    return {"shm", "tcp"};
}

Result<std::vector<BenchCase>> cases(const BenchOptions& options, const client::PoolUri& uri) {
    std::vector<BenchCase> all;
    for (const auto& transport : transports_of(options, uri)) {
        for (const auto& op : ops_of(options)) {
            for (const auto& size : options.sizes) {
                for (const auto batch : options.batches) {
                    const BenchCase row{.op = bench_ops().at(op),
                                        .transport = bench_transports().at(transport),
                                        .size = parse_bytes(size).value(),
                                        .batch = batch,
                                        .threads = options.threads.back()};
                    if (row.call_bytes() > kCallBytesMax)
                        return fail(Errc::Invalid, "expected calls of at most {}, saw {} blocks of {}",
                                    format_bytes(kCallBytesMax), batch, size);
                    all.push_back(row);
                    if (!options.sealed || row.op == BenchOp::Match) continue;
                    all.push_back(row);
                    all.back().sealed = true;
                }
                if (op == "match") break;  // it finds blocks, whatever their size
            }
        }
    }
    return all;
}

client::SealKey new_seal_key() {
    client::SealKey key;
    SystemEntropy().fill(key);
    return key;
}

/// Shows what was measured, or why not. Returns whether it was.
template <class Rows>
bool show(const BenchCase& row, const Result<Rows>& seen, Progress& progress, bool json) {
    progress.clear();
    if (!seen) {
        print_failed(row, seen.error(), json);
        return false;
    }
    if constexpr (std::is_same_v<Rows, MemoryRow>) {
        print_row(*seen, json);
    } else {
        for (const auto& one : *seen) print_row(one, json);
    }
    return true;
}

// Memory is measured once, in a pool that is new: there is no second row.
Result<int> bench_memory(const BenchOptions& options, const client::PoolUri& uri) {
    const BenchPlan plan{.uri = uri, .threads = {1}, .blocks = options.blocks};
    const BenchCase row{.op = BenchOp::Memory,
                        .transport = bench_transports().at(transports_of(options, uri).front()),
                        .size = parse_bytes(options.sizes.front()).value()};
    Progress progress;
    return show(row, measure_memory(row, plan, progress), progress, options.common.json) ? kSuccess
                                                                                         : kFailure;
}

Result<int> bench(const BenchOptions& options) {
    const auto uri = options.common.plain_uri();
    if (!uri) return fail(uri.error());
    const auto rows = cases(options, *uri);
    if (!rows) return fail(rows.error());
    // One sentence where there is no pool at all, not one for each row.
    const auto reached = open_pool(*uri, bench_namespace(BenchOp::Get));
    if (!reached) return fail(reached.error());
    if (rows->front().op == BenchOp::Memory) return bench_memory(options, *uri);

    std::unique_ptr<Rival> rival;
    if (!options.compare.empty()) {
        auto redis = start_redis();
        if (!redis) return fail(redis.error());
        rival = std::move(*redis);
    }
    const BenchPlan plan{.uri = *uri,
                         .threads = options.threads,
                         .seconds = options.seconds,
                         .blocks = options.blocks,
                         .rival = rival.get(),
                         .seal_key = new_seal_key()};
    const bool json = options.common.json;
    if (!json) print_heading(options.full, rival != nullptr);
    Progress progress;
    int code = kSuccess;
    for (const auto& row : *rows) {
        const bool shown = options.full ? show(row, measure_full(row, plan, progress), progress, json)
                                        : show(row, measure(row, plan, progress), progress, json);
        if (!shown) code = kFailure;
    }
    return code;
}

// ---- the command line ----

std::string check_size(const std::string& text) {
    const auto bytes = parse_bytes(text);
    if (!bytes) return bytes.error().detail;
    if (*bytes > 0 && *bytes <= model::kBlockBytesMax) return {};
    return fmt::format("expected a block of 1 B to {}, saw {}", format_bytes(model::kBlockBytesMax), text);
}

/// What single flags do not show. CLI11 makes it a usage error.
void check_together(const BenchOptions& options) {
    const auto ops = ops_of(options);
    for (const auto& op : ops) {
        if (options.full && op != "put")
            throw CLI::ValidationError("--full", fmt::format("expected --op put or none, saw --op {}", op));
        if (op == "memory" && (ops.size() > 1 || options.sizes.size() > 1 || options.transports.size() > 1))
            throw CLI::ValidationError(
                "--op memory", "expected it alone, with one --size and one --transport: it wants a new pool");
        if (op == "memory" && !options.compare.empty())
            throw CLI::ValidationError("--op memory", "expected no --compare, saw " + options.compare);
    }
    if (options.sealed && (options.full || ops == std::vector<std::string>{"memory"}))
        throw CLI::ValidationError("--sealed", "expected no --full and no --op memory beside it");
    if (options.full && !options.compare.empty())
        throw CLI::ValidationError("--full", "expected no --compare, saw " + options.compare);
    if (options.full && options.blocks != 0)
        throw CLI::ValidationError("--full", "expected no --blocks: it takes as many as the pool holds");
}

void add_flags(CLI::App& verb, BenchOptions& options) {
    const auto list = [&](const char* flag, auto& values, const char* about, const char* type) {
        return verb.add_option(flag, values, about)->delimiter(',')->type_name(type)->take_all();
    };
    list("--op", options.ops, "get, put, match; default: these three. Or memory, alone, in a new pool",
         "OP,..")
        ->check(CLI::IsMember({"get", "put", "match", "memory"}).description(""));
    list("--size", options.sizes,
         "Of a block; default: 4KiB,64KiB,1MiB, for memory 4KiB. A match takes the first", "SIZE,..")
        ->check(CLI::Validator(check_size, ""));
    list("--batch", options.batches, "Blocks that a call names; default: 1,16", "N,..")
        ->check(CLI::Range(std::size_t{1}, model::kBatchMax).description(""));
    list("--transport", options.transports, "shm, tcp; default: the URI's, else both", "NAME,..")
        ->check(CLI::IsMember({"shm", "tcp"}).description(""));
    list("--threads", options.threads, "Each with a client of its own; a row for each number; default: 1",
         "N,..")
        ->check(CLI::Range(1U, kThreadsMax).description(""));
    verb.add_option("--seconds", options.seconds, "How long a row takes, all that is compared in it together")
        ->check(CLI::Range(0.001, 3600.0).description(""))
        ->type_name("S")
        ->capture_default_str();
    verb.add_option("--blocks", options.blocks,
                    "How many a row ranges over, at most half of the pool; default: 512 MiB of them, "
                    "at most 65,536; for memory what the pool holds")
        ->check(CLI::Range(std::uint64_t{1}, kBlocksMax).description(""))
        ->type_name("N");
    verb.add_flag("--full", options.full, "Put into a full pool, beside puts that find room there");
    verb.add_flag(
        "--sealed", options.sealed,
        "Behind each row of get and put the same in a sealed namespace, against a core's AES-256-GCM");
    verb.add_option("--compare", options.compare, "redis: a redis-server of our own in the same race")
        ->check(CLI::IsMember({"redis"}).description(""))
        ->type_name("NAME");
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("bench", "Measures a pool against what this machine can do without one");
    const auto options = std::make_shared<BenchOptions>();
    add_flags(*verb, *options);
    add_common(*verb, options->common);
    verb->get_option("--json")->description("Print one JSON object a line instead of a table");
    verb->footer(
        "All that is compared takes turns in short slices; rates are medians of slices. The limit by shm\n"
        "is the best of several copies between such pages (match: independent probes of such a table), by\n"
        "tcp a bare socket over 127.0.0.1 with as many bytes. ratio is the pool's share of the limit: of\n"
        "GB/s (10^9 bytes a second; gbps in JSON) where a call moves 64 KiB or more, else of the median\n"
        "time of a call. A match counts with the end of its lease. redis is asked by GET and SET through\n"
        "hiredis, batches pipelined, over 127.0.0.1 whatever the transport of the row; its ratio above 1\n"
        "says that the pool is faster. What is stored makes room by evicting others' blocks where the\n"
        "pool is full (--full: always), and is removed in the end. Exits with 1 if a row failed.\n"
        "Example: cmpool-cli bench --op get,put --size 4KiB,1MiB --batch 1,16 --threads 1,2");
    verb->callback([&run, options, verb] {
        if (options->ops == std::vector<std::string>{"memory"} && verb->count("--size") == 0)
            options->sizes = {"4KiB"};
        std::sort(options->threads.begin(), options->threads.end());
        options->threads.erase(std::unique(options->threads.begin(), options->threads.end()),
                               options->threads.end());
        check_together(*options);
        run = [options] { return bench(*options); };
    });
}

}  // namespace cmpool::cli
