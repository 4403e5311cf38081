// What cmpool.h promises of blocking calls, leases and threads, on shm and over tcp, against a real cmpoold.
#include "pool.h"

#include <chrono>
#include <cstring>
#include <thread>

#include <cmpool/testing/daemon.h>

using cmpool::testing::Daemon;
using cmpool::testing::Process;
using Time = std::chrono::steady_clock;
using namespace std::chrono_literals;

namespace {

const char* const kTransports[]{"shm", "tcp"};
// Long, so that a loaded machine does not change what a test is about.
const std::string kPatient = "?deadline_ms=20000&transport=";

/// By its name; so much that no test expects it where there is none.
std::uint64_t statistic(cmpool_pool* pool, const std::string& name) {
    cmpool_stats* stats = nullptr;
    REQUIRE(cmpool_read_stats(pool, nullptr, &stats, nullptr) == CMPOOL_OK);
    std::uint64_t found = UINT64_MAX;
    cmpool_stat one{.size = sizeof one};
    for (std::size_t at = 0; at < cmpool_stats_count(stats); ++at) {
        REQUIRE(cmpool_stats_at(stats, at, &one) == CMPOOL_OK);
        if (one.name == name) found = one.value;
    }
    CHECK(cmpool_stats_at(stats, cmpool_stats_count(stats), &one) == CMPOOL_INVALID);
    cmpool_stats_free(stats);
    return found;
}

}  // namespace

TEST_CASE("C: a seal key makes blocks that nobody without it can use") {
    Daemon daemon;
    for (const std::string transport : kTransports) {
        CAPTURE(transport);
        const auto uri = daemon.uri(kPatient + transport);
        const std::uint8_t ours[CMPOOL_SEAL_KEY_BYTES] = {1, 2, 3};
        const std::uint8_t theirs[CMPOOL_SEAL_KEY_BYTES] = {3, 2, 1};
        cmpool_namespace space{
            .size = sizeof space, .model = transport.c_str(), .dtype = "u8", .block_tokens = 4};
        const auto open = [&](const std::uint8_t* key, cmpool_error* error) {
            space.seal_key = key;
            cmpool_pool* pool = nullptr;
            (void)cmpool_open(uri.c_str(), &space, &pool, error);
            return abi::Pool(pool);
        };
        auto error = abi::no_error();
        const auto pool = open(ours, &error);
        REQUIRE(pool != nullptr);
        const auto keys = abi::chain(pool.get(), 2);
        abi::Blocks blocks(pool.get(), keys, 70'000);
        CHECK(cmpool_put(pool.get(), blocks.puts.data(), 2, nullptr, blocks.results.data(), &error) ==
              CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_STORED) == 2);
        blocks.clear();
        CHECK(cmpool_get(pool.get(), blocks.gets.data(), 2, nullptr, blocks.results.data(), &error) ==
              CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_HIT) == 2);
        CHECK(blocks.as_put());

        const auto other = open(theirs, &error);
        REQUIRE(other != nullptr);
        (void)cmpool_get(other.get(), blocks.gets.data(), 2, nullptr, blocks.results.data(), &error);
        CHECK(blocks.count(CMPOOL_MISS) == 2);
        cmpool_status status{.size = sizeof status};
        CHECK(cmpool_read_status(other.get(), &status, nullptr) == CMPOOL_OK);
        CHECK(status.broken_seals == 2);
        CHECK(open(nullptr, &error) == nullptr);
        CHECK(error.code == CMPOOL_MISMATCH);
        CHECK(std::string(error.text).find("sealed") != std::string::npos);
    }
    CHECK(daemon.stop());
}

TEST_CASE("C: what was put is matched, got, seen and removed") {
    Daemon daemon;
    for (const std::string transport : kTransports) {
        CAPTURE(transport);
        const auto pool = abi::open(daemon.uri(kPatient + transport), transport.c_str());
        cmpool_status status{.size = sizeof status};
        CHECK(cmpool_read_status(pool.get(), &status, nullptr) == CMPOOL_OK);
        CHECK(status.ready != 0);
        CHECK(status.transport == transport);
        CHECK(std::strlen(status.version) > 0);

        const auto keys = abi::chain(pool.get(), 5);
        abi::Blocks blocks(pool.get(), keys, 5000);
        auto error = abi::no_error();
        CHECK(cmpool_get(pool.get(), blocks.gets.data(), 5, nullptr, blocks.results.data(), &error) ==
              CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_MISS) == 5);
        CHECK(cmpool_put(pool.get(), blocks.puts.data(), 4, nullptr, blocks.results.data(), &error) ==
              CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_STORED) == 4);
        CHECK(blocks.results[3].bytes == 5000);
        CHECK(blocks.results[3].copies == 1);
        CHECK(blocks.results[3].size == sizeof(cmpool_result));
        CHECK(cmpool_put(pool.get(), blocks.puts.data(), 4, nullptr, nullptr, nullptr) == CMPOOL_OK);

        cmpool_lease* lease = nullptr;
        std::size_t found = 0;
        CHECK(cmpool_match(pool.get(), keys.data(), 5, nullptr, &lease, &found, &error) == CMPOOL_OK);
        CHECK(found == 4);
        CHECK(cmpool_lease_blocks(lease) == 4);
        CHECK(cmpool_lease_held(lease) == 1);
        blocks.clear();
        const cmpool_options verified{.size = sizeof verified, .verify = 1};
        CHECK(cmpool_get(pool.get(), blocks.gets.data(), 4, &verified, blocks.results.data(), &error) ==
              CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_HIT) == 4);
        blocks.memory[4].assign(5000, 5);
        CHECK(blocks.as_put());

        cmpool_view view{};
        if (transport == "shm") {
            CHECK(cmpool_lease_view(lease, 2, 0, &view, &error) == CMPOOL_OK);
            REQUIRE(view.bytes == 5000);
            CHECK(std::memcmp(view.data, blocks.memory[2].data(), 5000) == 0);
            CHECK(cmpool_lease_view(lease, 4, 0, &view, &error) == CMPOOL_INVALID);
            CHECK(view.data == nullptr);
        } else {
            CHECK(cmpool_lease_view(lease, 2, 0, &view, &error) == CMPOOL_UNSUPPORTED);
            CHECK(std::strlen(error.text) > 0);
        }
        cmpool_release(lease);
        const cmpool_options look{.size = sizeof look, .no_lease = 1};
        CHECK(cmpool_match(pool.get(), keys.data(), 5, &look, &lease, nullptr, nullptr) == CMPOOL_OK);
        CHECK(cmpool_lease_held(lease) == 0);
        cmpool_release(lease);
        CHECK(cmpool_match(pool.get(), keys.data(), 5, nullptr, nullptr, &found, nullptr) == CMPOOL_OK);
        CHECK(found == 4);

        CHECK(cmpool_remove(pool.get(), keys.data(), 1, nullptr, nullptr, nullptr) == CMPOOL_OK);
        CHECK(cmpool_exists(pool.get(), keys.data(), 5, nullptr, blocks.results.data(), nullptr) ==
              CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_HIT) == 3);
        CHECK(blocks.results[0].outcome == CMPOOL_MISS);
    }
    CHECK(daemon.stop());
}

TEST_CASE("C: a part of a block lands in pieces, and a range outside of it is told") {
    Daemon daemon;
    const auto pool = abi::open(daemon.uri(kPatient + "shm"));
    const auto keys = abi::chain(pool.get(), 1);
    abi::Blocks blocks(pool.get(), keys, 1000);
    for (std::size_t at = 0; at < 1000; ++at) blocks.memory[0][at] = static_cast<std::uint8_t>(at % 251);
    CHECK(cmpool_put(pool.get(), blocks.puts.data(), 1, nullptr, blocks.results.data(), nullptr) ==
          CMPOOL_OK);
    std::vector<std::uint8_t> room(100, 0);
    const cmpool_span pieces[]{{room.data(), 30}, {nullptr, 0}, {room.data() + 30, 70}};
    auto item = blocks.gets[0];
    item.into = pieces;
    item.into_count = 3;
    item.offset = 500;
    item.length = 100;
    CHECK(cmpool_get(pool.get(), &item, 1, nullptr, blocks.results.data(), nullptr) == CMPOOL_OK);
    CHECK(blocks.results[0].outcome == CMPOOL_HIT);
    CHECK(std::memcmp(room.data(), &blocks.memory[0][500], 100) == 0);
    item.offset = 950;
    (void)cmpool_get(pool.get(), &item, 1, nullptr, blocks.results.data(), nullptr);
    CHECK(blocks.results[0].outcome == CMPOOL_OUTSIDE);
    item.offset = item.length = 0;
    (void)cmpool_get(pool.get(), &item, 1, nullptr, blocks.results.data(), nullptr);
    CHECK(blocks.results[0].outcome == CMPOOL_TOO_SMALL);
    CHECK(blocks.results[0].bytes == 1000);
    CHECK(daemon.stop());
}

TEST_CASE("C: a program in C alone finds all it needs in one header") {
    Daemon daemon;
    Process plain({CMPOOL_PLAIN, daemon.uri("?deadline_ms=20000")});
    const auto line = plain.read_line();
    const auto code = plain.wait();
    CAPTURE(plain.errors());
    CHECK(line == "all is well");
    CHECK(code == 0);
    CHECK(daemon.stop());
}

TEST_CASE("C: a lease is held until it is given back") {
    Daemon daemon;
    const auto pool = abi::open(daemon.uri(kPatient + "tcp"));
    const auto keys = abi::chain(pool.get(), 1);
    abi::Blocks blocks(pool.get(), keys, 100);
    REQUIRE(cmpool_put(pool.get(), blocks.puts.data(), 1, nullptr, nullptr, nullptr) == CMPOOL_OK);
    CHECK(statistic(pool.get(), "blocks") == 1);
    CHECK(statistic(pool.get(), "leases") == 0);
    cmpool_lease* lease = nullptr;
    CHECK(cmpool_match(pool.get(), keys.data(), 1, nullptr, &lease, nullptr, nullptr) == CMPOOL_OK);
    CHECK(statistic(pool.get(), "leases") == 1);
    cmpool_release(lease);
    CHECK(statistic(pool.get(), "leases") == 0);
    CHECK(cmpool_match(pool.get(), keys.data(), 1, nullptr, nullptr, nullptr, nullptr) == CMPOOL_OK);
    CHECK(statistic(pool.get(), "leases") == 0);
    cmpool_call* call = nullptr;
    REQUIRE(cmpool_start_match(pool.get(), keys.data(), 1, nullptr, &call, nullptr) == CMPOOL_OK);
    cmpool_drop(call);
    CHECK(statistic(pool.get(), "leases") == 0);
    CHECK(daemon.stop());
}

TEST_CASE("C: a pool that is not there is misses and a sentence, never an error to open") {
    const auto pool = abi::open("cmpool://127.0.0.1:1?deadline_ms=100");
    cmpool_status status{.size = sizeof status};
    auto error = abi::no_error();
    CHECK(cmpool_read_status(pool.get(), &status, &error) == CMPOOL_PEER_DOWN);
    CHECK(status.ready == 0);
    CHECK(std::strlen(error.text) > 0);
    const cmpool_digest key{};
    cmpool_result result{.size = sizeof result, .outcome = 77};
    CHECK(cmpool_exists(pool.get(), &key, 1, nullptr, &result, &error) == CMPOOL_PEER_DOWN);
    CHECK(result.outcome == CMPOOL_MISS);
    std::size_t found = 7;
    CHECK(cmpool_match(pool.get(), &key, 1, nullptr, nullptr, &found, nullptr) != CMPOOL_OK);
    CHECK(found == 0);
    cmpool_digest made{};
    CHECK(cmpool_key(pool.get(), "x", 1, &made, &error) == CMPOOL_PEER_DOWN);
}

TEST_CASE("C: a lease and its view outlive the pool's handle") {
    Daemon daemon;
    auto pool = abi::open(daemon.uri(kPatient + "shm"));
    const auto keys = abi::chain(pool.get(), 2);
    abi::Blocks blocks(pool.get(), keys, 3000);
    REQUIRE(cmpool_put(pool.get(), blocks.puts.data(), 2, nullptr, nullptr, nullptr) == CMPOOL_OK);
    cmpool_lease* lease = nullptr;
    REQUIRE(cmpool_match(pool.get(), keys.data(), 2, nullptr, &lease, nullptr, nullptr) == CMPOOL_OK);
    cmpool_view view{};
    REQUIRE(cmpool_lease_view(lease, 1, 0, &view, nullptr) == CMPOOL_OK);
    pool.reset();
    CHECK(std::memcmp(view.data, blocks.memory[1].data(), view.bytes) == 0);
    cmpool_release(lease);
    CHECK(daemon.stop());
}

// Whoever waits for a frozen pool holds the handle; nobody else waits longer than they said.
TEST_CASE("C: threads take turns at a pool, and waiting for one's turn counts towards the deadline") {
    Daemon daemon;
    const auto pool = abi::open(daemon.uri("?deadline_ms=2000&transport=tcp"));
    const auto keys = abi::chain(pool.get(), 1);
    abi::Blocks blocks(pool.get(), keys, 1000);
    REQUIRE(cmpool_put(pool.get(), blocks.puts.data(), 1, nullptr, nullptr, nullptr) == CMPOOL_OK);

    std::vector<std::thread> threads;
    std::atomic<int> hits{0};
    for (int thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&] {
            for (int round = 0; round < 200; ++round) {
                std::vector<std::uint8_t> room(1000);
                const cmpool_span into{room.data(), room.size()};
                auto item = blocks.gets[0];
                item.into = &into;
                cmpool_result result{.size = sizeof result};
                (void)cmpool_get(pool.get(), &item, 1, nullptr, &result, nullptr);
                if (result.outcome == CMPOOL_HIT && room == blocks.memory[0]) ++hits;
            }
        });
    }
    for (auto& thread : threads) thread.join();
    threads.clear();
    CHECK(hits == 800);

    daemon.freeze();
    const auto begun = Time::now();
    std::atomic<int> late{0};
    for (const std::int64_t deadline_ms : {600, 100}) {
        threads.emplace_back([&, deadline_ms] {
            const cmpool_options options{.size = sizeof options, .deadline_ns = deadline_ms * 1'000'000};
            cmpool_result result{.size = sizeof result, .outcome = 77};
            (void)cmpool_exists(pool.get(), keys.data(), 1, &options, &result, nullptr);
            CHECK(result.outcome == CMPOOL_MISS);
            if (Time::now() - begun > std::chrono::milliseconds(deadline_ms) + 400ms) ++late;
        });
    }
    for (auto& thread : threads) thread.join();
    CHECK(late == 0);
    daemon.thaw();
    CHECK(daemon.stop());
}
