#include "stage.h"

// Clients of the pool's own host: its memory comes to them piece by piece.

namespace cmpool::testing {
namespace {

using client::Outcome;
using namespace std::chrono_literals;

TEST_CASE("over mapped memory a match and a get send no message") {
    Stage stage;
    ClientHost& client = stage.client("engine", true);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);
    REQUIRE(stage.match(client, chain, 100).blocks() == chain.size());  // maps what is new
    const auto attaches = stage.server.stat("messages_Attach");

    stage.server.freeze(true);  // nobody is there to answer
    for (int round = 0; round < 100; ++round) {
        const auto match = stage.match(client, chain, 100);
        CHECK(match.leased());
        CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
    }
    stage.server.freeze(false);
    stage.run(100ms);
    CHECK(stage.server.stat("messages_Match") == 0);
    CHECK(stage.server.stat("messages_Get") == 0);
    CHECK(stage.server.stat("messages_Release") == 0);
    CHECK(stage.server.stat("messages_Attach") == attaches);
    CHECK(stage.server.stat("match_calls") == 101);
    CHECK(stage.server.stat("get_hits") == 100 * chain.size());
}

TEST_CASE("segments that are asked for twice are mapped once") {
    for (int chance = 0; chance < 16; ++chance) {
        CAPTURE(chance);
        Stage stage;
        for (int draws = 0; draws < chance; ++draws) (void)stage.world.rng().next();
        stage.world.plan().delay_min = stage.world.plan().delay_max = 50us;
        ClientHost& reader = stage.client("reader", true);
        ClientHost& writer = stage.client("writer", false);
        const auto chain = stage.space.chains[0];
        stage.store(writer, chain);

        // The pool grants its first segment, and freezes before it hands it over.
        const auto keys = stage.space.keys(chain);
        const auto asked = stage.server.stat("messages_Attach");
        const auto first = reader.pool().start_match(keys);
        reader.arm();
        stage.run_while([&] { return stage.server.stat("messages_Attach") == asked; });
        stage.run(75us);
        stage.server.freeze(true);
        stage.run_while([&] { return !first.done(); });
        CHECK(stage.match(reader, chain, 100).blocks() == 0);

        // What it says now may come in any order.
        stage.world.plan().reorder_message = 1;
        stage.world.plan().delay_max = 5ms;
        stage.server.freeze(false);
        stage.run(1s);
        CHECK(stage.match(reader, chain, 100).leased());
    }
}

// "Denied" would send a person to look for a key that is wrong.
TEST_CASE("who loses the pool while its memory is handed over hears that the pool is gone") {
    int lost = 0;
    for (Nanos after{0}; after <= 300us; after += 5us) {
        CAPTURE(after.count());
        Stage stage;
        stage.world.plan().delay_min = stage.world.plan().delay_max = 50us;
        ClientHost& reader = stage.client("reader", true);
        ClientHost& writer = stage.client("writer", false);
        const auto chain = stage.space.chains[0];
        stage.store(writer, chain);
        Stage::Getting getting(stage.space, chain);
        auto call = reader.pool().start_get(getting.items);
        reader.arm();
        stage.run(after);
        stage.server.crash();
        stage.run_while([&] { return !call.done(); });
        const auto report = call.take();
        if (!report.trouble) continue;
        ++lost;
        CHECK(report.trouble->code == Errc::PeerDown);
    }
    CHECK(lost > 10);
}

TEST_CASE("memory that goes to another tenant while it is handed over costs its blocks, and nothing else") {
    Stage stage({.capacity_bytes = 4 * MiB}, {.chains = 1, .opaque = 300});
    stage.world.plan().delay_min = stage.world.plan().delay_max = 50us;
    const auto other = draw_space(stage.server.controller(), stage.rng, "two", "r1", {.chains = 1});
    ClientHost& reader = stage.client("reader", true);
    ClientHost& writer = stage.client("writer", false);
    ClientHost rival(stage.world, stage.server, "rival", other.spec, {.tenant_key = other.tenant_key});
    stage.run_while([&] { return !rival.ready(); });
    const auto& blocks = stage.space.opaque;
    stage.store(writer, blocks);
    REQUIRE(stage.server.stat("evicted_blocks") > 0);

    // The pool grants all its segments, and gives one of them to the rival before the reader has it.
    const auto asked = stage.server.stat("messages_Attach");
    Stage::Getting getting(stage.space, blocks);
    auto call = reader.pool().start_get(getting.items);
    reader.arm();
    stage.run_while([&] { return stage.server.stat("messages_Attach") == asked; });
    Stage::Putting putting(other, {other.opaque[0]});
    auto put = rival.pool().start_put(putting.items);
    rival.arm();
    stage.run_while([&] { return !call.done() || !put.done(); });
    CHECK(put.take().count(Outcome::Stored) == 1);
    const auto report = call.take();
    CHECK_FALSE(report.trouble);
    CHECK(report.count(Outcome::Hit) > 0);
    CHECK(stage.server.stat("messages_Attach") > asked + 1);
}

}  // namespace
}  // namespace cmpool::testing
