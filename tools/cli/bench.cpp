#include "bench.h"

#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include <cmpool/base/units.h>
#include <cmpool/model/index_layout.h>

#include <fmt/format.h>
#include <unistd.h>

namespace cmpool::cli {
namespace {

constexpr std::uint64_t kThroughputBytes = 64 * KiB;
/// A working set that no processor's cache holds, where nobody names another.
constexpr std::uint64_t kWorkingBytes = 512 * MiB;
constexpr std::uint64_t kBlocksDefaultMax = 65536;
constexpr std::uint64_t kCallBytesMax = 1 * GiB;
constexpr std::uint32_t kThreadsMax = 256;
constexpr std::size_t kBufferAlignment = 2 * MiB;

const std::map<std::string, BenchOp> kOps{
    {"get", BenchOp::Get}, {"put", BenchOp::Put}, {"match", BenchOp::Match}};
const std::map<std::string, client::Transport> kTransports{{"shm", client::Transport::Shm},
                                                           {"tcp", client::Transport::Tcp}};

struct BenchOptions {
    Common common;
    std::vector<std::string> ops{"get", "put", "match"};
    std::vector<std::string> sizes{"4KiB", "64KiB", "1MiB"};
    std::vector<std::uint32_t> batches{1, 16};
    std::vector<std::string> transports;
    std::uint32_t threads = 1;
    double seconds = 1;
    std::uint64_t blocks = 0;
};

/// A row as it is shown.
struct Row {
    BenchCase asked;
    Pace ours, limit;

    [[nodiscard]] double gbps(const Pace& pace) const {
        if (asked.op == BenchOp::Match) return 0;  // no payload moves
        return pace.calls_per_s * static_cast<double>(asked.call_bytes()) / 1e9;
    }
    [[nodiscard]] double ratio() const {
        return asked.by_throughput() ? ours.calls_per_s / limit.calls_per_s : limit.p50_us / ours.p50_us;
    }
};

struct Freer {
    void operator()(std::byte* memory) const { std::free(memory); }
};

/// A caller's memory: private, on a page's boundary, written once. Null where there is not enough.
std::unique_ptr<std::byte, Freer> open_buffer(std::uint64_t bytes) {
    const auto rounded = round_up(bytes, kBufferAlignment);
    std::unique_ptr<std::byte, Freer> buffer(
        static_cast<std::byte*>(std::aligned_alloc(kBufferAlignment, rounded)));
    if (buffer) std::memset(buffer.get(), 1, rounded);
    return buffer;
}

template <class Map, class Value>
std::string name_of(const Map& names, Value value) {
    for (const auto& [name, one] : names) {
        if (one == value) return name;
    }
    return {};
}
std::string name_of(const BenchCase& row) {
    return fmt::format("{} {} {} x{}", name_of(kOps, row.op), name_of(kTransports, row.transport),
                       format_bytes(row.size), row.batch);
}

/// A line on stderr that is written over, where a person looks.
class Progress {
public:
    Progress() = default;
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    ~Progress() { clear(); }
    void say(std::string_view what) const {
        if (person_) fmt::print(stderr, "\r\033[K{}", what);
    }
    void clear() const { say({}); }

private:
    bool person_ = ::isatty(STDERR_FILENO) == 1;
};

// ---- a row ----

/// What of the pool a row may use: three quarters at most, in blocks.
struct Room {
    std::uint64_t capacity_bytes = 0;
    std::uint64_t blocks = 0;
};

Result<Room> room_for(client::PoolClient& pool, const BenchCase& row, std::uint64_t wanted) {
    const auto stats = pool.stats();
    if (!stats) return fail(stats.error());
    std::uint64_t capacity = 0, segment = 0;
    for (const auto& [name, value] : *stats) {
        if (name == "capacity_bytes") capacity = value;
        if (name == "segment_bytes") segment = value;
    }
    const std::uint64_t each = model::units_for(row.size) * model::kUnitBytes;
    const std::uint64_t fit = segment == 0 ? 0 : capacity / segment * (segment / each) * 3 / 4;
    if (wanted == 0)
        wanted = std::min(kBlocksDefaultMax, std::max<std::uint64_t>(1, kWorkingBytes / row.size));
    const std::uint64_t blocks =
        std::min(std::max<std::uint64_t>(wanted, row.batch), fit) / row.batch * row.batch;
    if (blocks > 0) return Room{capacity, blocks};
    return fail(Errc::NoCapacity, "expected room for {} blocks of {}, saw room for {} in the pool", row.batch,
                format_bytes(row.size), fit);
}

/// What one thread needs while its contestants run.
struct Seat {
    std::unique_ptr<client::PoolClient> pool;
    std::unique_ptr<std::byte, Freer> buffer;
};

Result<Crew> recruit(const BenchCase& row, const client::PoolUri& uri, const Room& room,
                     const std::vector<client::Digest>& keys, const SharedPages& pages) {
    auto seat = std::make_shared<Seat>();
    auto pool = open_pool(uri, bench_namespace(row.op));
    if (!pool) return fail(pool.error());
    seat->pool = std::move(*pool);
    seat->buffer = open_buffer(row.call_bytes());
    if (!seat->buffer)
        return fail(Errc::NoCapacity, "no memory for a buffer of {}", format_bytes(row.call_bytes()));
    const MutableBytes buffer{seat->buffer.get(), row.call_bytes()};

    auto limits = limit_work(row, room.blocks, pages, buffer);
    if (!limits) return fail(limits.error());
    Crew crew{.keep = seat, .contestants = {}};
    crew.contestants.push_back(
        {"pool", pool_work(row, *seat->pool, keys, room.blocks / row.threads, buffer)});
    for (auto& limit : *limits) crew.contestants.push_back(std::move(limit));
    return crew;
}

Row row_of(const BenchCase& asked, const std::vector<Pace>& paces) {
    const auto limit = std::max_element(paces.begin() + 1, paces.end(), [&](const Pace& a, const Pace& b) {
        return asked.by_throughput() ? a.calls_per_s < b.calls_per_s : a.p50_us > b.p50_us;
    });
    return {asked, paces.front(), *limit};
}

Result<Row> measure(const BenchCase& row, const BenchOptions& options, client::PoolUri uri,
                    const Progress& progress) {
    uri.transport = row.transport;
    const auto pool = open_pool(uri, bench_namespace(row.op));
    if (!pool) return fail(pool.error());
    const auto room = room_for(**pool, row, options.blocks);
    if (!room) return fail(room.error());

    progress.say(fmt::format("{}: storing {} blocks", name_of(row), grouped(room->blocks)));
    const auto filling = Filling::put(**pool, row, row.op == BenchOp::Put ? 0 : room->blocks);
    if (!filling) return fail(filling.error());
    const auto pages = SharedPages::open(limit_bytes(row, room->blocks, room->capacity_bytes));
    if (!pages) return fail(pages.error());

    progress.say(fmt::format("{}: {} s", name_of(row), options.seconds));
    const auto paces = race([&] { return recruit(row, uri, *room, (*filling)->keys(), **pages); },
                            row.threads, options.seconds);
    if (!paces) return fail(paces.error());
    return row_of(row, *paces);
}

// ---- the table ----

Json json_of(const BenchCase& row) {
    return {{"op", name_of(kOps, row.op)},
            {"transport", name_of(kTransports, row.transport)},
            {"size", row.size},
            {"batch", row.batch},
            {"threads", row.threads}};
}

void print_row(const Row& row, bool json) {
    const auto& [asked, ours, limit] = row;
    const double keys_per_s = ours.calls_per_s * asked.batch;
    if (json) {
        auto object = json_of(asked);
        object.update({{"gbps", row.gbps(ours)},
                       {"keys_per_s", keys_per_s},
                       {"p50_us", ours.p50_us},
                       {"p99_us", ours.p99_us},
                       {"limit_gbps", row.gbps(limit)},
                       {"limit_p50_us", limit.p50_us},
                       {"ratio", row.ratio()},
                       {"ratio_of", asked.by_throughput() ? "gbps" : "p50_us"},
                       {"limit", limit.name}});
        print_json(object);
    } else {
        fmt::print("{:<30}{:>8.2f}{:>13}{:>10.2f}{:>10.2f} |{:>8.2f}{:>10.2f} {:<9}|{:>6.2f} {}\n",
                   name_of(asked), row.gbps(ours), grouped(static_cast<std::uint64_t>(keys_per_s)),
                   ours.p50_us, ours.p99_us, row.gbps(limit), limit.p50_us, limit.name, row.ratio(),
                   asked.by_throughput() ? "GB/s" : "p50");
    }
    std::fflush(stdout);
}

void print_failed(const BenchCase& row, const Error& error, bool json) {
    if (json) {
        auto object = json_of(row);
        object["error"] = error.detail;
        print_json(object);
    } else {
        fmt::print("{:<30}{}\n", name_of(row), error.detail);
    }
    std::fflush(stdout);
}

Result<std::vector<BenchCase>> cases(const BenchOptions& options, const client::PoolUri& uri) {
    auto transports = options.transports;
    if (transports.empty() && uri.transport != client::Transport::Tcp) transports.emplace_back("shm");
    if (transports.empty() || (options.transports.empty() && uri.transport == client::Transport::Auto))
        transports.emplace_back("tcp");
    std::vector<BenchCase> all;
    for (const auto& transport : transports) {
        for (const auto& op : options.ops) {
            for (const auto& size : options.sizes) {
                for (const auto batch : options.batches) {
                    const BenchCase row{.op = kOps.at(op),
                                        .transport = kTransports.at(transport),
                                        .size = parse_bytes(size).value(),
                                        .batch = batch,
                                        .threads = options.threads};
                    if (row.call_bytes() > kCallBytesMax)
                        return fail(Errc::Invalid, "expected calls of at most {}, saw {} blocks of {}",
                                    format_bytes(kCallBytesMax), batch, size);
                    all.push_back(row);
                }
                if (op == "match") break;  // it finds blocks, whatever their size
            }
        }
    }
    return all;
}

Result<int> bench(const BenchOptions& options) {
    const auto uri = options.common.uri();
    if (!uri) return fail(uri.error());
    const auto rows = cases(options, *uri);
    if (!rows) return fail(rows.error());
    // One sentence where there is no pool at all, not one for each row.
    const auto reached = open_pool(*uri, bench_namespace(BenchOp::Get));
    if (!reached) return fail(reached.error());

    const Progress progress;
    if (!options.common.json)
        fmt::print("{:<30}{:>8}{:>13}{:>10}{:>10} |{:>8}{:>10} {:<9}|{:>6}\n", "call", "GB/s", "keys/s",
                   "p50 us", "p99 us", "GB/s", "p50 us", "limit", "ratio");
    int code = kSuccess;
    for (const auto& row : *rows) {
        const auto seen = measure(row, options, *uri, progress);
        progress.clear();
        if (seen) {
            print_row(*seen, options.common.json);
        } else {
            print_failed(row, seen.error(), options.common.json);
            code = kFailure;
        }
    }
    return code;
}

std::string check_size(const std::string& text) {
    const auto bytes = parse_bytes(text);
    if (!bytes) return bytes.error().detail;
    if (*bytes > 0 && *bytes <= model::kBlockBytesMax) return {};
    return fmt::format("expected a block of 1 B to {}, saw {}", format_bytes(model::kBlockBytesMax), text);
}

}  // namespace

bool BenchCase::by_throughput() const noexcept {
    return op != BenchOp::Match && call_bytes() >= kThroughputBytes;
}

void add_bench(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("bench", "Measures a pool against what this machine can do without one");
    const auto options = std::make_shared<BenchOptions>();
    const auto list = [&](const char* flag, auto& values, const char* about, const char* type) {
        return verb->add_option(flag, values, about)->delimiter(',')->type_name(type)->take_all();
    };
    list("--op", options->ops, "get, put, match; default: all", "OP,..")
        ->check(CLI::IsMember({"get", "put", "match"}).description(""));
    list("--size", options->sizes, "Of a block; default: 4KiB,64KiB,1MiB. A match takes the first", "SIZE,..")
        ->check(CLI::Validator(check_size, ""));
    list("--batch", options->batches, "Blocks that a call names; default: 1,16", "N,..")
        ->check(CLI::Range(std::size_t{1}, model::kBatchMax).description(""));
    list("--transport", options->transports, "shm, tcp; default: the URI's, else both", "NAME,..")
        ->check(CLI::IsMember({"shm", "tcp"}).description(""));
    verb->add_option("--threads", options->threads, "Each with a client of its own")
        ->check(CLI::Range(1U, kThreadsMax).description(""))
        ->type_name("N")
        ->capture_default_str();
    verb->add_option("--seconds", options->seconds, "How long a row takes, half or more of it for the limit")
        ->check(CLI::Range(0.001, 3600.0).description(""))
        ->type_name("S")
        ->capture_default_str();
    verb->add_option("--blocks", options->blocks,
                     "How many a row ranges over, at most 3/4 of the pool; default: 512 MiB of them, "
                     "at most 65,536")
        ->type_name("N");
    add_common(*verb, options->common);
    verb->get_option("--json")->description("Print one JSON object a line instead of a table");
    verb->footer(
        "The limit takes turns with the pool in slices; rates are medians of slices. By shm it is the\n"
        "best of several copies between such pages (match: independent probes of such a table), by tcp\n"
        "a bare socket over 127.0.0.1 with as many bytes. ratio is the pool's share of the limit: of\n"
        "GB/s (10^9 bytes a second; gbps in JSON) where a call moves 64 KiB or more, else of the median\n"
        "time of a call. A match counts with the end of its lease. What is stored makes room by evicting\n"
        "others' blocks where the pool is full, and is removed in the end. Exits with 1 if a row failed.\n"
        "Example: cmpool-cli bench --op get,put --size 4KiB,1MiB --batch 1,16 --seconds 2");
    verb->callback([&run, options] { run = [options] { return bench(*options); }; });
}

}  // namespace cmpool::cli
