#include "team.h"

#include <set>

#include <cmpool/model/placement.h>

// Stories of several members: how they agree, and what a client sees of one that is lost.

namespace cmpool::testing {
namespace {

using client::Outcome;
using namespace std::chrono_literals;

std::size_t stored(const client::Report& report) {
    return report.count(Outcome::Stored) + report.count(Outcome::Present);
}

const model::Member* find(const model::View& view, const ServerHost& node) {
    for (const auto& member : view.members) {
        if (member.address == node.address()) return &member;
    }
    return nullptr;
}

bool is_down(Team& team, std::size_t node) {
    const auto* member = find(team.nodes[node == 0 ? 1 : 0]->view(), *team.nodes[node]);
    return member == nullptr || member->state == model::MemberState::Down;
}

TEST_CASE("blocks lie on all members, and a client of one finds them on every one") {
    for (const bool mapped : {true, false}) {
        CAPTURE(mapped);
        Team team({});
        ClientHost& writer = team.client("writer", mapped);
        CHECK(stored(team.put(writer, team.all)) == team.all.size());
        for (const auto& node : team.nodes) CHECK(node->stat("blocks") > 0);
        CHECK(team.stat("blocks") == team.all.size());

        ClientHost& reader = team.client("reader", mapped);
        CHECK(team.get(reader, team.all).count(Outcome::Hit) == team.all.size());
        for (const auto& chain : team.space.chains) {
            auto match = team.match(reader, chain);
            CHECK(match.blocks() == chain.size());
            CHECK(match.leased());
            match.release();
        }
        team.run(200ms);
        CHECK(team.stat("leases") == 0);
    }
}

TEST_CASE("without replicas a killed member's blocks are misses at once, and the others' are hits") {
    for (const bool mapped : {true, false}) {
        CAPTURE(mapped);
        Team team({});
        ClientHost& client = team.client("engine", mapped);
        REQUIRE(stored(team.put(client, team.all)) == team.all.size());
        const auto lost = team.nodes[3]->stat("blocks");
        team.nodes[3]->crash();
        const auto after = team.get(client, team.all);
        CHECK(after.count(Outcome::Hit) == team.all.size() - lost);
        CHECK(after.count(Outcome::Miss) == lost);

        // Within a second all know, and the lost blocks have new owners.
        const Instant killed = team.world.clock().now();
        team.run_while([&] { return !team.agreed(4); });
        CHECK(team.world.clock().now() - killed < 1s);
        team.run_while([&] { return client.pool().status().members != 4; });
        CHECK(team.world.clock().now() - killed < 1100ms);
        CHECK(team.get(client, team.all).count(Outcome::Hit) == team.all.size() - lost);
        const auto again = team.put(client, team.all);
        CHECK(again.count(Outcome::Stored) == lost);
        CHECK(again.count(Outcome::Present) == team.all.size() - lost);
        CHECK(team.get(client, team.all).count(Outcome::Hit) == team.all.size());
    }
}

TEST_CASE("with two replicas a killed member costs nothing, and neither does its return") {
    for (const bool mapped : {true, false}) {
        CAPTURE(mapped);
        Team team({.replicas = 2});
        ClientHost& client = team.client("engine", mapped);
        const auto put = team.put(client, team.all);
        REQUIRE(put.count(Outcome::Stored) == team.all.size());
        for (const auto& block : put.blocks) CHECK(block.copies == 2);
        CHECK(team.stat("blocks") == 2 * team.all.size());

        const auto all_there = [&](const char* when) {
            CAPTURE(when);
            const auto report = team.get(client, team.all);
            CHECK(report.count(Outcome::Hit) == team.all.size());
            CHECK_FALSE(report.trouble);
            for (const auto& chain : team.space.chains)
                CHECK(team.match(client, chain).blocks() == chain.size());
        };
        const auto before = find(team.head().view(), *team.nodes[2])->incarnation;
        team.nodes[2]->crash();
        all_there("right after the crash");
        team.run_while([&] { return !team.agreed(4); });
        team.run_while([&] { return client.pool().status().members != 4; });
        all_there("when it is known");
        team.nodes[2]->restart();
        team.run_while([&] { return !team.agreed(5); });
        CHECK(find(team.head().view(), *team.nodes[2])->incarnation != before);
        team.run_while([&] { return client.pool().status().members != 5; });
        all_there("when it is back, and empty");
    }
}

TEST_CASE("a member that answers no more is passed over within the same call") {
    Team team({.replicas = 2});
    ClientHost& client = team.client("engine", false);
    REQUIRE(team.put(client, team.all).count(Outcome::Stored) == team.all.size());
    team.nodes[1]->freeze(true);
    CHECK(team.get(client, team.all).count(Outcome::Hit) == team.all.size());
    // From now on nobody waits for it.
    CHECK(team.get(client, team.all).count(Outcome::Hit) == team.all.size());
    CHECK(team.took < client.deadline() / 4);
}

TEST_CASE("a member that falls silent is down a second after its lease at most, and joins again") {
    Team team({});
    team.run(1s);
    team.nodes[2]->freeze(true);
    const Instant frozen = team.world.clock().now();
    team.run_while([&] { return !is_down(team, 2); });
    const Nanos took = team.world.clock().now() - frozen;
    const meta::LeaseTimes times;
    CHECK(took > times.lease / 2);
    CHECK(took < times.lease + 1s);
    team.nodes[2]->freeze(false);
    team.run_while([&] { return !team.agreed(5); });
}

TEST_CASE("a member that goes says so, and nobody waits for its lease") {
    Team team({});
    ClientHost& client = team.client("engine", false);
    team.nodes[4]->stop();
    const Instant left = team.world.clock().now();
    team.run_while([&] { return !team.agreed(4); });
    CHECK(team.world.clock().now() - left < 100ms);
    CHECK(find(team.head().view(), *team.nodes[4]) == nullptr);
    team.run_while([&] { return client.pool().status().members != 4; });
    CHECK(stored(team.put(client, team.all)) == team.all.size());
}

TEST_CASE("without meta everything goes on, and after its return nobody is dropped") {
    for (const bool frozen : {false, true}) {
        CAPTURE(frozen);
        Team team({.replicas = 2});
        ClientHost& client = team.client("engine", false);
        REQUIRE(team.put(client, team.all).count(Outcome::Stored) == team.all.size());
        team.run(1s);
        const auto view = team.nodes[1]->view();
        frozen ? team.head().freeze(true) : team.head().crash();
        const auto asked = team.stat("meta_questions");
        for (int round = 0; round < 60; ++round) {
            CHECK(team.get(client, team.all).count(Outcome::Hit) == team.all.size());
            CHECK(stored(team.put(client, team.all)) == team.all.size());
            team.run(1s);
        }
        CHECK(team.stat("meta_questions") == asked);
        CHECK(team.nodes[1]->view() == view);
        // Whoever was let in before is let in again, by what the members remember.
        ClientHost& late = *team.clients.emplace_back(std::make_unique<ClientHost>(
            team.world, *team.nodes[1], "late", team.space.spec,
            ClientHost::Options{.mapped = false, .deadline = 1s, .tenant_key = team.space.tenant_key}));
        team.run_while([&] { return late.pool().status().members_ready < 4; });
        CHECK(team.get(late, team.all).count(Outcome::Hit) == team.all.size());

        frozen ? team.head().freeze(false) : team.head().restart();
        team.run_while([&] { return !team.agreed(5); });
        team.run(5s);
        CHECK(team.agreed(5));
        for (std::size_t node = 1; node < team.nodes.size(); ++node) CHECK_FALSE(is_down(team, node));
    }
}

// The client has not heard of the sixth member, whose blocks somebody else has just put there.
TEST_CASE("a client whose view is old catches up within the same call") {
    Team team({});
    ClientHost& old = team.client("old", false);
    const auto before = old.pool().status().epoch;
    for (const auto& node : team.nodes) team.world.partition("old", node->host(), true);
    team.add();
    team.run_while([&] { return !team.agreed(6); });
    team.run(100ms);  // whoever could be told has been told
    ClientHost& writer = team.client("writer", false);
    REQUIRE(team.put(writer, team.all).count(Outcome::Stored) == team.all.size());
    CHECK(team.nodes[5]->stat("blocks") > 0);
    for (const auto& node : team.nodes) team.world.partition("old", node->host(), false);
    REQUIRE(old.pool().status().epoch == before);

    CHECK(team.get(old, team.all).count(Outcome::Hit) == team.all.size());
    CHECK(old.pool().status().epoch > before);
}

TEST_CASE("a put by an old view reaches the owners of the new one") {
    Team team({});
    ClientHost& old = team.client("old", false);
    for (const auto& node : team.nodes) team.world.partition("old", node->host(), true);
    team.add();
    team.run_while([&] { return !team.agreed(6); });
    team.run(100ms);
    for (const auto& node : team.nodes) team.world.partition("old", node->host(), false);
    CHECK(stored(team.put(old, team.all)) == team.all.size());
    ClientHost& reader = team.client("reader", false);
    CHECK(team.get(reader, team.all).count(Outcome::Hit) == team.all.size());
}

TEST_CASE("a client cut off from two of five members waits once, and never again") {
    Team team({});
    ClientHost& client = team.client("engine", false);
    REQUIRE(stored(team.put(client, team.all)) == team.all.size());
    const auto there =
        team.nodes[0]->stat("blocks") + team.nodes[1]->stat("blocks") + team.nodes[2]->stat("blocks");
    for (const std::size_t node : {3, 4}) team.world.partition("engine", team.nodes[node]->host(), true);
    CHECK(team.get(client, team.all).count(Outcome::Hit) == there);
    for (int round = 0; round < 200; ++round) {
        CHECK(team.get(client, team.all).count(Outcome::Hit) == there);
        CHECK(team.took < client.deadline() / 4);
        CHECK(stored(team.put(client, team.all)) == there);
        CHECK(team.took < client.deadline() / 4);
        for (const auto& chain : team.space.chains) {
            const Instant asked = team.world.clock().now();
            (void)team.match(client, chain);
            CHECK(team.world.clock().now() - asked < client.deadline() / 4);
        }
        team.run(20ms);
    }
    CHECK(team.agreed(5));  // only the client is cut off
    for (const std::size_t node : {3, 4}) team.world.partition("engine", team.nodes[node]->host(), false);
    team.run_while([&] { return !client.ready(); });
    CHECK(team.get(client, team.all).count(Outcome::Hit) == team.all.size());
}

TEST_CASE("a client finds the pool by the second node of its URI when the first is dead") {
    Team team({});
    team.nodes[0]->crash();
    team.run(100ms);
    auto& client = *team.clients.emplace_back(std::make_unique<ClientHost>(
        team.world, *team.nodes[0], "engine", team.space.spec,
        ClientHost::Options{
            .mapped = false, .tenant_key = team.space.tenant_key, .others = {team.nodes[1]->address()}}));
    // Nobody has opened the namespace yet, and meta is gone: no member may let it in.
    team.run(2s);
    CHECK_FALSE(client.pool().status().ready);
    team.nodes[0]->restart();
    team.run_while([&] { return !client.ready() || client.pool().status().members != 5; });
    CHECK(stored(team.put(client, team.all)) == team.all.size());
    team.nodes[0]->crash();
    auto& second = *team.clients.emplace_back(std::make_unique<ClientHost>(
        team.world, *team.nodes[0], "second", team.space.spec,
        ClientHost::Options{
            .mapped = false, .tenant_key = team.space.tenant_key, .others = {team.nodes[1]->address()}}));
    team.run_while([&] { return second.pool().status().members_ready < 4; });
    CHECK(team.get(second, team.all).count(Outcome::Hit) > 0);
}

TEST_CASE("a member that drains owns nothing new, and still answers") {
    Team team({});
    ClientHost& client = team.client("engine", false);
    REQUIRE(stored(team.put(client, team.all)) == team.all.size());
    bool changed = false;
    team.head().office().ask(wire::ChangeMember{.member = "node-4", .state = model::MemberState::Draining},
                             {}, [&](const Result<wire::Body>& answer) { changed = answer.has_value(); });
    CHECK(changed);
    team.run_while([&] { return !team.agreed(4); });
    team.run_while([&] { return client.pool().status().members != 4; });
    const auto before = team.nodes[4]->stat("put_stored");
    CHECK(stored(team.put(client, team.all)) == team.all.size());
    CHECK(team.nodes[4]->stat("put_stored") == before);
}

}  // namespace
}  // namespace cmpool::testing
