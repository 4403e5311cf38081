// Copies of what belongs to other members: what they may take, who makes way for whom, and when they end or
// become ordinary blocks.
#include "batch.h"
#include "test_store.h"

#include <cmpool/base/rng.h>

using namespace cmpool;
using namespace cmpool::pool;
using namespace cmpool::testing;
using namespace std::chrono_literals;

namespace {

BlockSpec copy_of(const Store& one, const Node& node) {
    return {.namespace_id = kSpace,
            .digest = one.spec(node).digest,
            .length = node.length,
            .group = one.spec(node).group,
            .near = true};
}

Outcome put_copy(Store& one, const Node& node) {
    return one.put(copy_of(one, node), bytes_of(node.number, node.length));
}

}  // namespace

TEST_CASE("copies make way for everybody, whatever the priority, and take from copies only") {
    Quotas quotas;
    Space& low = quotas.space(1, 1);
    Space& owner = quotas.space(2, 1);
    Space& copies = quotas.near_space(2, 1);
    Space& others = quotas.near_space(3, 2);
    quotas.set(owner, {.bytes = 1000, .priority = 7});
    low.used_bytes = 100;
    owner.used_bytes = 100;
    copies.used_bytes = 100;
    others.used_bytes = 50;
    CHECK(quotas.near_bytes() == 150);
    CHECK(quotas.domain_with_most_near() == 1);
    for (const Space* asker : {&low, &owner}) {
        const Claim claim(*asker, 10);
        CHECK(claim.allowance(copies) == 100);
        CHECK(claim.on_others().allowance(copies) == 100);
        // However lately it was used.
        CHECK(claim.before(copies, 1000, low, 1));
        CHECK(claim.before(copies, 1000, owner, 1));
    }
    const Claim claim(copies, 10);
    CHECK(claim.allowance(low) == 0);
    CHECK(claim.allowance(owner) == 0);
    CHECK(claim.allowance(copies) == 100);
    CHECK(claim.allowance(others) == 50);
    CHECK(claim.before(others, 1, copies, 2));
}

TEST_CASE("a copy is found like any block, is nobody's to list, and gives way to whoever owns what it puts") {
    Store one;
    const Node copy{.number = 1, .length = 4096 - 64};  // more than is evicted ahead of need
    CHECK(put_copy(one, copy) == Outcome::Ok);
    CHECK(put_copy(one, copy) == Outcome::Present);
    CHECK(one.holds_exactly(copy));
    CHECK(one.store.near(one.find(1)));
    CHECK(one.store.counts().near_blocks == 1);
    CHECK(one.store.counts().near_bytes == 4096);
    std::vector<wire::ListedBlock> listed;
    CHECK(one.store.list(kSpace, 0, 10, listed) == 0);
    CHECK(listed.empty());
    one.check();
    // All other memory is its owners', and then that of the copy too.
    CHECK(one.put({.number = 2, .length = 64 * KiB - 64 - 4096}) == Outcome::Ok);
    CHECK(one.has(1));
    CHECK(one.store.begin(copy_of(one, {.number = 3})).refused == Outcome::Refused);
    CHECK(one.put({.number = 4}) == Outcome::Ok);
    CHECK_FALSE(one.has(1));
    CHECK(one.has(2));
    CHECK(one.store.counts().evicted_blocks == 0);
    CHECK(one.store.counts().near_evicted_blocks == 1);
    CHECK(one.store.counts().near_blocks == 0);
    one.check();
}

TEST_CASE("a block that is put where a copy of it lies is that copy, in its place of the chain") {
    Store one;
    REQUIRE(one.put({.number = 1}) == Outcome::Ok);
    REQUIRE(one.put({.number = 2, .parent = 1, .position = 1}) == Outcome::Ok);
    REQUIRE(put_copy(one, {.number = 3}) == Outcome::Ok);
    const ExtentId extent = one.find(3);
    CHECK(one.put({.number = 3, .parent = 9, .position = 2}) == Outcome::Orphan);
    CHECK(one.store.near(extent));
    CHECK(one.put({.number = 3, .parent = 2, .position = 2}) == Outcome::Present);
    CHECK(one.find(3) == extent);
    CHECK_FALSE(one.store.near(extent));
    CHECK(one.store.extent(extent).group == one.store.extent(one.find(2)).group);
    CHECK(one.store.extent(extent).position == 2);
    CHECK(one.store.counts().near_kept_blocks == 1);
    CHECK(one.store.counts().near_blocks == 0);
    one.check();
    one.clock.advance(1h);
    one.store.expire(1000);
    CHECK(one.has(3));
}

// Both are under way at once, and either may be first.
TEST_CASE("a copy that comes in while its block is put does not take the block's place") {
    for (const bool copy_first : {true, false}) {
        CAPTURE(copy_first);
        Store one;
        const auto bytes = bytes_of(1, 192);
        const auto block = one.store.begin(one.spec({.number = 1}));
        const auto copy = one.store.begin(copy_of(one, {.number = 1}));
        REQUIRE_FALSE(block.refused);
        REQUIRE_FALSE(copy.refused);
        std::ranges::copy(bytes, block.payload.begin());
        std::ranges::copy(bytes, copy.payload.begin());
        const auto sum = model::checksum(bytes);
        CHECK(one.store.commit(copy_first ? copy.extent : block.extent, sum) == Outcome::Ok);
        CHECK(one.store.commit(copy_first ? block.extent : copy.extent, sum) == Outcome::Present);
        CHECK_FALSE(one.store.near(one.find(1)));
        CHECK(one.holds_exactly({.number = 1}));
        one.check();
    }
}

TEST_CASE("a copy ends after half a minute, also for others while one reader has it pinned") {
    Store one;
    REQUIRE(put_copy(one, {.number = 1}) == Outcome::Ok);
    REQUIRE(put_copy(one, {.number = 2}) == Outcome::Ok);
    REQUIRE(one.put({.number = 3}) == Outcome::Ok);
    auto& page = one.page();
    page.pins_end = 1;
    page.pins[0] = model::pin_word(one.location(one.find(1)));
    const ExtentId held = one.find(2);
    one.store.hold(held);
    one.clock.advance(28s);
    one.store.expire(1000);
    CHECK(one.has(1));
    one.clock.advance(3s);
    one.store.expire(1000);
    CHECK_FALSE(one.has(1));
    CHECK(one.store.counts().doomed_bytes == 256);  // whoever has it pinned reads on
    CHECK(one.has(2));                              // under a lease, which ends
    CHECK(one.store.expired(held));
    CHECK(one.has(3));
    one.store.unhold(held);
    one.store.expire(1000);
    CHECK_FALSE(one.has(2));
    page.pins[0] = 0;
    one.store.sweep();
    CHECK(one.store.counts().doomed_bytes == 0);
    one.check();
}

TEST_CASE("where blocks have an end a copy has none that is known: it has ended") {
    Store one;
    REQUIRE(put_copy(one, {.number = 1}) == Outcome::Ok);
    CHECK_FALSE(one.store.expired(one.find(1)));
    one.quotas.set(one.store.space(kSpace), {.ttl_s = 3600});
    CHECK(one.store.expired(one.find(1)));
    one.store.expire(1000);
    CHECK_FALSE(one.has(1));
    one.check();
}

// Two domains that own blocks and have copies, for a long time: no budget is ever exceeded, and no copy costs
// an owner a block.
TEST_CASE("whatever comes, copies keep to their budget and to what nobody else needs") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        TestClock clock;
        HeapFabric fabric;
        const std::uint64_t budget = 200 * KiB;
        auto made = Memory::create(
            {.capacity_bytes = 4 * MiB, .segment_bytes = 1 * MiB, .near_bytes = budget}, clock, fabric, 1);
        REQUIRE(made);
        Memory& memory = **made;
        std::uint64_t copies = 0;
        std::uint64_t refused = 0;
        const bool floods = rng.chance(0.5);
        for (int round = 0; round < 2000; ++round) {
            const auto domain = static_cast<std::uint32_t>(1 + rng.below(2));
            DomainStore& store = **memory.domain(domain);
            const bool near = rng.chance(floods ? 0.4 : 0.9);
            const auto length = static_cast<std::uint32_t>(1 + rng.below(8 * KiB));
            const std::uint64_t number = std::uint64_t{domain} << 32 | rng.below(1500);
            const auto evicted = [&] {
                std::uint64_t all = 0;
                for (const auto& [id, each] : memory.domains()) all += each->counts().evicted_blocks;
                return all;
            };
            const auto before = evicted();
            const auto begun = memory.begin(
                store, {.namespace_id = domain, .digest = digest_of(number), .length = length, .near = near});
            if (near) CHECK(evicted() == before);
            if (begun.refused) {
                refused += near && begun.refused == Outcome::Refused ? 1 : 0;
                continue;
            }
            const auto bytes = bytes_of(number, length);
            std::ranges::copy(bytes, begun.payload.begin());
            const auto outcome = store.commit(begun.extent, model::checksum(bytes));
            copies += near && outcome == Outcome::Ok ? 1 : 0;
            if (rng.chance(0.02)) clock.advance(1s);
            if (rng.chance(0.05)) store.expire(1000);
            REQUIRE(memory.check_invariants() == "");
        }
        CHECK(copies > 100);
        CHECK(memory.quotas().near_bytes() <= budget);
        CAPTURE(refused);
    }
}

TEST_CASE(
    "a server that keeps copies says so, reads them to whoever asks, and does not take them for its own") {
    TestPool pool(Over::Tcp, {.capacity_bytes = 8 * MiB, .near_bytes = 1 * MiB});
    Client& client = pool.connect();
    CHECK(pool.expect<wire::Welcome>(client, client.ask(wire::Hello{.client = "test"})).keeps_near);
    REQUIRE(pool.open(client) == 1);
    const auto batch = blocks(1, 4, 1000);
    auto ask = batch.put();
    ask.near = true;
    CHECK(pool.outcomes(client, client.ask(ask, batch.gather())) == AllOk(4, Outcome::Ok));
    CHECK(exists(pool, client, digests_of(1, 4)) == AllOk(4, Outcome::Miss));
    CHECK(pool.outcomes(client, ask_get(client, digests_of(1, 4), 1000)) == AllOk(4, Outcome::Ok));
    const auto stat = [&](std::string_view name) {
        for (const auto& each : pool.server->stats()) {
            if (each.name == name) return each.value;
        }
        FAIL("no such statistic");
        return std::uint64_t{0};
    };
    CHECK(stat("near_blocks") == 4);
    CHECK(stat("near_stored") == 4);
    CHECK(stat("near_hits") == 4);
    CHECK(stat("put_stored") == 0);
    // By the rules of its owners it is stored, without its bytes being looked at.
    CHECK(put(pool, client, blocks(1, 2, 1000)) == AllOk(2, Outcome::Present));
    CHECK(exists(pool, client, digests_of(1, 2)) == AllOk(2, Outcome::Ok));
    CHECK(stat("near_blocks") == 2);
    // A copy whose bytes are not those of its checksum is none.
    auto wrong = blocks(9, 1, 1000);
    wrong.items.front().checksum ^= 1;
    ask = wrong.put();
    ask.near = true;
    CHECK(pool.outcomes(client, client.ask(ask, wrong.gather())) == AllOk(1, Outcome::Refused));
    CHECK(stat("near_refused") == 1);
    CHECK(stat("put_refused") == 0);

    TestPool without(Over::Tcp);
    Client& other = without.connect();
    CHECK_FALSE(without.expect<wire::Welcome>(other, other.ask(wire::Hello{.client = "test"})).keeps_near);
    REQUIRE(without.open(other) == 1);
    ask = batch.put();
    ask.near = true;
    CHECK(without.outcomes(other, other.ask(ask, batch.gather())) == AllOk(4, Outcome::Refused));
}
