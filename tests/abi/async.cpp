// Calls that are started, moved by an event loop, and finished.
#include "pool.h"

#include <algorithm>
#include <span>
#include <utility>

#include <cmpool/testing/daemon.h>

#include <poll.h>

using cmpool::testing::Daemon;

namespace {

constexpr int kPatienceMs = 20'000;

/// As an event loop would: sleeps on the descriptor, and moves the pool when it is readable.
void run(cmpool_pool* pool, cmpool_call* call) {
    int fd = -1;
    REQUIRE(cmpool_event_fd(pool, &fd, nullptr) == CMPOOL_OK);
    while (cmpool_call_done(call) == 0) {
        pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
        REQUIRE(::poll(&waiting, 1, kPatienceMs) == 1);
        REQUIRE(cmpool_progress(pool, nullptr) == CMPOOL_OK);
    }
}

}  // namespace

TEST_CASE("C: an event loop puts, matches and gets") {
    Daemon daemon;
    for (const std::string transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        const auto pool =
            abi::open(daemon.uri("?deadline_ms=20000&transport=" + transport), transport.c_str());
        const auto keys = abi::chain(pool.get(), 3);
        abi::Blocks blocks(pool.get(), keys, 300'000);
        auto error = abi::no_error();
        cmpool_call* call = nullptr;
        REQUIRE(cmpool_start_put(pool.get(), blocks.puts.data(), 3, nullptr, &call, &error) == CMPOOL_OK);
        blocks.puts.clear();  // what names the bytes was copied
        run(pool.get(), call);
        CHECK(cmpool_finish_match(call, nullptr, nullptr, &error) == CMPOOL_INVALID);
        CHECK(cmpool_finish(call, blocks.results.data(), 2, &error) == CMPOOL_INVALID);
        CHECK(cmpool_finish(call, blocks.results.data(), 3, &error) == CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_STORED) == 3);

        auto named = keys;
        REQUIRE(cmpool_start_match(pool.get(), named.data(), 3, nullptr, &call, &error) == CMPOOL_OK);
        named.clear();
        run(pool.get(), call);
        cmpool_lease* lease = nullptr;
        std::size_t found = 0;
        CHECK(cmpool_finish(call, blocks.results.data(), 3, &error) == CMPOOL_INVALID);
        CHECK(cmpool_finish_match(call, &lease, &found, &error) == CMPOOL_OK);
        CHECK(found == 3);

        blocks.clear();
        REQUIRE(cmpool_start_get(pool.get(), blocks.gets.data(), 3, nullptr, &call, &error) == CMPOOL_OK);
        CHECK(cmpool_wait(call, &error) == CMPOOL_OK);
        CHECK(cmpool_finish(call, blocks.results.data(), 3, &error) == CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_HIT) == 3);
        CHECK(blocks.as_put());
        cmpool_release(lease);

        REQUIRE(cmpool_start_remove(pool.get(), keys.data(), 1, nullptr, &call, &error) == CMPOOL_OK);
        run(pool.get(), call);
        CHECK(cmpool_finish(call, nullptr, 0, &error) == CMPOOL_OK);
        REQUIRE(cmpool_start_exists(pool.get(), keys.data(), 3, nullptr, &call, &error) == CMPOOL_OK);
        run(pool.get(), call);
        CHECK(cmpool_finish(call, blocks.results.data(), 3, &error) == CMPOOL_OK);
        CHECK(blocks.count(CMPOOL_HIT) == 2);
    }
    CHECK(daemon.stop());
}

TEST_CASE("C: a call that is not done is kept, one that is dropped gives its memory back by its deadline") {
    Daemon daemon;
    const auto pool = abi::open(daemon.uri("?deadline_ms=20000&transport=tcp"));
    const auto keys = abi::chain(pool.get(), 3);
    abi::Blocks blocks(pool.get(), keys, 1000);
    daemon.freeze();
    const cmpool_options soon{.size = sizeof soon, .deadline_ns = 150'000'000};
    cmpool_call* call = nullptr;
    auto error = abi::no_error();
    REQUIRE(cmpool_start_get(pool.get(), blocks.gets.data(), 3, &soon, &call, &error) == CMPOOL_OK);
    CHECK(cmpool_call_done(call) == 0);
    CHECK(cmpool_finish(call, blocks.results.data(), 3, &error) == CMPOOL_AGAIN);
    cmpool_call* other = nullptr;
    REQUIRE(cmpool_start_match(pool.get(), keys.data(), 3, &soon, &other, &error) == CMPOOL_OK);
    cmpool_drop(other);
    run(pool.get(), call);
    CHECK(cmpool_finish(call, blocks.results.data(), 3, &error) == CMPOOL_DEADLINE);
    CHECK(blocks.count(CMPOOL_MISS) == 3);
    daemon.thaw();
    CHECK(daemon.stop());
}

TEST_CASE("C: calls on their way have a limit, and closing the pool ends them with misses") {
    Daemon daemon;
    auto pool = abi::open(daemon.uri("?deadline_ms=20000&transport=tcp"));
    const auto keys = abi::chain(pool.get(), 1);
    abi::Blocks blocks(pool.get(), keys, 1000);
    daemon.freeze();
    std::vector<cmpool_call*> calls(CMPOOL_CALLS_MAX);
    auto error = abi::no_error();
    cmpool_call* more = nullptr;
    for (std::size_t at = 0; at < CMPOOL_PUTS_MAX; ++at)
        REQUIRE(cmpool_start_put(pool.get(), blocks.puts.data(), 1, nullptr, &calls[at], &error) ==
                CMPOOL_OK);
    CHECK(cmpool_start_put(pool.get(), blocks.puts.data(), 1, nullptr, &more, &error) == CMPOOL_AGAIN);
    for (auto*& call : std::span(calls).subspan(CMPOOL_PUTS_MAX))
        REQUIRE(cmpool_start_exists(pool.get(), keys.data(), 1, nullptr, &call, &error) == CMPOOL_OK);
    CHECK(cmpool_start_exists(pool.get(), keys.data(), 1, nullptr, &more, &error) == CMPOOL_AGAIN);
    CHECK(more == nullptr);
    pool.reset();
    cmpool_result result{.size = sizeof result};
    CHECK(std::ranges::all_of(calls, [](const auto* call) { return cmpool_call_done(call) != 0; }));
    for (const auto& [call, outcome] :
         {std::pair{calls.front(), CMPOOL_DROPPED}, std::pair{calls.back(), CMPOOL_MISS}}) {
        // Closed by itself, or with the lane that still sent from a put's memory.
        const auto code = cmpool_finish(call, &result, 1, &error);
        CHECK((code == CMPOOL_PEER_DOWN || code == CMPOOL_DEADLINE));
        CHECK_FALSE(std::string(error.text).empty());
        CHECK(result.outcome == outcome);
    }
    for (auto* call : std::span(calls).subspan(1, calls.size() - 2)) cmpool_drop(call);
    daemon.thaw();
    CHECK(daemon.stop());
}
