// cmpool-cli bench: what it measures is the machine's affair; that each row is whole, that it compares what
// it says, and that nothing stays behind, is ours.
#include "run_cli.h"

#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include <nlohmann/json.hpp>
#include <sys/stat.h>

using namespace cmpool;
using nlohmann::json;
using testing::cli;
using testing::contains;
using testing::Pool;
using testing::Process;
using testing::TempFolder;

namespace {

std::vector<json> rows_of(const std::string& out) {
    std::vector<json> rows;
    std::istringstream lines(out);
    for (std::string line; std::getline(lines, line);) rows.push_back(json::parse(line));
    return rows;
}

json stats_of(const Pool& pool) { return json::parse(cli({"stats", "--json", "--pool", pool.uri()}).out); }

/// What a run of bench printed, when all rows were measured.
std::vector<json> bench(const Pool& pool, std::vector<std::string> arguments,
                        const std::vector<std::string>& set = {}) {
    arguments.insert(arguments.begin(), {"bench", "--json", "--seconds", "0.1", "--pool", pool.uri()});
    const auto ended = cli(arguments, {}, set);
    CAPTURE(ended.errors);
    CAPTURE(ended.out);
    CHECK(ended.code == 0);
    CHECK(ended.errors.empty());
    CHECK(stats_of(pool)["blocks"] == 0);
    return rows_of(ended.out);
}

void check_positive(const json& row, const std::vector<std::string>& fields) {
    for (const auto& field : fields) CHECK_MESSAGE(row[field].get<double>() > 0, field);
}

/// Whether redis can be compared with here; a line says when not.
bool redis_is_here() {
#ifdef CMPOOL_HIREDIS
    if (std::system("command -v redis-server >/dev/null") == 0) return true;
    MESSAGE("skipped: no redis-server on PATH");
#else
    MESSAGE("skipped: built without hiredis");
#endif
    return false;
}

/// The process that works in a folder below `parent`, even where that folder is gone.
std::optional<pid_t> process_below(const std::string& parent) {
    for (const auto& process : std::filesystem::directory_iterator("/proc")) {
        std::error_code error;
        const auto works_in = std::filesystem::read_symlink(process.path() / "cwd", error).string();
        if (!error && works_in.starts_with(parent + "/")) return std::stoi(process.path().filename());
    }
    return std::nullopt;
}

std::uint64_t resident_unshared(pid_t pid) {
    std::uint64_t bytes = 0;
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("RssAnon:") || line.starts_with("RssFile:"))
            bytes += std::stoull(line.substr(8)) * 1024;
    }
    return bytes;
}

}  // namespace

TEST_CASE("bench prints a JSON row for each call it measured, over shm and over tcp, and cleans up") {
    const Pool pool;
    std::map<std::string, int> rows;
    for (const auto& row : bench(pool, {"--op", "get,put,match", "--size", "4KiB", "--batch", "1,16",
                                        "--threads", "2", "--blocks", "512", "--transport", "shm,tcp"})) {
        CAPTURE(row.dump());
        ++rows[row["op"].get<std::string>() + " " + row["transport"].get<std::string>()];
        CHECK(row["size"] == 4096);
        CHECK(row["threads"] == 2);
        check_positive(row, {"keys_per_s", "p50_us", "p99_us", "limit_p50_us", "ratio"});
        const bool moves = row["op"] != "match";
        CHECK((row["gbps"].get<double>() > 0) == moves);
        CHECK((row["limit_gbps"].get<double>() > 0) == moves);
        CHECK_FALSE(row.contains("scaling"));  // against what?
        CHECK_FALSE(row.contains("redis_gbps"));
    }
    const std::map<std::string, int> expected{{"get shm", 2}, {"get tcp", 2},   {"put shm", 2},
                                              {"put tcp", 2}, {"match shm", 2}, {"match tcp", 2}};
    CHECK(rows == expected);
}

TEST_CASE("a bench row that cannot be measured says why, and the others are measured") {
    const Pool pool;
    const auto ended = cli({"bench", "--json", "--seconds", "0.1", "--op", "get", "--size", "16MiB,4KiB",
                            "--batch", "1", "--blocks", "64", "--transport", "shm", "--pool", pool.uri()});
    CAPTURE(ended.out);
    CHECK(ended.code == 1);
    std::istringstream lines(ended.out);
    std::string first, second;
    REQUIRE(std::getline(lines, first));
    REQUIRE(std::getline(lines, second));
    CHECK(contains(json::parse(first)["error"], "saw room for 0"));
    CHECK(json::parse(second)["ratio"].get<double>() > 0);
}

TEST_CASE("a list of threads gives a row for each number, and says what several give against one") {
    const Pool pool;
    const auto rows = bench(pool, {"--op", "get,match", "--size", "4KiB", "--batch", "4", "--threads",
                                   "2,1,2", "--blocks", "512", "--transport", "shm"});
    REQUIRE(rows.size() == 4);
    for (const std::size_t first : {0, 2}) {
        const auto& one = rows[first];
        const auto& two = rows[first + 1];
        CHECK(one["threads"] == 1);
        CHECK_FALSE(one.contains("scaling"));
        CHECK(two["threads"] == 2);
        const auto ratio = [&](const char* field) {
            return two[field].get<double>() / one[field].get<double>();
        };
        CHECK(two["scaling"]["keys_per_s"].get<double>() == doctest::Approx(ratio("keys_per_s")));
        CHECK(two["scaling"]["p99_us"].get<double>() == doctest::Approx(ratio("p99_us")));
        check_positive(two["scaling"], {"limit_keys_per_s"});
    }
}

TEST_CASE("bench --full puts into a pool that evicts for it, and refuses nothing") {
    const Pool pool;
    const auto rows = bench(
        pool, {"--full", "--size", "16KiB", "--batch", "1,16", "--threads", "1,2", "--transport", "shm"});
    REQUIRE(rows.size() == 4);
    for (const auto& row : rows) {
        CAPTURE(row.dump());
        CHECK(row["op"] == "put");
        CHECK(row["full"] == true);
        CHECK(row["refused_blocks"] == 0);
        check_positive(row, {"keys_per_s", "p50_us", "p99_us", "room_keys_per_s", "room_p50_us",
                             "room_p99_us", "evicted_blocks"});
        CHECK(row["ratio_p99"].get<double>() ==
              doctest::Approx(row["p99_us"].get<double>() / row["room_p99_us"].get<double>()));
    }
    CHECK(stats_of(pool)["evicted_blocks"] >=
          rows[0]["evicted_blocks"].get<std::uint64_t>() + rows[2]["evicted_blocks"].get<std::uint64_t>());
}

TEST_CASE("what a pool says of its own memory is what the system says, without the blocks' segments") {
    Pool pool;
    REQUIRE(cli({"put", "key", "-", "--pool", pool.uri()}, std::string(1 << 20, 'x')).code == 0);
    const auto stats = stats_of(pool);
    std::uint64_t index_bytes = 0;
    std::ifstream maps("/proc/" + std::to_string(pool.daemon().pid()) + "/maps");
    for (std::string line; std::getline(maps, line);) {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        char dash = 0;
        std::istringstream(line) >> std::hex >> begin >> dash >> end;
        if (line.find("-index") != std::string::npos) index_bytes += end - begin;
    }
    CHECK(index_bytes > 0);
    CHECK(stats["index_bytes"] == index_bytes);
    const auto own = stats["private_bytes"].get<std::uint64_t>();
    const auto seen = resident_unshared(pool.daemon().pid()) + index_bytes;
    constexpr std::uint64_t kSlack = 4 << 20;  // the system counts in batches, and it goes on living
    CHECK(own + kSlack > seen);
    CHECK(own < seen + kSlack);
    CHECK(stats["private_start_bytes"].get<std::uint64_t>() < own);
}

TEST_CASE("bench --op memory divides what the pool took by the blocks that it stored, once") {
    const Pool pool;
    constexpr double kBlocks = 8192;
    const auto rows =
        bench(pool, {"--op", "memory", "--size", "4000", "--blocks", "8192", "--transport", "shm"});
    REQUIRE(rows.size() == 1);
    const auto& row = rows.front();
    CAPTURE(row.dump());
    CHECK(row["blocks"] == kBlocks);
    CHECK(row["size"] == 4000);
    const auto number = [&](const char* field) { return row[field].get<double>(); };
    CHECK(number("private_start_bytes") <= number("private_before_bytes"));
    CHECK(number("private_before_bytes") < number("private_after_bytes"));
    const double own = (number("private_after_bytes") - number("private_start_bytes")) / kBlocks;
    CHECK(number("private_bytes_per_block") == doctest::Approx(own));
    CHECK(own > number("index_bytes") / kBlocks);
    CHECK(number("beyond_payload_bytes_per_block") == doctest::Approx(64 + own));
    CHECK(number("rounding_bytes_per_block") == doctest::Approx(4032 - 4000));  // the next multiple of 64
    CHECK(number("goal_bytes_per_block") == 192);

    // Its records stay reserved, so a second time would seem to cost nothing.
    const auto again = cli({"bench", "--json", "--op", "memory", "--blocks", "64", "--pool", pool.uri()});
    CHECK(again.code == 1);
    CHECK(contains(again.out, "saw 8,192 puts"));
    const Pool small;
    const auto large = cli({"bench", "--op", "memory", "--blocks", "1000000", "--pool", small.uri()});
    CHECK(large.code == 1);
    CHECK(contains(large.out, "expected room for 1,000,000 blocks of 4 KiB"));
}

TEST_CASE("bench --compare redis shows redis beside each get and put, and leaves no server and no file") {
    if (!redis_is_here()) return;
    const Pool pool;
    const TempFolder folder;
    const auto rows = bench(pool,
                            {"--compare", "redis", "--op", "get,put,match", "--size", "4KiB,64KiB", "--batch",
                             "1,16", "--threads", "1,2", "--blocks", "64", "--transport", "shm"},
                            {"TMPDIR=" + folder.path().string()});
    CHECK(rows.size() == 2 * (4 + 4 + 2));
    for (const auto& row : rows) {
        CAPTURE(row.dump());
        const std::vector<std::string> fields{"redis_gbps", "redis_keys_per_s", "redis_p50_us",
                                              "ratio_redis"};
        if (row["op"] == "match") {
            for (const auto& field : fields) CHECK_FALSE(row.contains(field));
            continue;
        }
        check_positive(row, fields);
        const auto of = [&](const char* field) { return row[field].get<double>(); };
        CHECK(of("redis_gbps") * 1e9 == doctest::Approx(of("redis_keys_per_s") * of("size")));
        const double ratio =
            row["ratio_of"] == "gbps" ? of("gbps") / of("redis_gbps") : of("redis_p50_us") / of("p50_us");
        CHECK(of("ratio_redis") == doctest::Approx(ratio));
    }
    CHECK_FALSE(process_below(folder.path()));
    CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("a bench that is killed takes its redis-server along") {
    if (!redis_is_here()) return;
    const Pool pool;
    const TempFolder folder;
    Process killed({"/usr/bin/env", "TMPDIR=" + folder.path().string(), CMPOOL_CLI, "bench", "--compare",
                    "redis", "--json", "--seconds", "0.2", "--op", "get", "--blocks", "16", "--size",
                    "4KiB,8KiB,16KiB,64KiB,1MiB", "--pool", pool.uri()});
    REQUIRE(killed.read_line());
    const auto server = process_below(folder.path());
    REQUIRE(server);
    const UniqueFd ended(static_cast<int>(::syscall(SYS_pidfd_open, *server, 0)));
    REQUIRE(ended);
    killed.signal(SIGKILL);
    CHECK(killed.wait() == -SIGKILL);
    pollfd gone{.fd = ended.get(), .events = POLLIN, .revents = 0};
    CHECK(::poll(&gone, 1, 20'000) == 1);
    CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("without redis-server, --compare redis says what is missing, and measures nothing") {
    const Pool pool;
    const auto ended = cli({"bench", "--compare", "redis", "--pool", pool.uri()}, {}, {"PATH=/nonexistent"});
    CHECK(ended.code == 1);
    CHECK(ended.one_sentence());
    CHECK(ended.out.empty());
#ifdef CMPOOL_HIREDIS
    CHECK(contains(ended.errors, "expected redis-server on PATH"));
#else
    CHECK(contains(ended.errors, "libhiredis-dev"));
#endif
}

TEST_CASE("a sealed row stands beside the plain one, against what a core encrypts") {
    const Pool pool;
    const auto rows = bench(pool, {"--op", "get,put", "--size", "64KiB", "--batch", "1", "--sealed"});
    REQUIRE(rows.size() == 8);
    for (std::size_t at = 0; at < rows.size(); ++at) {
        CHECK(rows[at]["sealed"] == (at % 2 == 1));
        CHECK((rows[at]["limit"] == "aes-gcm") == (at % 2 == 1));
        check_positive(rows[at], {"gbps", "ratio", "limit_gbps"});
    }
}
