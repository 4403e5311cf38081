#include "team.h"

// Stories of who is taken for dead: with meta on one of the members, and in a store that all of them share.

namespace cmpool::testing {
namespace {

using namespace std::chrono_literals;

const model::Member* find(const model::View& view, const ServerHost& node) {
    for (const auto& member : view.members) {
        if (member.address == node.address()) return &member;
    }
    return nullptr;
}

bool is_down(const Team& team, std::size_t node) {
    const auto* member = find(team.nodes[node == 0 ? 1 : 0]->view(), *team.nodes[node]);
    return member == nullptr || member->state == model::MemberState::Down;
}

void each_way(const std::function<void(Team&)>& story) {
    for (const bool share_store : {false, true}) {
        CAPTURE(share_store);
        Team team({.share_store = share_store});
        team.run(5s);
        REQUIRE(team.agreed(5));
        story(team);
    }
}

constexpr meta::LeaseTimes kTimes;

TEST_CASE("a busy node is not a dead node, until it has been busy for too long") {
    each_way([](Team& team) {
        const auto epoch = team.head().view().epoch;
        team.nodes[2]->starve_meta(true);
        team.run(kTimes.lease + kTimes.busy / 2);
        CHECK_FALSE(is_down(team, 2));
        CHECK(team.head().view().epoch == epoch);
        // Nobody relies for ever on somebody who cannot hear what the others agree on.
        team.run(kTimes.busy / 2 + 2s);
        CHECK(is_down(team, 2));
        team.nodes[2]->starve_meta(false);
        team.run_while([&] { return !team.agreed(5); });
    });
}

TEST_CASE("a node that was busy for less than a lease has never been late") {
    each_way([](Team& team) {
        const auto epoch = team.head().view().epoch;
        for (int round = 0; round < 5; ++round) {
            team.nodes[2]->starve_meta(true);
            team.run(kTimes.lease - 1s);
            team.nodes[2]->starve_meta(false);
            team.run(1s);
        }
        CHECK(team.head().view().epoch == epoch);
    });
}

TEST_CASE("a frozen node is dropped a lease and a second after it was heard last, and comes back") {
    each_way([](Team& team) {
        const auto frozen = team.world.clock().now();
        team.nodes[2]->freeze(true);
        team.run_while([&] { return !team.agreed(4); });
        CHECK(team.world.clock().now() - frozen <= kTimes.lease + 1s);
        CHECK(team.world.clock().now() - frozen >= kTimes.lease / 2);
        team.nodes[2]->freeze(false);
        team.run_while([&] { return !team.agreed(5); });
    });
}

TEST_CASE("a killed node is down within two seconds, sooner than its lease") {
    each_way([](Team& team) {
        const auto killed = team.world.clock().now();
        team.nodes[3]->crash();
        team.run_while([&] { return !team.agreed(4); });
        CHECK(team.world.clock().now() - killed < 2s);
        team.nodes[3]->restart();
        team.run_while([&] { return !team.agreed(5); });
    });
}

TEST_CASE("two neighbours that are killed at once are both down within a lease and a second") {
    each_way([](Team& team) {
        const auto killed = team.world.clock().now();
        team.nodes[3]->crash();
        team.nodes[4]->crash();
        team.nodes[2]->crash();
        team.run_while([&] { return !team.agreed(2); });
        CHECK(team.world.clock().now() - killed <= kTimes.lease + 1s);
    });
}

TEST_CASE("a store that is frozen for as long as it likes costs nobody its place") {
    Team team({.share_store = true});
    team.run(5s);
    const auto epoch = team.head().view().epoch;
    for (const auto frozen : {500ms, 1400ms, 1600ms, 2200ms, 3100ms, 30'000ms}) {
        CAPTURE(frozen.count());
        team.store.freeze(true);
        team.run(frozen);
        CHECK(team.agreed(5));
        team.store.freeze(false);
        team.run(10s);
        CHECK(team.head().view().epoch == epoch);
    }
}

TEST_CASE("who dies while the store is frozen is down a lease after it is back") {
    Team team({.share_store = true});
    team.run(5s);
    team.store.freeze(true);
    team.nodes[1]->crash();
    team.run(10s);
    CHECK_FALSE(is_down(team, 1));
    team.store.freeze(false);
    const auto back = team.world.clock().now();
    team.run_while([&] { return !team.agreed(4); });
    CHECK(team.world.clock().now() - back <= kTimes.lease + 1s);
}

TEST_CASE("a store that was emptied is told what its members know, and the epoch goes on") {
    Team team({.share_store = true});
    team.run(5s);
    const auto epoch = team.head().view().epoch;
    team.store.wipe();
    team.run(10s);
    CHECK(team.agreed(5));
    CHECK(team.head().view().epoch > epoch);
    CHECK(team.head().view().epoch <= epoch + 5);
}

TEST_CASE("of equal members whoever goes takes nothing along") {
    Team team({.members = 3, .share_store = true});
    team.nodes[0]->stop();
    team.run_while([&] { return !team.agreed(2); });
    team.nodes[1]->crash();
    team.run_while([&] { return !team.agreed(1); });
    team.nodes[0]->restart();
    team.nodes[1]->restart();
    team.run_while([&] { return !team.agreed(3); });
}

}  // namespace
}  // namespace cmpool::testing
