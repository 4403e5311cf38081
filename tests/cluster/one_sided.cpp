#include "stage.h"

#include <algorithm>

#include <cmpool/wire/messages.h>

// Clients that read blocks without the pool's help.

namespace cmpool::testing {
namespace {

using client::Outcome;
using namespace std::chrono_literals;

TEST_CASE("read one-sided, a request costs a match and a release, and its blocks nothing") {
    Stage stage;
    ClientHost& client = stage.client("engine", false, true);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);
    {
        const auto match = stage.match(client, chain, 10'000);
        REQUIRE(match.leased());
        REQUIRE(stage.get(client, chain).count(Outcome::Hit) == chain.size());  // imports what is new
        stage.server.freeze(true);                                              // nobody is there to answer
        for (int round = 0; round < 100; ++round)
            CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
        stage.server.freeze(false);
    }
    stage.run(100ms);
    CHECK(stage.server.stat("messages_Match") == 1);
    CHECK(stage.server.stat("messages_Release") == 1);
    CHECK(stage.server.stat("messages_Get") == 0);
    CHECK(no_extents_left(stage.server));
}

// As a cache's loader reads, by layers, what the engine's own client has matched.
TEST_CASE("who is told where blocks lie reads any part of them one-sided") {
    Stage stage;
    ClientHost& engine = stage.client("engine", false, true);
    ClientHost& loader = stage.client("loader", false, true);
    const auto chain = stage.space.chains[0];
    stage.store(engine, chain);
    const auto match = stage.match(engine, chain, 10'000);
    REQUIRE(match.places() != nullptr);
    Stage::Getting all(stage.space, chain);
    (void)stage.finish(loader, loader.pool().start_get(all.items, {.places = match.places()}));
    const auto asked = stage.server.stat("messages_Get");
    stage.server.freeze(true);
    std::size_t hits = 0;
    std::size_t outside = 0;
    for (const std::uint32_t offset : {0u, 1u, 64u, 700u, 4095u}) {
        Stage::Getting parts(stage.space, chain);
        for (std::size_t at = 0; at < chain.size(); ++at) {
            parts.items[at].range = {.offset = offset, .length = 1 + offset % 7};
            parts.pieces[at] = parts.pieces[at].first(std::min<std::size_t>(8, parts.pieces[at].size()));
        }
        const auto got =
            stage.finish(loader, loader.pool().start_get(parts.items, {.places = match.places()}));
        for (std::size_t at = 0; at < chain.size(); ++at) {
            const auto& bytes = stage.space.blocks[chain[at]].bytes;
            const auto& range = parts.items[at].range;
            if (std::size_t{range.offset} + range.length > bytes.size()) {
                CHECK(got.blocks[at].outcome == Outcome::Outside);
                ++outside;
                continue;
            }
            ++hits;
            CHECK(got.blocks[at].outcome == Outcome::Hit);
            CHECK(got.blocks[at].bytes == range.length);
            CHECK(std::equal(bytes.begin() + range.offset, bytes.begin() + range.offset + range.length,
                             parts.buffers[at].begin()));
        }
    }
    stage.server.freeze(false);
    stage.run(100ms);
    CHECK(hits > chain.size());
    CHECK(outside > 0);
    CHECK(stage.server.stat("messages_Get") == asked);
}

// The second run's view is newer than the first one's: the lane that only reads is told of it too.
TEST_CASE("a server that is started again is read one-sided again") {
    Stage stage;
    ClientHost& client = stage.client("engine", false, true);
    const auto chain = stage.space.chains[0];
    for (int run = 0; run < 3; ++run) {
        stage.run_while([&] { return client.pool().status().kv != "sim"; });
        CHECK(client.pool().status().kv == "sim");
        CHECK(stage.put(client, chain).count(Outcome::Stored) == chain.size());
        CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
        stage.server.crash();
        stage.run(100ms);
        stage.server.restart();
    }
}

TEST_CASE("a plane that fails under way costs no block, and comes back") {
    Stage stage;
    ClientHost& client = stage.client("engine", false, true);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);
    const auto match = stage.match(client, chain, 10'000);
    // Its reads take for ever, its messages do not know of it: half of the time is the plane's.
    const auto usual = stage.world.plan();
    stage.world.plan().delay_min = stage.world.plan().delay_max = 1min;
    Stage::Getting getting(stage.space, chain);
    const auto call = client.pool().start_get(getting.items);
    client.arm();
    stage.world.plan() = usual;
    stage.run_while([&] { return !call.done(); });
    CHECK(client.pool().status().kv == "tcp");
    CHECK(stage.server.stat("messages_Get") == 1);
    stage.run_while([&] { return client.pool().status().kv != "sim"; });
    CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
}

}  // namespace
}  // namespace cmpool::testing
