// Many puts that one client begins at once, and clients that keep what they were given.
#include "faults.h"

using namespace cmpool;
using namespace std::chrono_literals;
using client::Outcome;
using testing::Daemon;

namespace {

/// Puts of one client that a pool reads at once: one less than it may.
constexpr std::size_t kPulled = 15;

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

TEST_CASE("a put beyond those that may wait for their turn hears Again at once, and the others are stored") {
    Daemon daemon({"--capacity", "64M", "--shards", "1"});
    const auto pool = testing::open_pool(daemon.uri("?transport=shm"));
    const auto bytes = testing::pattern(1000, 1);
    Begun begun(*pool, 0, kPulled + 1024 + 1, bytes);
    daemon.freeze();
    std::vector<client::Pending<client::Report>> pending;
    pending.reserve(begun.items.size());
    for (const auto& item : begun.items) pending.push_back(pool->start_put({&item, 1}, {.deadline = 20s}));
    REQUIRE(pending.back().done());
    const auto refused = pending.back().take();
    REQUIRE(refused.trouble);
    CHECK(refused.trouble->code == Errc::Again);
    CHECK(refused.trouble->detail.find("1024") != std::string::npos);
    pending.pop_back();
    daemon.thaw();
    std::size_t stored = 0;
    for (auto& each : pending) {
        pool->wait(each);
        stored += each.take().count(Outcome::Stored);
    }
    CHECK(stored == kPulled + 1024);
    CHECK(daemon.stop());
}

TEST_CASE(
    "a put that waits behind a frozen pool ends by its deadline, one with more time waits for nothing "
    "either") {
    Daemon daemon({"--capacity", "64M", "--shards", "1"});
    const auto pool = testing::open_pool(daemon.uri("?transport=shm"));
    const auto bytes = testing::pattern(1000, 1);
    Begun begun(*pool, 0, 40, bytes);
    daemon.freeze();
    const auto began = std::chrono::steady_clock::now();
    std::vector<client::Pending<client::Report>> pending;
    for (std::size_t at = 0; at < begun.items.size(); ++at) {
        const Nanos deadline = at < 32 ? 300ms : 20s;
        pending.push_back(pool->start_put({&begun.items[at], 1}, {.deadline = deadline}));
    }
    for (std::size_t at = 0; at < 32; ++at) {
        pool->wait(pending[at]);
        CHECK(pending[at].take().trouble);
    }
    CHECK(std::chrono::steady_clock::now() - began < 2s);
    daemon.thaw();
    for (std::size_t at = 32; at < begun.items.size(); ++at) pool->wait(pending[at]);
    CHECK(std::chrono::steady_clock::now() - began < 15s);
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
