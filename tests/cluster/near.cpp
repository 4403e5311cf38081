#include "team.h"

#include <algorithm>

#include <cmpool/model/placement.h>

// Stories of copies that a host's member keeps of what its clients read from other members.

namespace cmpool::testing {
namespace {

using client::Outcome;
using namespace std::chrono_literals;

Team::Options with_near(std::uint64_t near_bytes = 1 * MiB) {
    Team::Options options;
    options.server.near_bytes = near_bytes;
    return options;
}

/// What all members have been asked by message.
std::uint64_t asked(const Team& team) { return team.stat("messages_Match") + team.stat("messages_Get"); }

/// Its member has taken what the client has brought it.
void let_settle(Team& team) { team.run(50ms); }

/// The node that owns a block by the head's view.
std::size_t owner_of(Team& team, const KnownBlock& block) {
    model::Placement placement(1);
    placement.follow(team.head().view());
    const auto seat = placement.owners(block.group != 0 ? block.group : block.key.prefix()).front();
    const auto node = std::ranges::find_if(
        team.nodes, [&](const auto& each) { return each->address() == placement.member(seat).address; });
    REQUIRE(node != team.nodes.end());
    return static_cast<std::size_t>(node - team.nodes.begin());
}

/// The longest chain that begins on a node other than `node`.
std::vector<std::size_t> chain_from_elsewhere(Team& team, std::size_t node) {
    std::vector<std::size_t> longest;
    for (const auto& chain : team.space.chains) {
        if (owner_of(team, team.space.blocks[chain.front()]) != node && chain.size() > longest.size())
            longest = chain;
    }
    REQUIRE_FALSE(longest.empty());
    return longest;
}

TEST_CASE("a chain that a host's clients have read is found in that host's memory, without a message") {
    for (const std::uint32_t shards : {1U, 3U}) {
        CAPTURE(shards);
        auto options = with_near();
        options.server.shards = shards;
        Team team(std::move(options));
        ClientHost& writer = team.client("writer", false);
        REQUIRE(team.put(writer, team.all).count(Outcome::Stored) == team.all.size());
        ClientHost& reader = team.neighbour("reader", 2);
        const auto chain = chain_from_elsewhere(team, 2);
        const auto get_all = [&](ClientHost& client) {
            CHECK(team.get(client, chain).count(Outcome::Hit) == chain.size());
            let_settle(team);
        };

        // What begins it comes at once.
        get_all(reader);
        CHECK(team.nodes[2]->holds(team.space.blocks[chain.front()].key));
        auto before = asked(team);
        CHECK(team.match(reader, {chain.front()}).blocks() == 1);
        CHECK(team.get(reader, {chain.front()}).count(Outcome::Hit) == 1);
        CHECK(asked(team) == before);
        CHECK(team.nodes[2]->stat("near_hits") == 1);

        // The rest when it is read again, for everybody on this host.
        get_all(reader);
        ClientHost& other = team.neighbour("other", 2);
        before = asked(team);
        const auto match = team.match(other, chain);
        CHECK(match.blocks() == chain.size());
        CHECK(match.leased());
        for (std::size_t at = 0; at < chain.size(); ++at) {
            const auto view = match.view(at);
            REQUIRE(view);
            CHECK(std::ranges::equal(*view, team.space.blocks[chain[at]].bytes));
        }
        get_all(other);
        CHECK(asked(team) == before);
        CHECK(team.stat("near_blocks") == team.nodes[2]->stat("near_blocks"));
        for (const auto& node : team.nodes) CHECK(node->check_invariants().empty());
    }
}

TEST_CASE("who keeps no copies is brought none") {
    Team team({});
    ClientHost& reader = team.neighbour("reader", 2);
    REQUIRE(team.put(reader, team.all).count(Outcome::Stored) == team.all.size());
    const auto stored = team.stat("messages_Put");
    for (int round = 0; round < 3; ++round)
        CHECK(team.get(reader, team.all).count(Outcome::Hit) == team.all.size());
    let_settle(team);
    CHECK(team.stat("near_blocks") == 0);
    CHECK(team.stat("messages_Put") == stored);
}

// A popular prefix, and the death of whoever owns it.
TEST_CASE("a chain outlives its owner on hosts that have read it, and comes to its new owner from there") {
    for (const std::uint32_t replicas : {1U, 2U}) {
        CAPTURE(replicas);
        auto options = with_near();
        options.replicas = replicas;
        Team team(std::move(options));
        ClientHost& writer = team.client("writer", false);
        REQUIRE(team.put(writer, team.all).count(Outcome::Stored) == team.all.size());
        const auto chain = team.space.chains.front();
        const std::size_t owner = owner_of(team, team.space.blocks[chain.front()]);
        if (owner == 0) continue;  // which keeps meta
        const std::size_t host = owner == 2 ? 3 : 2;
        ClientHost& reader = team.neighbour("reader", host);
        for (int round = 0; round < 2; ++round) {
            CHECK(team.get(reader, chain).count(Outcome::Hit) == chain.size());
            let_settle(team);
        }
        team.nodes[owner]->crash();
        team.run(1ms);
        CHECK(team.get(reader, chain).count(Outcome::Hit) == chain.size());
        team.run_while([&] { return !team.agreed(4) || team.stat("repair_pending_groups") > 0; });
        team.run_while([&] { return writer.pool().status().members_ready != 4; });
        // Now everybody has it, from its new owner, and not for a while only.
        team.run(std::chrono::seconds(2 * 30));
        CHECK(team.stat("near_blocks") == 0);
        CHECK(team.match(writer, chain).blocks() == chain.size());
        CHECK(team.get(writer, chain).count(Outcome::Hit) == chain.size());
        for (const auto& node : team.nodes) {
            if (node->running()) CHECK(node->check_invariants().empty());
        }
    }
}

TEST_CASE(
    "a removed block is gone from all copies at once, or where nobody could say so, after half a minute") {
    Team team(with_near());
    ClientHost& writer = team.client("writer", false);
    REQUIRE(team.put(writer, team.all).count(Outcome::Stored) == team.all.size());
    ClientHost& reader = team.neighbour("reader", 2);
    const auto chain = chain_from_elsewhere(team, 2);
    const auto keys = team.space.keys(chain);
    const auto root = team.space.blocks[chain.front()].key;
    (void)team.get(reader, chain);
    let_settle(team);
    REQUIRE(team.nodes[2]->holds(root));
    CHECK(team.finish(writer, writer.pool().start_remove(keys)).count(Outcome::Hit) == chain.size());
    CHECK_FALSE(team.nodes[2]->holds(root));
    CHECK(team.get(reader, chain).count(Outcome::Hit) == 0);

    (void)team.put(writer, chain);
    (void)team.get(reader, chain);
    let_settle(team);
    REQUIRE(team.nodes[2]->holds(root));
    const auto match = team.match(reader, {chain.front()}, 1000);
    REQUIRE(match.leased());
    team.world.partition("writer", "node-2", true);
    (void)team.finish(writer, writer.pool().start_remove(keys));
    CHECK(team.nodes[2]->holds(root));
    team.run(31s);
    CHECK_FALSE(team.nodes[2]->holds(root));
    // Who has pinned it goes on reading; nobody else finds it.
    CHECK(team.get(reader, {chain.front()}).count(Outcome::Hit) == 1);
    ClientHost& other = team.neighbour("other", 2);
    CHECK(team.match(other, {chain.front()}).blocks() == 0);
    CHECK(team.get(other, {chain.front()}).count(Outcome::Hit) == 0);
}

TEST_CASE("blocks of a namespace whose blocks end are not copied, since nobody knows how old they are") {
    Team team(with_near());
    const model::Credential proof{.uid = {}, .tenant_key = team.space.tenant_key};
    REQUIRE(team.head().controller().change(team.space.spec, proof, {.quota = {.ttl_s = 3600}}));
    ClientHost& reader = team.neighbour("reader", 2);
    REQUIRE(team.put(reader, team.all).count(Outcome::Stored) == team.all.size());
    for (int round = 0; round < 2; ++round) (void)team.get(reader, team.all);
    let_settle(team);
    CHECK(team.stat("near_blocks") == 0);
    CHECK(team.nodes[2]->stat("near_refused") > 0);
}

// Half of what the copies would like to have is theirs at most, and none of it where owners need it.
TEST_CASE("copies keep to their budget, and go before any block that belongs here") {
    auto options = with_near(128 * KiB);
    options.server.capacity_bytes = 2 * MiB;
    options.blocks = {.chains = 12, .chain_blocks_max = 8, .opaque = 1600, .block_bytes_max = 32 * KiB};
    Team team(std::move(options));
    ClientHost& writer = team.client("writer", false);
    std::vector<std::size_t> chains;
    for (std::size_t block = 0; block < team.space.opaque.front(); ++block) chains.push_back(block);
    REQUIRE(team.put(writer, chains).count(Outcome::Stored) == chains.size());
    ClientHost& reader = team.neighbour("reader", 2);
    for (int round = 0; round < 6; ++round) {
        CHECK(team.get(reader, chains).count(Outcome::Hit) == chains.size());
        let_settle(team);
        CHECK(team.nodes[2]->stat("near_bytes") <= 128 * KiB);
        CHECK(team.nodes[2]->check_invariants().empty());
    }
    CHECK(team.nodes[2]->stat("near_bytes") > 64 * KiB);
    CHECK(team.nodes[2]->stat("near_evicted_blocks") > 0);
    CHECK(team.stat("evicted_blocks") == 0);

    bool any_evicted = false;
    for (std::size_t first = 0; first < team.space.opaque.size() && !any_evicted; ++first) {
        (void)team.put(writer, {team.space.opaque[first]});
        any_evicted = team.nodes[2]->stat("evicted_blocks") > 0;
        if (any_evicted) CHECK(team.nodes[2]->stat("near_blocks") == 0);
    }
    CHECK(any_evicted);
}

TEST_CASE("a copy of what comes to belong here is an ordinary block from then on") {
    Team team(with_near());
    ClientHost& writer = team.client("writer", false);
    REQUIRE(team.put(writer, team.all).count(Outcome::Stored) == team.all.size());
    std::vector<ClientHost*> readers;
    for (std::size_t node = 0; node < 5; ++node)
        readers.push_back(&team.neighbour(fmt::format("reader-{}", node), node));
    for (int round = 0; round < 2; ++round) {
        for (ClientHost* reader : readers) (void)team.get(*reader, team.all);
        let_settle(team);
    }
    REQUIRE(team.stat("near_blocks") > team.all.size());
    team.nodes[4]->crash();
    team.run_while([&] { return !team.agreed(4) || team.stat("repair_pending_groups") > 0; });
    CHECK(team.stat("near_kept_blocks") > 0);
    team.run(31s);
    CHECK(team.stat("near_blocks") == 0);
    team.run_while([&] { return writer.pool().status().members_ready != 4; });
    CHECK(team.get(writer, team.all).count(Outcome::Hit) == team.all.size());
    for (const auto& chain : team.space.chains) CHECK(team.match(writer, chain).blocks() == chain.size());
}

TEST_CASE("a sealed namespace's copies are sealed too") {
    auto options = with_near();
    options.blocks.sealed = true;
    Team team(std::move(options));
    ClientHost& reader = team.neighbour("reader", 2);
    REQUIRE(team.put(reader, team.all).count(Outcome::Stored) == team.all.size());
    for (int round = 0; round < 2; ++round) {
        CHECK(team.get(reader, team.all).count(Outcome::Hit) == team.all.size());
        let_settle(team);
    }
    REQUIRE(team.stat("near_blocks") > 0);
    const auto before = asked(team);
    CHECK(team.get(reader, team.all).count(Outcome::Hit) == team.all.size());
    CHECK(asked(team) == before);
    CHECK(reader.pool().status().broken_seals == 0);
}

}  // namespace
}  // namespace cmpool::testing
