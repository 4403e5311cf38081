#include "team.h"

#include <algorithm>
#include <set>

#include <cmpool/model/placement.h>

// Stories of blocks that lie where they no longer belong, and of copies that are missing.

namespace cmpool::testing {
namespace {

using client::Outcome;
using namespace std::chrono_literals;

/// All know the same view, a later one than `epoch`, in which so many serve, and nobody has anything to bring
/// anywhere any more.
void run_until_repaired(Team& team, std::size_t serving, std::uint64_t epoch = 0) {
    team.run_while([&] {
        return !team.agreed(serving) || team.head().view().epoch <= epoch ||
               team.stat("repair_pending_groups") > 0;
    });
}

/// How many blocks lie on an owner of theirs, counted once for each of the `replicas` owners.
std::size_t copies_in_place(Team& team) {
    model::Placement placement(team.options.replicas);
    placement.follow(team.head().running() ? team.head().view() : team.nodes[1]->view());
    std::size_t copies = 0;
    for (const auto& block : team.space.blocks) {
        for (const auto seat : placement.owners(block.group != 0 ? block.group : block.key.prefix())) {
            if (seat == model::Placement::kNobody) continue;
            for (const auto& node : team.nodes) {
                if (node->running() && node->address() == placement.member(seat).address)
                    copies += node->holds(block.key) ? 1 : 0;
            }
        }
    }
    return copies;
}

void check_all_there(Team& team, ClientHost& client, const char* when) {
    CAPTURE(when);
    const auto report = team.get(client, team.all);
    CHECK(report.count(Outcome::Hit) == team.all.size());
    CHECK_FALSE(report.trouble);
    for (const auto& chain : team.space.chains) CHECK(team.match(client, chain).blocks() == chain.size());
}

TEST_CASE("after a repair the loss of a second member costs nothing again") {
    for (const bool mapped : {true, false}) {
        CAPTURE(mapped);
        Team team({.replicas = 2});
        ClientHost& client = team.client("engine", mapped);
        const auto put = team.put(client, team.all);
        for (const auto& block : put.blocks) REQUIRE(block.copies == 2);
        CHECK(copies_in_place(team) == 2 * team.all.size());

        std::size_t serving = 5;
        for (const std::size_t victim : {2, 4, 1}) {
            const auto lost = team.nodes[victim]->stat("blocks");
            REQUIRE(lost > 0);
            team.nodes[victim]->crash();
            check_all_there(team, client, "right after the crash");
            run_until_repaired(team, --serving);
            CHECK(copies_in_place(team) == 2 * team.all.size());
            CHECK(team.stat("repair_refused_blocks") == 0);
            check_all_there(team, client, "when it is repaired");
        }
    }
}

TEST_CASE("a member that comes back empty is given its copies again") {
    Team team({.replicas = 2});
    ClientHost& client = team.client("engine", false);
    REQUIRE(team.put(client, team.all).count(Outcome::Stored) == team.all.size());
    const auto held = team.nodes[3]->stat("blocks");
    const auto epoch = team.head().view().epoch;
    team.nodes[3]->crash();
    team.nodes[3]->restart();
    run_until_repaired(team, 5, epoch);
    CHECK(team.nodes[3]->stat("blocks") == held);
    CHECK(copies_in_place(team) == 2 * team.all.size());
    team.run_while([&] { return client.pool().status().members_ready != 5; });
    team.nodes[1]->crash();
    check_all_there(team, client, "after another crash");
}

TEST_CASE("a member that joins is given what it owns from now on, by those who own it no more") {
    for (const std::uint32_t replicas : {1U, 2U}) {
        CAPTURE(replicas);
        Team team({.replicas = replicas});
        ClientHost& client = team.client("engine", false);
        REQUIRE(team.put(client, team.all).count(Outcome::Stored) == team.all.size());
        team.add();
        run_until_repaired(team, 6);
        CHECK(team.nodes[5]->stat("blocks") > 0);
        CHECK(copies_in_place(team) == replicas * team.all.size());
        team.run_while([&] { return client.pool().status().members_ready != 6; });
        check_all_there(team, client, "when it has joined");
    }
}

TEST_CASE("members with several shards, and as many shards as they like, repair each other") {
    Team team({.replicas = 2, .server = {.capacity_bytes = 4 * MiB, .shards = 3}});
    ClientHost& client = team.client("engine", false);
    REQUIRE(team.put(client, team.all).count(Outcome::Stored) == team.all.size());
    const auto epoch = team.head().view().epoch;
    team.nodes[2]->crash();
    team.nodes[2]->restart(2);
    run_until_repaired(team, 5, epoch);
    team.nodes[1]->crash();
    run_until_repaired(team, 4);
    team.nodes[3]->crash();
    check_all_there(team, client, "after two crashes and a repair");
}

// The repair keeps to its rate, and engines do not wait for it.
TEST_CASE("a repair is as slow as it is told to be, and no call waits for it") {
    Team::Options options{.replicas = 2,
                          .server = {.capacity_bytes = 16 * MiB},
                          .blocks = {.chains = 6, .chain_blocks_max = 40, .block_bytes_max = 48 * KiB}};
    options.server.repair_bytes_per_second = 64 * KiB;
    Team team(std::move(options));
    ClientHost& client = team.client("engine", false);
    REQUIRE(team.put(client, team.all).count(Outcome::Stored) == team.all.size());
    team.nodes[2]->crash();
    team.run_while([&] { return !team.agreed(4); });
    const Instant begun = team.world.clock().now();
    while (team.stat("repair_pending_groups") > 0) {
        check_all_there(team, client, "during the repair");
        CHECK(team.took < client.deadline() / 4);
        team.run(50ms);
        REQUIRE(team.world.clock().now() - begun < 1min);
    }
    const double seconds = static_cast<double>((team.world.clock().now() - begun).count()) / 1e9;
    const auto bytes = static_cast<double>(team.stat("repair_bytes"));
    CAPTURE(bytes);
    CHECK(bytes > 128 * KiB);
    // Four senders, each with a burst of a tenth of a second and one message of 256 KiB ahead.
    CHECK(bytes <= 4 * (64 * KiB * (seconds + 0.1) + 256 * KiB));
    CHECK(copies_in_place(team) == 2 * team.all.size());
}

TEST_CASE("what an old view has put where it does not belong any more is brought to its owners") {
    Team team({.replicas = 1});
    ClientHost& old = team.client("old", false);
    for (const auto& node : team.nodes) team.world.partition("old", node->host(), true);
    team.add();
    run_until_repaired(team, 6);
    team.run(100ms);
    for (const auto& node : team.nodes) team.world.partition("old", node->host(), false);
    const auto put = team.put(old, team.all);
    CHECK(put.count(Outcome::Stored) + put.count(Outcome::Present) == team.all.size());
    run_until_repaired(team, 6);
    CHECK(copies_in_place(team) == team.all.size());
}

// A put that all owners have confirmed survives one crash at any time, and after the repair another one.
TEST_CASE("no block that two members hold is lost by one crash, whenever it comes") {
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Team team(
            {.members = 3 + rng.below(3),
             .replicas = 2,
             .server = {.capacity_bytes = 4 * MiB, .shards = 1 + static_cast<std::uint32_t>(rng.below(2))}});
        ClientHost& client = team.client("engine", false);
        team.world.plan().delay_long = rng.chance(0.5) ? 0.03 : 0;
        team.world.plan().reorder_message = rng.chance(0.5) ? 0.2 : 0;
        team.world.plan().break_lane = rng.chance(0.5) ? 0.003 : 0;
        std::size_t serving = team.options.members;
        std::set<std::size_t> committed;
        const auto put_some = [&] {
            for (std::size_t first = 0; first < team.all.size(); first += 16) {
                const std::vector<std::size_t> blocks(
                    team.all.begin() + static_cast<std::ptrdiff_t>(first),
                    team.all.begin() + static_cast<std::ptrdiff_t>(std::min(first + 16, team.all.size())));
                const auto report = team.put(client, blocks);
                for (std::size_t at = 0; at < blocks.size(); ++at) {
                    if (report.blocks[at].copies >= 2) committed.insert(blocks[at]);
                }
                if (rng.chance(0.3)) team.run(Nanos(static_cast<std::int64_t>(rng.below(20'000'000))));
            }
        };
        const auto all_there = [&](const char* when) {
            CAPTURE(when);
            for (const std::size_t block : committed) {
                const auto holders =
                    std::count_if(team.nodes.begin(), team.nodes.end(), [&](const auto& node) {
                        return node->running() && node->holds(team.space.blocks[block].key);
                    });
                CAPTURE(block);
                CHECK(holders > 0);
            }
        };
        put_some();
        for (int crash = 0; crash < 3 && serving > 1; ++crash) {
            const std::size_t victim = 1 + rng.below(team.nodes.size() - 1);
            if (!team.nodes[victim]->running()) continue;
            const auto epoch = team.head().view().epoch;
            team.world.at(team.world.clock().now() + Nanos(static_cast<std::int64_t>(rng.below(30'000'000))),
                          [&node = *team.nodes[victim]] { node.crash(); });
            put_some();
            team.run_while([&] { return team.nodes[victim]->running(); });
            all_there("right after a crash");
            const bool back = rng.chance(0.5);
            if (back) team.nodes[victim]->restart();
            serving -= back ? 0 : 1;
            run_until_repaired(team, serving, epoch);
            all_there("after the repair");
        }
        team.world.plan().delay_long = team.world.plan().reorder_message = team.world.plan().break_lane = 0;
        run_until_repaired(team, serving);
        // Everything that was promised has all its copies again.
        model::Placement placement(2);
        placement.follow(team.head().view());
        for (const std::size_t block : committed) {
            const auto& known = team.space.blocks[block];
            for (const auto seat : placement.owners(known.group != 0 ? known.group : known.key.prefix())) {
                if (seat == model::Placement::kNobody) continue;
                const auto& member = placement.member(seat);
                const auto node = std::find_if(team.nodes.begin(), team.nodes.end(), [&](const auto& each) {
                    return each->address() == member.address;
                });
                CAPTURE(block);
                CHECK((*node)->holds(known.key));
            }
        }
        team.run_while([&] { return client.pool().status().members_ready != serving; });
        const std::vector<std::size_t> blocks(committed.begin(), committed.end());
        CHECK(team.get(client, blocks).count(Outcome::Hit) == blocks.size());
    }
}

void set_state(Team& team, std::size_t node, model::MemberState state) {
    bool changed = false;
    team.head().office().ask(wire::ChangeMember{.member = team.nodes[node]->host(), .state = state}, {},
                             [&](const Result<wire::Body>& answer) { changed = answer.has_value(); });
    REQUIRE(changed);
}

TEST_CASE("who drains is read from until others have all of it, and then may go") {
    for (const bool mapped : {true, false}) {
        for (const std::uint32_t replicas : {1U, 2U}) {
            CAPTURE(mapped);
            CAPTURE(replicas);
            Team::Options options{.replicas = replicas};
            options.server.capacity_bytes = 16 * MiB;
            options.server.shards = 2;
            options.blocks.block_bytes_max = 48 * KiB;
            options.server.repair_bytes_per_second = 256 * KiB;
            Team team(std::move(options));
            ClientHost& client = team.client("engine", mapped);
            REQUIRE(team.put(client, team.all).count(Outcome::Stored) == team.all.size());
            REQUIRE(team.nodes[4]->stat("blocks") > 0);
            set_state(team, 4, model::MemberState::Draining);
            team.run_while([&] { return !team.agreed(4) || client.pool().status().members != 4; });
            std::size_t looks = 0;
            for (; team.nodes[4]->stat("repair_pending_groups") > 0; ++looks) {
                check_all_there(team, client, "while it drains");
                team.run(20ms);
                REQUIRE(looks < 3000);
            }
            CHECK(looks > 3);
            CHECK(team.nodes[4]->stat("repair_refused_blocks") == 0);
            set_state(team, 4, model::MemberState::Retired);
            team.run_while([&] { return !team.agreed(4); });
            CHECK(team.nodes[4]->stat("repair_pending_groups") == 0);
            CHECK(copies_in_place(team) == replicas * team.all.size());
            team.nodes[4]->stop();
            team.run_while([&] { return !team.agreed(4); });
            check_all_there(team, client, "when it has gone");
        }
    }
}

// The blocks that a chain goes on with have their parents where it drains, and not yet where they belong.
TEST_CASE("chains that grow while their member drains are brought along") {
    Team::Options options;
    options.server.capacity_bytes = 16 * MiB;
    options.blocks.block_bytes_max = 48 * KiB;
    options.server.repair_bytes_per_second = 64 * KiB;
    Team team(std::move(options));
    ClientHost& client = team.client("engine", false);
    std::vector<std::size_t> begun;
    std::vector<std::size_t> grown;
    for (const std::size_t block : team.all)
        (team.space.blocks[block].position < 3 ? begun : grown).push_back(block);
    REQUIRE(team.put(client, begun).count(Outcome::Stored) == begun.size());
    set_state(team, 4, model::MemberState::Draining);
    team.run_while([&] { return !team.agreed(4) || client.pool().status().members != 4; });
    const auto report = team.put(client, grown);
    CHECK(report.count(Outcome::Stored) == grown.size());
    CHECK_FALSE(report.trouble);
    team.run_while([&] { return team.nodes[4]->stat("repair_pending_groups") > 0; });
    set_state(team, 4, model::MemberState::Retired);
    team.nodes[4]->stop();
    team.run_while([&] { return !team.agreed(4); });
    check_all_there(team, client, "when it has gone");
}

TEST_CASE("one of two members drains, and the other has everything") {
    Team team({.members = 2});
    ClientHost& client = team.client("engine", false);
    REQUIRE(team.put(client, team.all).count(Outcome::Stored) == team.all.size());
    set_state(team, 1, model::MemberState::Draining);
    team.run_while([&] { return !team.agreed(1) || client.pool().status().members != 1; });
    check_all_there(team, client, "while it drains");
    team.run_while([&] { return team.nodes[1]->stat("repair_pending_groups") > 0; });
    set_state(team, 1, model::MemberState::Retired);
    team.run_while([&] { return !team.agreed(1); });
    team.nodes[1]->stop();
    check_all_there(team, client, "when it has gone");
}

}  // namespace
}  // namespace cmpool::testing
