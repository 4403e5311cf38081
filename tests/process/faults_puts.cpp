// Many puts that one client begins at once, and clients that keep what they were given.
#include "faults.h"

using namespace cmpool;
using namespace std::chrono_literals;
using client::Outcome;
using testing::Daemon;

namespace {

/// Puts of a few blocks each, begun and not waited for.
struct Begun {
    Begun(client::PoolClient& pool, std::uint64_t first, std::size_t blocks, Bytes bytes) : piece(bytes) {
        for (std::uint64_t number = first; number < first + blocks; ++number) {
            const auto key = pool.key(std::as_bytes(std::span(&number, 1))).value();
            items.push_back({.key = key, .from = {&piece, 1}});
        }
    }
    Bytes piece;
    std::vector<client::PutItem> items;
};

std::vector<client::Report> put_at_once(client::PoolClient& pool, std::size_t calls, std::size_t blocks,
                                        Bytes bytes, const client::CallOptions& options) {
    std::vector<std::unique_ptr<Begun>> begun;
    std::vector<client::Pending<client::Report>> pending;
    for (std::size_t call = 0; call < calls; ++call) {
        begun.push_back(std::make_unique<Begun>(pool, call << 32, blocks, bytes));
        pending.push_back(pool.start_put(begun.back()->items, options));
    }
    std::vector<client::Report> reports;
    for (auto& each : pending) {
        pool.wait(each);
        reports.push_back(each.take());
    }
    return reports;
}

}  // namespace

// The pool answers a seventeenth message with Again, and its blocks were dropped.
TEST_CASE("puts that are begun at once are all stored, however many more than a pool takes of one client") {
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon({"--capacity", "256M", "--shards", "2", "--segment", "8M"});
        const auto pool = testing::open_pool(daemon.uri(fmt::format("?transport={}", transport)));
        const auto bytes = testing::pattern(1 * MiB, 1);
        const auto reports = put_at_once(*pool, 48, 4, bytes, {.deadline = 20s});
        for (const auto& report : reports) {
            CHECK(report.count(Outcome::Stored) == 4);
            if (report.trouble) FAIL_CHECK(report.trouble->detail);
        }
        CHECK(daemon.stop());
    }
}

TEST_CASE(
    "a put beyond those that may wait for their turn is done at once, with Again, and the others are "
    "stored") {
    Daemon daemon({"--capacity", "64M"});
    const auto pool = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto bytes = testing::pattern(1000, 1);
    const auto reports = put_at_once(*pool, 4 + 1024 + 1, 1, bytes, {.deadline = 20s});
    std::size_t stored = 0;
    for (const auto& report : reports) stored += report.count(Outcome::Stored);
    CHECK(stored == 4 + 1024);
    REQUIRE(reports.back().trouble);
    CHECK(reports.back().trouble->code == Errc::Again);
    CHECK(reports.back().trouble->detail.find("1024") != std::string::npos);
    CHECK(daemon.stop());
}

TEST_CASE("a put that waits for its turn behind a frozen pool ends by its deadline") {
    Daemon daemon({"--capacity", "64M"});
    const auto pool = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto bytes = testing::pattern(1000, 1);
    daemon.freeze();
    const auto begun = std::chrono::steady_clock::now();
    const auto reports = put_at_once(*pool, 32, 1, bytes, {.deadline = 300ms});
    CHECK(std::chrono::steady_clock::now() - begun < 2s);
    for (const auto& report : reports) CHECK(report.trouble);
    daemon.thaw();
    CHECK(testing::comes_true([&] { return testing::round_trip(*pool, 77) == ""; }));
    CHECK(daemon.stop());
}

TEST_CASE("a client that never gives its leases back has a part of the memory at most, and that comes back") {
    Daemon daemon({"--capacity", "16M"});
    const auto keeper = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto writer = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto bytes = testing::pattern(60'000, 1);
    std::vector<client::Match> kept;
    for (std::uint32_t chain = 0; chain < 8; ++chain) {
        const auto keys = testing::chain_of(*keeper, 20, chain);
        for (const auto& key : keys) (void)testing::put_one(*keeper, key, bytes);
        kept.push_back(keeper->match(keys, 2000));
    }
    CHECK(testing::statistic(*writer, "leases") > 0);
    CHECK(testing::statistic(*writer, "leases_refused") > 0);
    CHECK(testing::statistic(*writer, "leased_bytes") <= 4 * MiB);
    // Others store as before, four times what there is.
    for (std::uint64_t number = 0; number < 64; ++number)
        CHECK(testing::round_trip(*writer, number, 1'000'000) == "");
    // Neither given back nor renewed, and its owner lives.
    CHECK(testing::comes_true([&] { return testing::statistic(*writer, "leased_bytes") == 0; }));
    CHECK(testing::comes_true([&] { return testing::statistic(*writer, "doomed_bytes") == 0; }));
    CHECK(testing::statistic(*writer, "leases_expired") > 0);
    CHECK(daemon.stop());
}
