// Wall clocks that jump by years: leases, deadlines and views know none.
#include "faults.h"
#include "wall.h"

using namespace cmpool;
using namespace std::chrono_literals;
using client::Outcome;
using testing::Daemon;
using SteadyClock = std::chrono::steady_clock;

TEST_CASE(
    "a wall clock that jumps by years changes no lease, no deadline, and nobody's place in the cluster") {
    if (!testing::WallClock::can_jump()) return;
    testing::WallClock wall;
    Daemon first({"--capacity", "16M", "--name", "node-0", "--host", "a"}, wall.wrapper());
    Daemon second({"--capacity", "16M", "--name", "node-1", "--host", "b", "--meta", first.address()},
                  wall.wrapper());
    const auto pool = testing::open_pool(first.uri("?transport=tcp&deadline_ms=5000"));
    REQUIRE(testing::comes_true([&] {
        pool->progress();
        return testing::statistic(*pool, "members") == 2;
    }));
    const auto epoch = testing::statistic(*pool, "epoch");
    const auto keys = testing::chain_of(*pool, 4);
    const auto bytes = testing::pattern(10'000, 1);
    for (const auto& key : keys) REQUIRE(testing::put_one(*pool, key, bytes) == Outcome::Stored);

    auto kept = pool->match(keys, 60'000);
    REQUIRE(kept.leased());
    Rng rng(13);
    std::uint64_t jumps = 0;
    // Longer than a member's lease.
    for (const auto until = SteadyClock::now() + 4s; SteadyClock::now() < until; ++jumps) {
        wall.move(static_cast<std::int64_t>(rng.below(20 * 365 * 86'400)) - 10 * 365 * 86'400);
        CHECK(testing::round_trip(*pool, jumps % 100) == "");
    }
    wall.move(0);
    CHECK(wall.looks() > 0);
    // Whose blocks they are, the run's own secret decides.
    CHECK(testing::statistic_of_all(*pool, "leases_expired") == 0);
    CHECK(testing::statistic_of_all(*pool, "leases") > 0);
    CHECK(testing::statistic(*pool, "members") == 2);
    CHECK(testing::statistic(*pool, "epoch") == epoch);

    // And one that should end does, when its time has come.
    wall.move(-10 * 365 * 86'400);
    const auto begun = SteadyClock::now();
    const auto short_one = pool->match(keys, 300);
    REQUIRE(short_one.leased());
    CHECK(testing::comes_true([&] { return testing::statistic_of_all(*pool, "leases_expired") > 0; }));
    CHECK(SteadyClock::now() - begun >= 290ms);
    CHECK(SteadyClock::now() - begun < 3s);
    MESSAGE(jumps << " jumps, " << wall.looks() << " looks at the wall clock");
    CHECK(second.stop());
    CHECK(first.stop());
}
