// The server on real lanes: blocks that are put, got, listed and leased.
#include "batch.h"
#include "server_impl.h"

#include <cmpool/model/placement.h>

using namespace cmpool;
using namespace cmpool::pool;
using namespace cmpool::testing;
using wire::Outcome;

// ---- put and get ----

TEST_CASE("what is put is got back, whole and in order") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.join();
        Batch batch;
        for (std::uint64_t number = 1; number <= 50; ++number)
            batch.add(number, static_cast<std::uint32_t>(1 + number * 997 % 20'000));
        CHECK(put(pool, client, batch) == AllOk(50, Outcome::Ok));
        auto wanted = digests_of(1, 50);
        std::ranges::reverse(wanted);
        wanted.insert(wanted.begin() + 7, digest_of(999));
        for (const bool verify : {false, true}) {
            const auto id = ask_get(client, wanted, 20'000, verify);
            const auto got = pool.expect<wire::Outcomes>(client, id);
            Bytes left = pool.answer(client, id).payload;
            for (std::size_t at = 0; at < wanted.size(); ++at) {
                CAPTURE(at);
                if (at == 7) {
                    CHECK(got.outcomes[at] == Outcome::Miss);
                    continue;
                }
                const auto& bytes = batch.bytes[at < 7 ? 49 - at : 50 - at];
                REQUIRE(got.outcomes[at] == Outcome::Ok);
                REQUIRE(got.lengths[at] == bytes.size());
                REQUIRE(same(left.first(bytes.size()), bytes));
                REQUIRE(got.checksums[at] == model::checksum(bytes));
                left = left.subspan(bytes.size());
            }
            CHECK(left.empty());
        }
    });
}

TEST_CASE("a put of which some blocks are not wanted lands the others right") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.join();
        REQUIRE(put(pool, client, blocks(3, 1, 4000)) == AllOk{Outcome::Ok});
        Batch batch;
        batch.add(1, 100);
        batch.add(2, 70'000, 555, 9);  // its parent is nowhere: 70,000 bytes to drop
        batch.add(3, 4000);            // present
        batch.add(4, 12'345);
        batch.add(5, 3 * MiB);  // larger than a segment
        batch.add(6, 777, 4, 2);
        batch.items.push_back(batch.items.back());
        batch.items.back().digest = digest_of(7);
        batch.items.back().checksum ^= 1;  // does not fit its bytes
        batch.bytes.push_back(batch.bytes.back());
        batch.add(8, 1);
        CHECK(put(pool, client, batch) == AllOk{Outcome::Ok, Outcome::Orphan, Outcome::Present, Outcome::Ok,
                                                Outcome::Refused, Outcome::Ok, Outcome::Refused,
                                                Outcome::Ok});
        const std::vector<std::uint64_t> there{1, 3, 4, 6, 8};
        for (const std::uint64_t number : there) {
            const auto id = ask_get(client, digests_of(number, 1), 100'000, true);
            REQUIRE(pool.outcomes(client, id) == AllOk{Outcome::Ok});
            const Bytes bytes = pool.answer(client, id).payload;
            CHECK(same(bytes, bytes_of(number, bytes.size())));
        }
        CHECK(pool.stat("blocks") == 5);
        CHECK(pool.stat("put_changed") == 1);
    });
}

TEST_CASE("a payload of another length than the put names is refused, and the lane lives") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.join();
        const Batch batch = blocks(1, 3, 50'000);
        auto gather = batch.gather();
        gather[1] = gather[1].first(49'999);
        CHECK(pool.refused(client, client.ask(batch.put(), gather)) == Errc::Invalid);
        CHECK(pool.refused(client, client.ask(batch.put())) == Errc::Invalid);
        CHECK(pool.stat("blocks") == 0);
        CHECK(put(pool, client, batch) == AllOk(3, Outcome::Ok));
        // A payload beside a message that has none is dropped.
        const std::vector<Bytes> stray{batch.bytes[0]};
        (void)pool.expect<wire::Stats>(client, client.ask(wire::StatsRequest{}, stray));
        CHECK(put(pool, client, batch) == AllOk(3, Outcome::Present));
    });
}

namespace {

/// A put whose sums come behind it.
std::uint64_t ask_unsummed(Client& client, Batch& batch) {
    auto ask = batch.put();
    std::vector<wire::PutItem> items = batch.items;
    for (auto& item : items) item.checksum = 0;
    ask.items = items;
    ask.sums_follow = true;
    return client.ask(std::move(ask), batch.gather());
}
std::vector<std::uint64_t> sums_of(const Batch& batch) {
    std::vector<std::uint64_t> sums;
    for (const auto& item : batch.items) sums.push_back(item.checksum);
    return sums;
}

}  // namespace

TEST_CASE("sums that follow a put's payloads judge them, each block by its own") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.join();
        REQUIRE(put(pool, client, blocks(3, 1, 4000)) == AllOk{Outcome::Ok});
        Batch batch = blocks(1, 4, 200'000);
        batch.items[2].length = 4000;  // present: its bytes are dropped, its sum with them
        batch.bytes[2].resize(4000);
        auto sums = sums_of(batch);
        sums[1] ^= 1;
        const auto id = ask_unsummed(client, batch);
        REQUIRE(pool.until([&] { return pool.stat("messages_Put") == 2; }));
        CHECK(pool.stat("blocks") == 1);  // nothing counts before its sum is there
        CHECK(client.answers.count(id) == 0);
        client.add(id, wire::Sums{sums});
        CHECK(pool.outcomes(client, id) ==
              AllOk{Outcome::Ok, Outcome::Refused, Outcome::Present, Outcome::Ok});
        CHECK(pool.stat("put_changed") == 1);
        const auto got = ask_get(client, digests_of(1, 1), 200'000, true);
        REQUIRE(pool.outcomes(client, got) == AllOk{Outcome::Ok});
        CHECK(same(pool.answer(client, got).payload, batch.bytes[0]));
    });
}

TEST_CASE("a put whose sums do not come, or are not its own, is refused, and the lane lives") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.join();
        Batch batch = blocks(1, 3, 50'000);
        const auto sums = sums_of(batch);
        const AllOk refused(3, Outcome::Refused);

        const auto overtaken = ask_unsummed(client, batch);
        const auto stats = client.ask(wire::StatsRequest{});
        CHECK(pool.outcomes(client, overtaken) == refused);
        (void)pool.expect<wire::Stats>(client, stats);
        client.add(overtaken, wire::Sums{sums});  // too late: of nothing

        const auto by_a_put = ask_unsummed(client, batch);
        const Batch small = blocks(7, 1, 100);
        const auto next = client.ask(small.put(), small.gather());
        CHECK(pool.outcomes(client, by_a_put) == refused);
        CHECK(pool.outcomes(client, next) == AllOk{Outcome::Ok});

        const auto other = ask_unsummed(client, batch);
        client.add(other + 1000, wire::Sums{sums});
        CHECK(pool.outcomes(client, other) == refused);
        const auto few = ask_unsummed(client, batch);
        client.add(few, wire::Sums{std::span(sums).first(2)});
        CHECK(pool.outcomes(client, few) == refused);
        CHECK(pool.stat("writing_bytes") == 0);
        CHECK(pool.stat("blocks") == 1);

        const auto dies = ask_unsummed(client, batch);
        (void)dies;
        REQUIRE(pool.until([&] { return pool.stat("writing_bytes") > 0 && pool.stat("messages_Put") == 6; }));
        client.leave();
        REQUIRE(pool.until([&] { return pool.peers.empty(); }));
        CHECK(pool.stat("writing_bytes") == 0);
        CHECK(put(pool, pool.join(), batch) == AllOk(3, Outcome::Ok));
    });
}

TEST_CASE("a client that dies in the middle of a put's payload leaves no trace") {
    on_both([](Over over) {
        TestPool pool(over, {.capacity_bytes = 64 * MiB});
        Client& client = pool.join();
        Client& other = pool.join();
        client.reads = false;  // it sends what the socket takes, and no more
        const Batch batch = blocks(1, 30, 1 * MiB);
        (void)client.ask(batch.put(), batch.gather());
        REQUIRE(client.lane->wants_write());
        REQUIRE(pool.until([&] { return pool.stat("writing_bytes") > 0; }));
        client.leave();
        REQUIRE(pool.until([&] { return pool.peers.size() == 1; }));
        CHECK(pool.stat("writing_bytes") == 0);
        CHECK(pool.stat("blocks") == 0);
        CHECK(pool.stat("block_bytes") == 0);
        CHECK(put(pool, other, blocks(1, 56, 1 * MiB)) == AllOk(56, Outcome::Ok));
    });
}

TEST_CASE("a get whose answer would be too long says Later, one without room says the length") {
    TestPool pool(Over::Shm, {.capacity_bytes = 160 * MiB, .segment_bytes = 32 * MiB});
    Client& client = pool.join();
    for (std::uint64_t first = 1; first < 10; first += 3)
        REQUIRE(put(pool, client, blocks(first, 3, 15 * MiB)) == AllOk(3, Outcome::Ok));
    const auto id = ask_get(client, digests_of(1, 9), 15 * MiB);
    const auto got = pool.expect<wire::Outcomes>(client, id);
    for (std::size_t at = 0; at < 9; ++at) CHECK(got.outcomes[at] == (at < 4 ? Outcome::Ok : Outcome::Later));
    CHECK(pool.answer(client, id).payload.size() == 60 * MiB);
    const auto small = ask_get(client, digests_of(1, 1), 15 * MiB - 1);
    CHECK(pool.outcomes(client, small) == AllOk{Outcome::TooSmall});
    CHECK(pool.expect<wire::Outcomes>(client, small).lengths[0] == 15 * MiB);
}

TEST_CASE("a get of some bytes of a block brings these, and none beyond its end") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.join();
        const Batch batch = blocks(1, 1, 1000);
        REQUIRE(put(pool, client, batch) == AllOk{Outcome::Ok});
        const std::vector<model::ByteRange> ranges{{0, 1},    {999, 1},  {200, 300},
                                                   {},        {0, 1000}, {0, 1001},
                                                   {1000, 1}, {500, 0},  {UINT32_MAX, UINT32_MAX}};
        const std::vector<model::Digest> digests(ranges.size(), digest_of(1));
        for (const bool verify : {false, true}) {
            std::vector<std::uint32_t> rooms(ranges.size(), 1000);
            rooms[4] = 999;
            const auto id = client.ask(wire::Get{1, digests, rooms, verify, ranges});
            const auto got = pool.expect<wire::Outcomes>(client, id);
            std::vector<std::byte> expected;
            for (std::size_t at = 0; at < 4; ++at) {
                const auto range = ranges[at].within(1000).value();
                const auto part = Bytes(batch.bytes[0]).subspan(range.offset, range.length);
                expected.insert(expected.end(), part.begin(), part.end());
                CHECK(got.outcomes[at] == Outcome::Ok);
                CHECK(got.lengths[at] == range.length);
                if (verify || at == 3) CHECK(got.checksums[at] == model::checksum(part));
            }
            CHECK(got.outcomes[4] == Outcome::TooSmall);
            for (std::size_t at = 5; at < ranges.size(); ++at) {
                CHECK(got.outcomes[at] == Outcome::Outside);
                CHECK(got.lengths[at] == 1000);
            }
            CHECK(std::ranges::equal(pool.answer(client, id).payload, expected));
        }
        CHECK(pool.server->check_invariants().empty());
    });
}

TEST_CASE("4096 blocks go in one batch, there and back") {
    on_both([](Over over) {
        TestPool pool(over, {.capacity_bytes = 32 * MiB});
        Client& client = pool.join();
        const Batch batch = blocks(1, model::kBatchMax, 300);
        CHECK(put(pool, client, batch) == AllOk(model::kBatchMax, Outcome::Ok));
        const auto id = ask_get(client, digests_of(1, model::kBatchMax), 300);
        CHECK(pool.outcomes(client, id) == AllOk(model::kBatchMax, Outcome::Ok));
        Bytes left = pool.answer(client, id).payload;
        for (const auto& bytes : batch.bytes) {
            REQUIRE(same(left.first(300), bytes));
            left = left.subspan(300);
        }
        CHECK(exists(pool, client, digests_of(1, model::kBatchMax)) == AllOk(model::kBatchMax, Outcome::Ok));
        const auto all = digests_of(1, model::kBatchMax);
        CHECK(pool.outcomes(client, client.ask(wire::Remove{1, all})) ==
              AllOk(model::kBatchMax, Outcome::Ok));
        CHECK(pool.stat("blocks") == 0);
    });
}

TEST_CASE("listing goes from cursor to cursor until all blocks are named") {
    TestPool pool(Over::Tcp);
    Client& client = pool.join();
    REQUIRE(put(pool, client, blocks(1, 100, 10)) == AllOk(100, Outcome::Ok));
    std::size_t named = 0;
    std::uint64_t cursor = 0;
    do {
        const auto listed = pool.expect<wire::Listed>(client, client.ask(wire::List{1, cursor, 33}));
        named += listed.blocks.size();
        cursor = listed.next_cursor;
    } while (cursor != 0);
    CHECK(named == 100);
}

// ---- leases ----

TEST_CASE("a lease holds its blocks against eviction until it expires, is released, or its client goes") {
    TestPool pool(Over::Tcp, {.capacity_bytes = 4 * MiB});
    Client& client = pool.join();
    Client& other = pool.join();
    REQUIRE(put(pool, client, blocks(1, 2, 200 * KiB)) == AllOk(2, Outcome::Ok));
    auto chain = digests_of(1, 2);
    chain.push_back(digest_of(99));
    chain.push_back(digest_of(1));
    const auto lease = match(pool, client, chain, 1000);
    CHECK(lease.blocks == 2);
    CHECK(lease.lease_ms == 1000);
    REQUIRE(lease.lease_id != 0);
    std::uint64_t number = 100;
    const auto flood = [&] {
        for (int round = 0; round < 4; ++round, number += 10)
            REQUIRE(put(pool, other, blocks(number, 10, 300 * KiB)) == AllOk(10, Outcome::Ok));
    };
    flood();
    CHECK(exists(pool, other, digests_of(1, 2)) == AllOk(2, Outcome::Ok));
    // Another client's release of it changes nothing.
    const std::vector<std::uint64_t> ids{lease.lease_id, 12345};
    (void)other.ask(wire::Release{ids});
    flood();
    CHECK(pool.stat("leases") == 1);
    CHECK(exists(pool, other, digests_of(1, 2)) == AllOk(2, Outcome::Ok));
    pool.tick(std::chrono::milliseconds(999));
    CHECK(pool.stat("leases") == 1);

    SUBCASE("expired") {
        pool.tick(std::chrono::milliseconds(1));
        CHECK(pool.stat("leases_expired") == 1);
    }
    SUBCASE("released") {
        (void)client.ask(wire::Release{ids});
        REQUIRE(pool.until([&] { return pool.stat("leases") == 0; }));
    }
    SUBCASE("gone") {
        client.leave();
        REQUIRE(pool.until([&] { return pool.peers.size() == 1; }));
    }
    CHECK(pool.stat("leases") == 0);
    CHECK(pool.stat("leased_bytes") == 0);
    flood();
    CHECK(exists(pool, other, digests_of(1, 2)) == AllOk(2, Outcome::Miss));
}

// Whoever reads one-sided may be a little late, and nobody can ask it to hurry.
TEST_CASE("a lease on blocks that are read one-sided cools when it runs out, up to a share of the pool") {
    TestPool pool(Over::Tcp, {.capacity_bytes = 8 * MiB});
    Client& client = pool.join();
    REQUIRE(put(pool, client, blocks(1, 6, 200 * KiB)) == AllOk(6, Outcome::Ok));
    const auto lease = [&](const std::vector<model::Digest>& chain) {
        return pool
            .expect<wire::Matched>(
                client,
                client.ask(wire::Match{.namespace_id = 1, .chain = chain, .lease_ms = 100, .places = true}))
            .lease_id;
    };
    CHECK(lease(digests_of(1, 2)) != 0);
    CHECK(lease(digests_of(3, 3)) != 0);  // together more than 512 KiB
    pool.tick(std::chrono::milliseconds(100));
    CHECK(pool.stat("leases_expired") == 2);
    CHECK(pool.stat("leases") == 1);
    const auto cooling = pool.stat("cooling_bytes");
    CHECK(cooling > 0);
    CHECK(cooling <= 512 * KiB);
    pool.tick(std::chrono::milliseconds(199));
    CHECK(pool.stat("leases") == 1);
    pool.tick(std::chrono::milliseconds(1));
    CHECK(pool.stat("leases") == 0);
    CHECK(pool.stat("cooling_bytes") == 0);
    CHECK(pool.stat("leases_expired") == 2);
}

TEST_CASE("leases are cut to the longest and to a client's share; a match beyond it is still a match") {
    TestPool pool(Over::Tcp, {.capacity_bytes = 8 * MiB});
    Client& client = pool.join();
    REQUIRE(put(pool, client, blocks(1, 20, 100 * KiB)) == AllOk(20, Outcome::Ok));
    const auto long_one = match(pool, client, digests_of(1, 15), UINT32_MAX);
    CHECK(std::chrono::milliseconds(long_one.lease_ms) == kLeaseMax);
    const auto beyond = match(pool, client, digests_of(1, 15), 1000);  // 3 MiB of 2 MiB
    CHECK(beyond.blocks == 15);
    CHECK(beyond.lease_id == 0);
    CHECK(pool.stat("leases_refused") == 1);
    CHECK(match(pool, pool.join(), digests_of(1, 15), 1000).lease_id != 0);  // another client's share
    const std::vector<std::uint64_t> ids{long_one.lease_id};
    (void)client.ask(wire::Release{ids});
    CHECK(match(pool, client, digests_of(1, 15), 1000).lease_id != 0);
    CHECK(match(pool, client, digests_of(500, 1), 1000).lease_id == 0);  // of nothing there is no lease
}
