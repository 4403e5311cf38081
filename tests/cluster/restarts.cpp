#include "stage.h"

#include <algorithm>

#include <cmpool/wire/messages.h>

// Pools that stop, and come back as they were or otherwise.

namespace cmpool::testing {
namespace {

using client::Outcome;
using namespace std::chrono_literals;

TEST_CASE("a pool that comes back with fewer shards, or with more, is followed") {
    Stage stage({.capacity_bytes = 2 * MiB, .shards = 2}, {.chains = 1, .chain_blocks_max = 40});
    const auto chain = stage.space.chains[0];
    ClientHost& client = stage.client("engine", true);
    for (const std::uint32_t shards : {2u, 1u, 3u}) {
        stage.server.crash();
        stage.run(100ms);
        stage.server.restart(shards);
        stage.run_while([&] { return client.pool().status().shards_mapped != shards; });
        CHECK(client.pool().status().shards == shards);
        CHECK(stage.put(client, chain).count(Outcome::Stored) == chain.size());
        CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
    }
}

TEST_CASE("a frozen pool costs one deadline, then nothing, and is found again") {
    Stage stage;
    ClientHost& client = stage.client("engine", false);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);

    stage.server.freeze(true);
    const Instant before = stage.world.clock().now();
    const auto late = stage.get(client, chain);
    CHECK(late.count(Outcome::Miss) == chain.size());
    REQUIRE(late.trouble);
    CHECK(late.trouble->code == Errc::Deadline);
    CHECK(stage.world.clock().now() - before == client.deadline());

    const Instant open = stage.world.clock().now();
    for (int round = 0; round < 10; ++round) {
        CHECK(stage.get(client, chain).count(Outcome::Miss) == chain.size());
        CHECK(stage.put(client, chain).count(Outcome::Dropped) == chain.size());
        CHECK(stage.match(client, chain, 100).blocks() == 0);
    }
    CHECK(stage.world.clock().now() == open);

    stage.run(3s);
    stage.server.freeze(false);
    stage.run_while([&] { return !client.ready(); });
    CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
}

TEST_CASE("after a restart of the pool clients come back and put again") {
    for (const bool mapped : {false, true}) {
        CAPTURE(mapped);
        Stage stage;
        ClientHost& client = stage.client("engine", mapped);
        const auto chain = stage.space.chains[0];
        stage.store(client, chain);
        const auto first = client.pool().status().incarnation;

        stage.server.crash();
        stage.run(500ms);
        stage.server.restart();
        stage.run_while([&] { return !client.ready(); });
        CHECK(client.pool().status().incarnation != first);
        CHECK(stage.get(client, chain).count(Outcome::Miss) == chain.size());
        CHECK(stage.put(client, chain).count(Outcome::Stored) == chain.size());
        CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
    }
}

TEST_CASE("a view outlives the pool that it came from") {
    Stage stage;
    ClientHost& client = stage.client("engine", true);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);
    auto match = stage.match(client, chain, 50);
    const auto view = match.view(0);
    REQUIRE(view);

    stage.server.crash();
    stage.run(100ms);
    stage.server.restart();
    stage.run_while([&] { return !client.ready(); });
    const auto& expected = stage.space.blocks[chain[0]].bytes;
    CHECK(std::equal(view->begin(), view->end(), expected.begin(), expected.end()));
}

TEST_CASE("a match from before a restart does not end a lease from after it") {
    Stage stage;
    ClientHost& client = stage.client("engine", false);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);
    auto before = stage.match(client, chain, 60'000);
    REQUIRE(before.leased());

    stage.server.crash();
    stage.run(100ms);
    stage.server.restart();
    stage.run_while([&] { return !client.ready(); });
    stage.store(client, chain);
    const auto after = stage.match(client, chain, 60'000);
    REQUIRE(after.leased());
    before.release();
    stage.run(100ms);
    CHECK(stage.server.stat("leases") == 1);
}

}  // namespace
}  // namespace cmpool::testing
