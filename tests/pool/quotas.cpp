// Who makes way for whom: the rules against what each of them promises, and a whole pool of several tenants.
#include "quotas.h"

#include "fakes.h"
#include "memory.h"

#include <algorithm>
#include <map>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>

using namespace cmpool;
using namespace cmpool::pool;
using namespace cmpool::testing;

namespace {

constexpr std::uint64_t kBlock = 100;  // bytes of an extent; the rules know no units

/// Blocks of namespaces in one list, coldest first: what a pool is to these rules.
struct NaivePool {
    struct Block {
        std::uint32_t owner;
        std::uint64_t touched;
    };

    explicit NaivePool(std::size_t its_room) : room(its_room) {}
    Space& add(std::uint32_t priority, std::uint64_t quota_blocks) {
        Space& space = quotas.space(static_cast<std::uint32_t>(spaces.size()), 1);
        quotas.set(space, {.bytes = quota_blocks * kBlock, .priority = priority});
        spaces.push_back(&space);
        return space;
    }
    /// The owners of what may go for this claim, in the order of going.
    [[nodiscard]] std::vector<std::size_t> order(const Claim& claim) const {
        std::vector<std::size_t> all;
        for (std::size_t at = 0; at < blocks.size(); ++at) {
            if (claim.allowance(*spaces[blocks[at].owner]) >= kBlock) all.push_back(at);
        }
        std::ranges::sort(all, [&](std::size_t one, std::size_t other) {
            return claim.before(*spaces[blocks[one].owner], blocks[one].touched, *spaces[blocks[other].owner],
                                blocks[other].touched);
        });
        return all;
    }
    /// False when nothing may go.
    bool put(std::uint32_t owner) {
        const Claim claim(*spaces[owner], kBlock);
        lost.reset();
        if (blocks.size() == room) {
            const auto going = order(claim);
            if (going.empty()) return false;
            lost = blocks[going.front()].owner;
            spaces[*lost]->used_bytes -= kBlock;
            blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(going.front()));
        }
        blocks.push_back({owner, ++now});
        spaces[owner]->used_bytes += kBlock;
        return true;
    }
    [[nodiscard]] std::uint64_t used(std::uint32_t owner) const {
        return static_cast<std::uint64_t>(
            std::ranges::count_if(blocks, [&](const Block& block) { return block.owner == owner; }));
    }

    Quotas quotas;
    std::size_t room;
    std::vector<Space*> spaces;
    std::vector<Block> blocks;
    std::uint64_t now = 0;
    std::optional<std::uint32_t> lost;
};

}  // namespace

TEST_CASE("whatever is put, nobody loses what is within its quota to another") {
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        NaivePool pool(40);
        const std::size_t count = 2 + rng.below(5);
        for (std::size_t at = 0; at < count; ++at)
            (void)pool.add(static_cast<std::uint32_t>(rng.below(3)), rng.below(15));
        for (int step = 0; step < 2000; ++step) {
            CAPTURE(step);
            const auto owner = static_cast<std::uint32_t>(rng.below(count));
            if (rng.chance(0.02)) {
                // A quota that changes takes nothing away by itself.
                pool.quotas.set(*pool.spaces[owner], {.bytes = rng.below(15) * kBlock,
                                                      .priority = pool.spaces[owner]->priority()});
            }
            if (rng.chance(0.1) && !pool.blocks.empty()) {
                const auto at = rng.below(pool.blocks.size());
                pool.spaces[pool.blocks[at].owner]->used_bytes -= kBlock;
                pool.blocks.erase(pool.blocks.begin() + static_cast<std::ptrdiff_t>(at));
            }
            std::vector<std::uint64_t> before;
            for (std::uint32_t each = 0; each < count; ++each) before.push_back(pool.used(each));
            const bool was_full = pool.blocks.size() == pool.room;
            const bool owns = (before[owner] + 1) * kBlock <= pool.spaces[owner]->quota_bytes;
            const bool somebody_borrows = std::ranges::any_of(
                pool.spaces, [](const Space* space) { return space->borrowed_bytes() > 0; });
            const bool stored = pool.put(owner);

            // Room that nobody uses is anybody's; an owner is refused only when all is within quotas.
            if (!was_full) CHECK(stored);
            if (!stored) CHECK((before[owner] == 0 && (!owns || !somebody_borrows)));
            if (!pool.lost || *pool.lost == owner) {
                // Who gives up its own although it has more to come: nobody borrows what it may take.
                if (pool.lost && owns) CHECK_FALSE(somebody_borrows);
                continue;
            }
            const Space& loser = *pool.spaces[*pool.lost];
            CHECK(before[*pool.lost] * kBlock > loser.quota_bytes);
            if (!owns) CHECK(loser.priority() <= pool.spaces[owner]->priority());
            // Among those who borrow the lowest priority goes first.
            for (std::uint32_t each = 0; each < count; ++each) {
                if (each == owner || before[each] * kBlock <= pool.spaces[each]->quota_bytes) continue;
                CHECK(loser.priority() <= pool.spaces[each]->priority());
            }
        }
        for (std::uint32_t each = 0; each < count; ++each)
            CHECK(pool.used(each) * kBlock == pool.spaces[each]->used_bytes);
    }
}

TEST_CASE("without quotas and priorities the coldest block goes, whose it may be") {
    NaivePool pool(10);
    for (int at = 0; at < 3; ++at) (void)pool.add(0, 0);
    Rng rng(5);
    for (int step = 0; step < 500; ++step) {
        const auto coldest = pool.blocks.empty() ? 0 : pool.blocks.front().owner;
        const bool full = pool.blocks.size() == pool.room;
        REQUIRE(pool.put(static_cast<std::uint32_t>(rng.below(3))));
        if (full) CHECK(pool.lost == coldest);
    }
}

TEST_CASE("each domain keeps the segments of its quotas, rounded so that they fit") {
    Quotas quotas;
    const auto entitled = [&](std::vector<std::uint64_t> bytes, std::size_t total) {
        std::vector<Quotas::DomainSegments> all;
        for (std::uint32_t at = 0; at < bytes.size(); ++at) {
            quotas.set(quotas.space(at, at), {.bytes = bytes[at]});
            all.push_back({at, 0});
        }
        return quotas.entitled(all, total, 100);
    };
    using Segments = std::vector<std::size_t>;
    CHECK(entitled({0, 0, 0}, 8) == Segments{0, 0, 0});
    CHECK(entitled({250, 100, 1}, 8) == Segments{3, 1, 1});
    CHECK(entitled({400, 400, 0}, 8) == Segments{4, 4, 0});
    CHECK(entitled({450, 350, 0}, 8) == Segments{5, 3, 0});     // a tie: the first
    CHECK(entitled({470, 330, 0}, 8) == Segments{5, 3, 0});     // the larger remainder
    CHECK(entitled({1700, 350, 350}, 8) == Segments{6, 1, 1});  // promised three times over
}

TEST_CASE("a shard keeps its part of every quota, also when the cluster changes") {
    Quotas quotas;
    Space& space = quotas.space(1, 1);
    quotas.set(space, {.bytes = 1200});
    CHECK(space.quota_bytes == 1200);
    quotas.set_part(1, 4);
    CHECK(space.quota_bytes == 300);
    quotas.set(space, {.bytes = UINT64_MAX});
    CHECK(space.quota_bytes == UINT64_MAX / 4);
    CHECK(quotas.any());
    quotas.set(space, {});
    CHECK_FALSE(quotas.any());
}

namespace {

/// A shard's memory, and tenants that put blocks of one size; each is a namespace and a domain.
struct Tenants {
    explicit Tenants(std::uint64_t capacity = 16 * MiB, std::uint64_t segment = 1 * MiB) {
        auto made = Memory::create({.capacity_bytes = capacity, .segment_bytes = segment}, clock, fabric, 1);
        REQUIRE(made);
        memory = std::move(*made);
    }
    void quota(std::uint32_t tenant, const model::Quota& quota) {
        memory->quotas().set(store(tenant).space(tenant), quota);
    }
    DomainStore& store(std::uint32_t tenant) {
        const auto found = memory->domain(domain_of.contains(tenant) ? domain_of[tenant] : tenant);
        REQUIRE(found);
        return **found;
    }
    [[nodiscard]] std::uint64_t used(std::uint32_t tenant) { return store(tenant).space(tenant).used_bytes; }
    [[nodiscard]] model::Digest digest(std::uint32_t tenant, std::uint64_t number) const {
        return digest_of(std::uint64_t{tenant} << 32 | number);
    }
    bool put(std::uint32_t tenant, std::uint64_t number, std::uint32_t length = kLength) {
        auto begun = memory->begin(
            store(tenant), {.namespace_id = tenant, .digest = digest(tenant, number), .length = length});
        if (begun.refused) return begun.refused == wire::Outcome::Present;
        const auto bytes = bytes_of(std::uint64_t{tenant} << 32 | number, length);
        std::ranges::copy(bytes, begun.payload.begin());
        return store(tenant).commit(begun.extent, model::checksum(bytes)) == wire::Outcome::Ok;
    }
    /// As many as are stored.
    std::size_t flood(std::uint32_t tenant, std::uint64_t from, std::uint64_t count) {
        std::size_t stored = 0;
        for (std::uint64_t number = from; number < from + count; ++number) stored += put(tenant, number);
        return stored;
    }
    /// Whether it is there, with its bytes.
    bool has(std::uint32_t tenant, std::uint64_t number, std::uint32_t length = kLength) {
        const ExtentId id = store(tenant).find(digest(tenant, number));
        if (id == kNoExtent) return false;
        CHECK(same(store(tenant).view(id).payload, bytes_of(std::uint64_t{tenant} << 32 | number, length)));
        return true;
    }
    void check() const { REQUIRE(memory->check_invariants() == ""); }

    static constexpr std::uint32_t kLength = 16 * KiB - 64;
    TestClock clock;
    HeapFabric fabric;
    std::unique_ptr<Memory> memory;
    std::map<std::uint32_t, std::uint32_t> domain_of;
};

constexpr std::uint64_t kEach = 16 * KiB;  // of such a block

}  // namespace

TEST_CASE("a flood of one tenant takes nothing of what is within another's quota") {
    Tenants pool;
    pool.quota(1, {.bytes = 6 * MiB});
    CHECK(pool.flood(1, 0, 6 * MiB / kEach) == 6 * MiB / kEach);
    for (int round = 0; round < 20; ++round) {
        (void)pool.flood(2, static_cast<std::uint64_t>(round) * 200, 200);
        pool.check();
        CHECK(pool.used(1) == 6 * MiB);
    }
    CHECK(pool.used(2) > 10 * MiB * 98 / 100);  // all that is left, but for room made ahead of need
    for (std::uint64_t number = 0; number < 6 * MiB / kEach; ++number) CHECK(pool.has(1, number));
}

TEST_CASE("what is lent comes back to its owner, and only so much") {
    Tenants pool;
    pool.quota(1, {.bytes = 6 * MiB});
    CHECK(pool.flood(2, 0, 2000) == 2000);
    CHECK(pool.used(2) >= 15 * MiB);  // unused room is lent
    CHECK(pool.flood(1, 0, 6 * MiB / kEach) == 6 * MiB / kEach);
    pool.check();
    CHECK(pool.used(1) == 6 * MiB);
    CHECK(pool.used(2) >= 9 * MiB);
    CHECK(pool.used(2) <= 10 * MiB);
    // Both go on: the owner stays at its quota within two hundredths, the other has the rest.
    for (std::uint64_t number = 0; number < 3000; ++number) {
        CHECK(pool.put(1, 10'000 + number));
        CHECK(pool.put(2, 10'000 + number));
        CHECK(pool.used(1) >= 6 * MiB * 98 / 100);
    }
    pool.check();
}

TEST_CASE("two namespaces of one tenant share its segments, and the one within its quota loses nothing") {
    Tenants pool;
    pool.domain_of = {{1, 7}, {2, 7}};
    pool.quota(1, {.bytes = 5 * MiB});
    // Each segment has blocks of both.
    for (std::uint64_t number = 0; number < 5 * MiB / kEach; ++number) {
        CHECK(pool.put(1, number));
        CHECK(pool.put(2, number));
    }
    (void)pool.flood(2, 1000, 3000);
    pool.check();
    CHECK(pool.used(1) == 5 * MiB);
    // Another domain claims segments in which both lie: blocks move, bytes stay the same.
    pool.quota(3, {.bytes = 9 * MiB});
    CHECK(pool.flood(3, 0, 9 * MiB / kEach) == 9 * MiB / kEach);
    pool.check();
    CHECK(pool.used(3) == 9 * MiB);
    CHECK(pool.used(1) == 5 * MiB);
    CHECK(pool.used(2) <= 2 * MiB);
    for (std::uint64_t number = 0; number < 5 * MiB / kEach; ++number) CHECK(pool.has(1, number));
    CHECK(pool.store(1).counts().moved_blocks > 0);
}

TEST_CASE("a higher priority borrows from a lower one, and not the other way round") {
    Tenants pool;
    pool.quota(1, {.priority = 1});
    pool.quota(2, {.priority = 9});
    CHECK(pool.flood(1, 0, 2000) == 2000);
    CHECK(pool.flood(2, 0, 2000) == 2000);
    CHECK(pool.used(2) >= 15 * MiB);
    CHECK(pool.used(1) <= 1 * MiB);
    const auto before = pool.used(2);
    (void)pool.flood(1, 5000, 2000);
    CHECK(pool.used(2) == before);
    pool.check();
}

TEST_CASE("equal borrowers of two domains end with equal parts") {
    Tenants pool;
    (void)pool.flood(1, 0, 2000);
    for (std::uint64_t number = 0; number < 4000; ++number) {
        (void)pool.put(1, 10'000 + number);
        (void)pool.put(2, 10'000 + number);
    }
    pool.check();
    CHECK(pool.store(1).segment_count() == 8);
    CHECK(pool.store(2).segment_count() == 8);
}

TEST_CASE("several tenants with quotas that fit have them whole, whatever the order of puts") {
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Tenants pool;
        const std::map<std::uint32_t, std::uint64_t> quotas{{1, 3 * MiB}, {2, 5 * MiB}, {3, 2 * MiB}};
        pool.domain_of = {{1, 1}, {2, 2}, {3, 3}, {4, 2}, {5, 5}};  // 4 and 5 have none; 4 is at home with 2
        for (const auto& [tenant, bytes] : quotas) pool.quota(tenant, {.bytes = bytes});
        std::map<std::uint32_t, std::uint64_t> put;
        for (int step = 0; step < 12'000; ++step) {
            const auto tenant = static_cast<std::uint32_t>(1 + rng.below(5));
            const bool within = quotas.contains(tenant) && pool.used(tenant) + kEach <= quotas.at(tenant);
            std::map<std::uint32_t, std::uint64_t> before;
            for (const auto& [each, bytes] : quotas) before[each] = pool.used(each);
            const bool stored = pool.put(tenant, put[tenant]++);
            if (within) REQUIRE(stored);
            for (const auto& [each, bytes] : quotas) {
                if (each != tenant) REQUIRE(pool.used(each) >= std::min(before[each], bytes));
            }
            if (step % 500 == 0) pool.check();
        }
        for (const auto& [tenant, bytes] : quotas) CHECK(pool.used(tenant) >= bytes * 98 / 100);
        pool.check();
    }
}

TEST_CASE("a block that is older than its namespace's blocks get is a miss, and goes first") {
    Tenants pool(4 * MiB);
    pool.quota(1, {.ttl_s = 10});
    CHECK(pool.flood(1, 0, 64) == 64);
    CHECK(pool.flood(2, 0, 64) == 64);
    const auto id = [&](std::uint64_t number) { return pool.store(1).find(pool.digest(1, number)); };
    pool.clock.advance(std::chrono::milliseconds(8900));
    CHECK_FALSE(pool.store(1).expired(id(0)));
    pool.store(1).hold(id(1));
    pool.clock.advance(std::chrono::milliseconds(1200));
    CHECK(pool.store(1).expired(id(0)));
    CHECK_FALSE(pool.store(2).expired(pool.store(2).find(pool.digest(2, 0))));
    // Put again it is new.
    CHECK(pool.put(1, 0));
    CHECK_FALSE(pool.store(1).expired(id(0)));
    const auto held = id(1);
    pool.store(1).expire(1'000'000);
    CHECK(pool.used(1) == 2 * kEach);  // the new one, and what somebody holds
    CHECK(id(1) == held);
    pool.store(1).unhold(held);
    pool.store(1).expire(1'000'000);
    CHECK(pool.used(1) == kEach);
    CHECK(pool.used(2) == 64 * kEach);
    pool.check();
}
