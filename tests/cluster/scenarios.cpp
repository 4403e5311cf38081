#include "stage.h"

#include <algorithm>
#include <set>

#include <cmpool/model/placement.h>
#include <cmpool/wire/load_level.h>
#include <cmpool/wire/messages.h>

// Stories of one fault each, told to the end.

namespace cmpool::testing {
namespace {

using client::Outcome;
using namespace std::chrono_literals;

TEST_CASE("a client that dies in the middle of a put leaves no space taken") {
    for (const bool mapped : {false, true}) {
        CAPTURE(mapped);
        Stage stage({.capacity_bytes = 4 * MiB}, {.chains = 1, .block_bytes_max = 420 * 1024});
        ClientHost& client = stage.client("engine", mapped);
        // So much lands in two halves.
        auto& block = stage.space.blocks[stage.space.opaque[0]];
        block.bytes.resize(250 * 1024);
        Stage::Putting putting(stage.space, {stage.space.opaque[0]});
        const auto call = client.pool().start_put(putting.items);
        client.arm();
        if (!mapped) {
            stage.run_while([&] { return stage.server.stat("writing_bytes") == 0; });
            CHECK_FALSE(call.done());
        }
        client.crash();
        stage.run(1s);
        CHECK(stage.server.stat("clients") == 0);
        CHECK(no_extents_left(stage.server));
        CHECK(stage.server.check_invariants().empty());
    }
}

TEST_CASE("a writer that hangs keeps nobody from storing the same block") {
    Stage stage;
    ClientHost& slow = stage.client("slow", false);
    ClientHost& quick = stage.client("quick", false);
    const std::size_t block = stage.space.opaque[0];
    stage.space.blocks[block].bytes.resize(250 * 1024);
    Stage::Putting putting(stage.space, {block});
    const auto call = slow.pool().start_put(putting.items);
    slow.arm();
    // The second half of its payload takes for ever.
    const auto usual = stage.world.plan();
    stage.run(usual.delay_min / 2);
    stage.world.plan().delay_min = stage.world.plan().delay_max = 10min;
    stage.run_while([&] { return stage.server.stat("writing_bytes") == 0; });
    stage.world.plan() = usual;

    const auto report = stage.put(quick, {block});
    CHECK(report.blocks[0].outcome == Outcome::Stored);
    slow.crash();
    stage.run(100ms);
    CHECK(stage.get(quick, {block}).blocks[0].outcome == Outcome::Hit);
    CHECK(stage.server.stat("writing_bytes") == 0);
}

TEST_CASE("a client that dies holding a view lets go of it") {
    Stage stage;
    ClientHost& reader = stage.client("reader", true);
    ClientHost& other = stage.client("other", false);
    const auto chain = stage.space.chains[0];
    stage.store(reader, chain);
    const auto match = stage.match(reader, chain, 100);
    REQUIRE(match.leased());
    REQUIRE(stage.finish(other, other.pool().start_remove(stage.space.keys(chain))).count(Outcome::Hit) ==
            chain.size());
    CHECK(stage.server.stat("doomed_bytes") > 0);

    reader.crash();
    stage.run(1s);
    CHECK(stage.server.stat("client_pages") == 0);
    CHECK(no_extents_left(stage.server));
}

TEST_CASE("what a frozen reader looks at outlives every lease and every eviction") {
    Stage stage({.capacity_bytes = 1 * MiB}, {.chains = 1, .chain_blocks_max = 3, .opaque = 150});
    ClientHost& reader = stage.client("reader", true);
    ClientHost& writer = stage.client("writer", false);
    const auto chain = stage.space.chains[0];
    stage.store(reader, chain);
    const auto match = stage.match(reader, chain, 50);
    REQUIRE(match.leased());
    reader.freeze(true);
    stage.run(std::chrono::milliseconds(pool::kLeaseMax) + 1s);

    for (const std::size_t block : stage.space.opaque) (void)stage.put(writer, {block});
    CHECK(stage.server.stat("evicted_blocks") > 0);
    for (std::size_t at = 0; at < chain.size(); ++at) {
        const auto view = match.view(at);
        REQUIRE(view);
        CHECK(std::equal(view->begin(), view->end(), stage.space.blocks[chain[at]].bytes.begin(),
                         stage.space.blocks[chain[at]].bytes.end()));
    }
}

// Two ranks store their parts of the same blocks, block by block; one dies at every moment of its work.
TEST_CASE("a match counts a block only with all its parts, whenever a rank dies that stores its own") {
    constexpr std::uint32_t kParts = 2;
    std::set<std::size_t> seen;
    std::size_t most = 0;
    for (const bool mapped : {false, true}) {
        for (int moment = 0; moment < 400; moment += moment < 40 ? 1 : 9) {
            CAPTURE(mapped);
            CAPTURE(moment);
            Stage stage({.capacity_bytes = 4 * MiB, .shards = 2},
                        {.chains = 1, .chain_blocks_max = 12, .opaque = 0, .block_bytes_max = 4096});
            ClientHost& first = stage.client("first", mapped);
            ClientHost& dying = stage.client("dying", !mapped);
            ClientHost& reader = stage.client("reader", mapped);
            const auto chain = stage.space.chains[0];
            most = chain.size();
            // A part's bytes are the block's, from a byte on that says which part it is.
            const auto part_of = [&](std::size_t block, std::uint32_t part) {
                return Bytes(stage.space.blocks[block].bytes)
                    .subspan(std::min<std::size_t>(part, stage.space.blocks[block].bytes.size() - 1));
            };
            const auto item_of = [&](std::size_t block, std::uint32_t part, const Bytes& bytes) {
                const KnownBlock& known = stage.space.blocks[block];
                return client::PutItem{.key = model::part_digest(known.key, part, kParts),
                                       .from = {&bytes, 1},
                                       .parent = known.position == 0
                                                     ? model::kNoParent
                                                     : model::part_digest(known.parent_key, part, kParts),
                                       .position = known.position,
                                       .group = known.group};
            };
            int steps = 0;
            for (std::size_t at = 0; at < chain.size() && dying.alive(); ++at) {
                const Bytes own = part_of(chain[at], 0);
                const auto put = item_of(chain[at], 0, own);
                REQUIRE(stage.finish(first, first.pool().start_put({&put, 1})).count(Outcome::Stored) == 1);
                const Bytes other = part_of(chain[at], 1);
                const auto last = item_of(chain[at], 1, other);
                auto call = dying.pool().start_put({&last, 1});
                dying.arm();
                while (!call.done() && steps++ < moment && stage.world.step()) {
                }
                if (!call.done()) dying.crash();
            }
            stage.run(1s);

            const auto keys = stage.space.keys(chain);
            auto asking =
                reader.pool().start_match(keys, 1000, {.deadline = {}, .verify = false, .parts = kParts});
            reader.arm();
            stage.run_while([&] { return !asking.done(); });
            const auto match = asking.take();
            seen.insert(match.blocks());
            if (dying.alive()) CHECK(match.blocks() == chain.size());
            for (std::size_t at = 0; at < chain.size(); ++at) {
                std::size_t here = 0;
                for (std::uint32_t part = 0; part < kParts; ++part) {
                    const Bytes expected = part_of(chain[at], part);
                    std::vector<std::byte> room(expected.size());
                    const MutableBytes into(room);
                    const KnownBlock& known = stage.space.blocks[chain[at]];
                    const client::GetItem item{
                        model::part_digest(known.key, part, kParts), {&into, 1}, known.group};
                    const auto got = stage.finish(reader, reader.pool().start_get({&item, 1}));
                    if (got.blocks[0].outcome != Outcome::Hit) continue;
                    ++here;
                    CHECK(std::ranges::equal(room, expected));
                }
                // What is counted is there, and the run ends where something is missing.
                if (at < match.blocks()) CHECK(here == kParts);
                if (at == match.blocks()) CHECK(here < kParts);
            }
            CHECK(stage.server.check_invariants().empty());
            if (dying.alive()) break;
        }
    }
    CHECK(most >= 3);
    CHECK(seen.size() == most + 1);  // every length, from none to all
}

// Stores hold back first, and are dropped where they have no time for it; loads when it is pressed harder.
TEST_CASE("a pool that is pressed asks its clients to hold back, and they do until it is at rest again") {
    Stage stage;
    ClientHost& client = stage.client("engine", false);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);
    const auto status = [&] { return client.pool().status(); };
    CHECK(status().load_level == 0);

    stage.server.press(5ms);  // too long for stores, not for loads
    for (int call = 0; call < 50; ++call)
        CHECK(stage.put(client, chain).count(Outcome::Present) == chain.size());
    CHECK(status().stores_delayed > 0);
    CHECK(status().stores_dropped == 0);
    CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
    CHECK(status().loads_delayed == 0);

    stage.server.press(200ms);
    for (int call = 0; call < 100; ++call)
        CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
    CHECK(status().load_level >= wire::kLoadLoads);
    CHECK(status().loads_delayed > 0);
    CHECK(stage.match(client, chain, 0).blocks() == chain.size());
    Stage::Putting late(stage.space, chain);
    const auto dropped = stage.finish(client, client.pool().start_put(late.items, {.deadline = 2ms}));
    CHECK(dropped.count(Outcome::Dropped) == chain.size());
    CHECK(status().stores_dropped > 0);

    stage.server.press(Nanos{0});
    for (int call = 0; call < 300; ++call) (void)stage.get(client, chain);
    const auto at_rest = status();
    CHECK(at_rest.load_level == 0);
    CHECK(stage.put(client, chain).count(Outcome::Present) == chain.size());
    CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
    CHECK(status().stores_delayed == at_rest.stores_delayed);
    CHECK(status().loads_delayed == at_rest.loads_delayed);
}

TEST_CASE("a chain that lies on three shards is matched, held and read as one") {
    Stage stage({.capacity_bytes = 2 * MiB, .shards = 3},
                {.chains = 1, .chain_blocks_max = 40, .opaque = 0, .block_bytes_max = 4096});
    const auto chain = stage.space.chains[0];
    std::set<std::uint32_t> shards;
    for (const std::size_t block : chain) shards.insert(model::shard_of(stage.space.blocks[block].group, 3));
    REQUIRE(shards.size() == 3);
    for (const bool mapped : {true, false}) {
        ClientHost& client = stage.client(mapped ? "near" : "far", mapped);
        CHECK(client.pool().status().shards == 3);
        CHECK(client.pool().status().shards_mapped == (mapped ? 3 : 0));
        const auto put = stage.put(client, chain);
        CHECK(put.count(Outcome::Stored) + put.count(Outcome::Present) == chain.size());
        const auto match = stage.match(client, chain, 1000);
        CHECK(match.blocks() == chain.size());
        CHECK(match.leased());
        CHECK(stage.get(client, chain).count(Outcome::Hit) == chain.size());
        for (std::size_t at = 0; at < chain.size() && mapped; ++at) {
            const auto view = match.view(at);
            REQUIRE(view);
            CHECK(std::ranges::equal(*view, stage.space.blocks[chain[at]].bytes));
        }
    }
    CHECK(stage.server.stat("blocks") == chain.size());
}

TEST_CASE("a run ends where one shard's ends, and what others hold behind it is let go") {
    Stage stage({.capacity_bytes = 2 * MiB, .shards = 3},
                {.chains = 1, .chain_blocks_max = 40, .opaque = 0, .block_bytes_max = 4096});
    const auto chain = stage.space.chains[0];
    for (const bool mapped : {true, false}) {
        ClientHost& client = stage.client(mapped ? "near" : "far", mapped);
        (void)stage.put(client, chain);
        const std::size_t gap = chain.size() / 2;
        const auto key = stage.space.blocks[chain[gap]].key;
        REQUIRE(stage.finish(client, client.pool().start_remove({&key, 1})).count(Outcome::Hit) == 1);
        auto match = stage.match(client, chain, 1000);
        CHECK(match.blocks() == gap);
        CHECK(match.leased());
        match.release();
        stage.run(100ms);
        CHECK(stage.server.stat("leases") == 0);
    }
}

TEST_CASE("letting go of thousands of matches at once does not cost the connection") {
    Stage stage;
    ClientHost& client = stage.client("engine", false);
    const auto chain = stage.space.chains[0];
    stage.space.blocks[chain[0]].bytes.resize(64);
    REQUIRE(stage.put(client, {chain[0]}).count(Outcome::Stored) == 1);
    std::vector<client::Match> matches;
    for (int number = 0; number < 3000; ++number) matches.push_back(stage.match(client, {chain[0]}, 60'000));
    REQUIRE(matches.back().leased());
    matches.clear();
    client.pool().progress();
    CHECK(client.ready());
    stage.run(100ms);
    CHECK(client.ready());
    CHECK(stage.server.stat("leases") == 0);
}

// A message of its own would wake the pool once more for each request.
TEST_CASE("a lease that has ended is given back in front of the next request, and not before") {
    Stage stage;
    ClientHost& client = stage.client("engine", false);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);
    { const auto match = stage.match(client, chain, 10'000); }
    stage.run(stage.world.plan().delay_max);  // a message of its own would be there
    CHECK(stage.server.stat("leases") == 1);
    CHECK(stage.server.stat("messages_Release") == 0);

    Stage::Getting getting(stage.space, chain);
    const auto call = client.pool().start_get(getting.items);
    stage.run_while([&] { return stage.server.stat("messages_Get") == 0; });
    CHECK(stage.server.stat("messages_Release") == 1);
    CHECK(stage.server.stat("leases") == 0);
    client.arm();
    stage.run_while([&] { return !call.done(); });
}

// As an engine's loop does between its steps.
TEST_CASE("where no request follows, a lease that has ended is given back by the next progress()") {
    Stage stage;
    ClientHost& client = stage.client("engine", false);
    const auto chain = stage.space.chains[0];
    stage.store(client, chain);
    { const auto match = stage.match(client, chain, 10'000); }
    client.arm();
    stage.run_while([&] { return stage.server.stat("messages_Release") == 0; });
    CHECK(stage.server.stat("leases") == 0);
}

TEST_CASE("a put that is given up takes its window back from the pool") {
    Stage stage;
    ClientHost& client = stage.client("engine", true);
    stage.server.freeze(true);
    const std::size_t block = stage.space.opaque[0];
    Stage::Putting putting(stage.space, {block});
    auto call = client.pool().start_put(putting.items);
    client.arm();
    stage.run_while([&] { return !call.done(); });
    // The call is still held, but its memory is the caller's: the pool may look at it no more.
    stage.server.freeze(false);
    stage.run(1s);
    CHECK(call.take().blocks[0].outcome == Outcome::Dropped);
    CHECK(stage.server.stat("put_stored") == 0);
    CHECK(stage.get(client, {block}).blocks[0].outcome == Outcome::Miss);
}

TEST_CASE("a get into a buffer without room says how much it needs") {
    for (const bool mapped : {false, true}) {
        CAPTURE(mapped);
        Stage stage;
        ClientHost& client = stage.client("engine", mapped);
        const std::size_t block = stage.space.opaque[0];
        REQUIRE(stage.put(client, {block}).count(Outcome::Stored) == 1);
        const client::GetItem nowhere{stage.space.blocks[block].key, {}};
        const auto report = stage.finish(client, client.pool().start_get({&nowhere, 1}));
        CHECK(report.blocks[0].outcome == Outcome::TooSmall);
        CHECK(report.blocks[0].bytes == stage.space.blocks[block].bytes.size());
    }
}

TEST_CASE("a block that is put again is not the next to be evicted") {
    Stage stage({.capacity_bytes = 1 * MiB}, {.chains = 1, .opaque = 11});
    ClientHost& client = stage.client("engine", false);
    for (const std::size_t block : stage.space.opaque) stage.space.blocks[block].bytes.resize(100 * KiB);
    const auto& blocks = stage.space.opaque;
    for (std::size_t at = 0; at < 10; ++at) REQUIRE(stage.put(client, {blocks[at]}).count(Outcome::Stored));
    REQUIRE(stage.put(client, {blocks[0]}).count(Outcome::Present) == 1);
    REQUIRE(stage.put(client, {blocks[10]}).count(Outcome::Stored) == 1);
    CHECK(stage.server.stat("evicted_blocks") > 0);
    CHECK(stage.get(client, {blocks[0]}).count(Outcome::Hit) == 1);
}

TEST_CASE("calls end with their client") {
    Stage stage;
    ClientHost& client = stage.client("engine", false);
    stage.server.freeze(true);
    const auto keys = stage.space.keys(stage.space.chains[0]);
    const auto call = client.pool().start_exists(keys);
    stage.clients.clear();
    CHECK(call.done());
    CHECK(call.settled());
}

/// Keeps the first answer.
struct Listening final : transport::Receiver {
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane&, Bytes head, std::uint64_t) override {
        wire::Decoder decoder;
        const auto message = decoder.decode(head);
        REQUIRE(message);
        if (const auto* failed = std::get_if<wire::Failed>(&message->body)) answer = *failed;
    }
    std::optional<wire::Failed> answer;
};

TEST_CASE("another protocol version is refused, and both sides are named") {
    Stage stage;
    const auto fabric = stage.world.open("stranger", transport::SimProfile::Messages);
    const auto lane = fabric->connect(stage.server.address());
    REQUIRE(lane);
    wire::Encoder encoder;
    const Bytes head = encoder.encode({.request_id = 1, .epoch = 1, .body = wire::Hello{99, "stranger"}});
    const transport::Op op{.kind = transport::OpKind::Send, .signal = false, .head = head};
    REQUIRE((*lane)->post({&op, 1}));
    Listening listening;
    stage.world.on_wake("stranger", [&] { (void)(*lane)->receive(listening); });
    stage.run_while([&] { return !listening.answer; });
    CHECK(listening.answer->code == Errc::Mismatch);
    CHECK(listening.answer->detail.find("99") != std::string::npos);
    stage.world.on_wake("stranger", {});
}

}  // namespace
}  // namespace cmpool::testing
