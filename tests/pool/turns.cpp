// In which order clients have their turns, what that costs each tenant, and what it is told about that.
#include <algorithm>
#include <functional>
#include <map>
#include <queue>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/pool/pressure.h>
#include <cmpool/pool/turns.h>
#include <cmpool/wire/load_level.h>

using namespace cmpool;
using namespace cmpool::pool;
using namespace std::chrono_literals;

namespace {

/// A shard that is one queue and a clock: clients ask, again and again, for work that takes its time.
struct SimulatedShard {
    struct Client {
        std::uint32_t tenant;
        Work work;
        Nanos service;
        Nanos pause;  ///< on average, from an answer to the next question; 0: it always asks
    };

    /// Waits of one tenant.
    [[nodiscard]] WaitHistogram run(const std::vector<Client>& clients, std::uint32_t watched, bool in_order,
                                    Nanos length) {
        Rng rng(7);
        Instant now{1};
        WaitHistogram waits;
        using Arrival = std::pair<Instant, std::size_t>;
        std::priority_queue<Arrival, std::vector<Arrival>, std::greater<>> coming;
        for (std::size_t at = 0; at < clients.size(); ++at) coming.emplace(now, at);
        Turns turns;
        std::deque<Turns::Turn> fifo;
        const Instant end = now + length;
        while (now < end) {
            while (!coming.empty() && coming.top().first <= now) {
                const auto [since, at] = coming.top();
                coming.pop();
                const Turns::Turn turn{at, clients[at].tenant, clients[at].work, since};
                in_order ? fifo.push_back(turn) : turns.add(turn);
            }
            if (in_order ? fifo.empty() : turns.empty()) {
                now = coming.top().first;
                continue;
            }
            Turns::Turn turn{};
            if (in_order) {
                turn = fifo.front();
                fifo.pop_front();
            } else {
                turn = turns.next();
            }
            const Client& client = clients[turn.peer];
            if (client.tenant == watched) waits.add(now - turn.since);
            now = now + client.service;
            if (!in_order) turns.spent(turn, client.service);
            const auto pause = static_cast<std::uint64_t>(2 * client.pause.count());
            coming.emplace(now + Nanos{static_cast<std::int64_t>(rng.below(pause + 1))}, turn.peer);
        }
        return waits;
    }
};

}  // namespace

TEST_CASE("turns: control before loads before stores, but nobody waits for ever") {
    Turns turns;
    for (std::uint64_t peer = 0; peer < 40; ++peer) turns.add({100 + peer, 1, Work::Loads, {}});
    turns.add({1, 1, Work::Stores, {}});
    turns.add({2, 1, Work::Control, {}});
    CHECK(turns.next().peer == 2);
    std::size_t before = 0;
    while (turns.next().peer != 1) ++before;
    CHECK(before <= kTurnsInARow);
    CHECK(turns.size() == 40 - before);
}

TEST_CASE(
    "turns: tenants have equal time, whatever the number of their clients and the cost of their turns") {
    Turns turns;
    Rng rng(3);
    std::map<std::uint32_t, Nanos> had;
    const std::map<std::uint32_t, Nanos> costs{{1, 10us}, {2, 35us}, {3, 100us}};
    std::uint64_t peer = 0;
    for (const auto& [tenant, cost] : costs) {
        for (std::uint32_t count = 0; count < tenant * 5; ++count)
            turns.add({++peer, tenant, Work::Stores, {}});
    }
    for (int step = 0; step < 10'000; ++step) {
        const auto turn = turns.next();
        const Nanos cost = costs.at(turn.tenant) + Nanos{static_cast<std::int64_t>(rng.below(1000))};
        had[turn.tenant] += cost;
        turns.spent(turn, cost);
        turns.add(turn);
    }
    const auto [least, most] = std::minmax({had[1], had[2], had[3]});
    CHECK(most - least <= 200us);
}

// Ten clients of one tenant load blocks at half of what the shard can do. Another tenant floods the shard
// with 40 clients that store, each slice of a store as long as two loads.
TEST_CASE("turns: a flood of one tenant's stores at most doubles how long another's loads wait") {
    using Client = SimulatedShard::Client;
    const std::vector<Client> quiet(10, Client{1, Work::Loads, 10us, 190us});
    auto flooded = quiet;
    flooded.resize(50, Client{2, Work::Stores, 20us, 0us});
    SimulatedShard shard;
    const auto alone = shard.run(quiet, 1, false, 2s);
    const auto shared = shard.run(flooded, 1, false, 2s);
    const auto in_order = shard.run(flooded, 1, true, 2s);
    MESSAGE("p99 of a load's wait: alone ", alone.quantile(0.99).count(), " ns, beside a flood ",
            shared.quantile(0.99).count(), " ns, first come first served ", in_order.quantile(0.99).count(),
            " ns");
    CHECK(alone.count() > 10'000);
    CHECK(shared.quantile(0.99) <= 2 * alone.quantile(0.99));
    CHECK(in_order.quantile(0.99) > 8 * alone.quantile(0.99));
}

TEST_CASE("turns: of two tenants that do the same, a flood of one at most doubles how long the other waits") {
    using Client = SimulatedShard::Client;
    const std::vector<Client> quiet(8, Client{1, Work::Stores, 20us, 400us});
    auto flooded = quiet;
    flooded.resize(72, Client{2, Work::Stores, 20us, 0us});
    SimulatedShard shard;
    const auto alone = shard.run(quiet, 1, false, 2s);
    const auto shared = shard.run(flooded, 1, false, 2s);
    MESSAGE("p99 of a store's wait: alone ", alone.quantile(0.99).count(), " ns, beside a flood ",
            shared.quantile(0.99).count(), " ns");
    CHECK(shared.quantile(0.99) <= 2 * alone.quantile(0.99));
}

TEST_CASE("a histogram says how long the slowest took, an eighth too high at most") {
    Rng rng(1);
    WaitHistogram waits;
    std::vector<std::int64_t> all;
    CHECK(waits.quantile(0.99) == Nanos{0});
    for (int step = 0; step < 10'000; ++step) {
        all.push_back(static_cast<std::int64_t>(rng.below(std::uint64_t{1} << (1 + rng.below(40)))));
        waits.add(Nanos{all.back()});
    }
    std::ranges::sort(all);
    for (const double part : {0.01, 0.5, 0.9, 0.99, 1.0}) {
        const auto exact = all[static_cast<std::size_t>(part * 10'000) - 1];
        CHECK(waits.quantile(part).count() >= exact);
        CHECK(waits.quantile(part).count() <= exact + exact / 8 + 1);
    }
    waits.add(Nanos{INT64_MAX});
    CHECK(waits.quantile(1.0).count() == INT64_MAX);
}

TEST_CASE("who waits longer is asked to hold back longer: stores first, loads only when pressed hard") {
    const Instant now{1'000'000'000};
    Pressure pressure;
    CHECK(pressure.level(now) == 0);
    std::uint8_t before = 0;
    for (const auto wait : {1ms, 2ms, 8ms, 500ms}) {
        for (int times = 0; times < 100; ++times) pressure.store_waited(wait);
        const auto level = pressure.level(now);
        CHECK(level >= before);
        CHECK(wire::load_pause(level) == 0ms);  // stores alone never delay loads
        before = level;
    }
    CHECK(wire::store_pause(before) == 16ms);
    for (int tick = 0; tick < 200; ++tick) pressure.fade();
    CHECK(pressure.level(now) == 0);

    pressure.store_refused(now);
    CHECK(wire::store_pause(pressure.level(now)) == 16ms);
    CHECK(pressure.level(now + Pressure::kRefusedCounts) == 0);
    for (int times = 0; times < 100; ++times) pressure.load_waited(50ms);
    CHECK(wire::load_pause(pressure.level(now)) > 0ms);
}
