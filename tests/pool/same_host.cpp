// The server and clients on its own host: mapped memory, and puts that it pulls out of theirs.
#include "batch.h"
#include "server_impl.h"

#include <cmpool/testing/process_window.h>

using namespace cmpool;
using namespace cmpool::pool;
using namespace cmpool::testing;
using wire::Outcome;

namespace {

std::unique_ptr<transport::RemoteSegment> import(TestPool& pool, Client& client, const wire::Grant& grant) {
    static std::uint64_t cookie = 1'000'000'000;
    REQUIRE(client.lane->import({grant.descriptor}, {grant.token}, ++cookie));
    REQUIRE(pool.until([&] { return client.completed.contains(cookie); }));
    REQUIRE_FALSE(client.completed.at(cookie).error);
    return client.lane->imported(cookie);
}

}  // namespace

TEST_CASE("pool memory is not exposed over tcp") {
    TestPool pool(Over::Tcp);
    Client& client = pool.join();
    CHECK(pool.refused(client, client.ask(wire::Attach{1, 0})) == Errc::Unsupported);
}

TEST_CASE("a client on the same host finds, pins and reads a block in mapped memory") {
    TestPool pool(Over::Shm, {.capacity_bytes = 4 * MiB});
    Client& client = pool.join();
    REQUIRE(put(pool, client, blocks(1, 20, 3000)) == AllOk(20, Outcome::Ok));
    const auto attached = pool.expect<wire::Attached>(client, client.ask(wire::Attach{1, 0}));
    REQUIRE_FALSE(attached.segments.empty());
    const auto index = import(pool, client, attached.index);
    const auto data = import(pool, client, attached.segments[0]);
    const auto control = import(pool, client, attached.control);
    CHECK(index->access() == transport::Access::Read);
    CHECK(data->access() == transport::Access::Read);
    const auto* buckets = reinterpret_cast<const model::Bucket*>(index->map()->data());
    const Bytes memory = *data->map();
    auto& page = *reinterpret_cast<model::ControlPage*>(control->map()->data());
    for (std::uint64_t number = 1; number <= 20; ++number) {
        const auto found = model::find_slot(buckets, attached.bucket_bits, digest_of(number).prefix());
        REQUIRE(found);
        const auto at = found->at.offset_units * model::kUnitBytes;
        REQUIRE(at + 64 + 3000 <= attached.segment_bytes);
        const auto& header = *reinterpret_cast<const model::BlockHeader*>(memory.data() + at);
        CHECK(header.digest == digest_of(number));
        CHECK(model::header_valid(header));
        CHECK(same(memory.subspan(at + 64, 3000), bytes_of(number, 3000)));
    }
    CHECK_FALSE(model::find_slot(buckets, attached.bucket_bits, digest_of(99).prefix()));

    // What it pins stays, whatever others put, and even when its lane is gone.
    const auto pinned = model::find_slot(buckets, attached.bucket_bits, digest_of(7).prefix());
    page.pins[0] = model::pin_word(pinned->at);
    page.pins_end = 1;
    Client& other = pool.join();
    const auto seen = memory.subspan(pinned->at.offset_units * model::kUnitBytes + 64, 3000);
    for (std::uint64_t number = 100; number < 200; number += 10)
        REQUIRE(put(pool, other, blocks(number, 10, 100 * KiB)) == AllOk(10, Outcome::Ok));
    CHECK(exists(pool, other, digests_of(6, 3)) == AllOk{Outcome::Miss, Outcome::Ok, Outcome::Miss});
    client.leave();
    REQUIRE(pool.until([&] { return pool.peers.size() == 1; }));
    CHECK(pool.stat("client_pages") == 1);
    for (std::uint64_t number = 200; number < 300; number += 10)
        REQUIRE(put(pool, other, blocks(number, 10, 100 * KiB)) == AllOk(10, Outcome::Ok));
    CHECK(same(seen, bytes_of(7, 3000)));
    pool.processes.end_all();
    pool.tick();
    CHECK(pool.stat("client_pages") == 0);
    for (std::uint64_t number = 300; number < 400; number += 10)
        REQUIRE(put(pool, other, blocks(number, 10, 100 * KiB)) == AllOk(10, Outcome::Ok));
    CHECK(exists(pool, other, digests_of(7, 1)) == AllOk{Outcome::Miss});
}

TEST_CASE("a second Attach grants only the segments that came since, and the same page") {
    TestPool pool(Over::Shm, {.capacity_bytes = 4 * MiB});
    Client& client = pool.join();
    REQUIRE(put(pool, client, blocks(1, 1, 100)) == AllOk{Outcome::Ok});
    CHECK(pool.expect<wire::Attached>(client, client.ask(wire::Attach{1, 0})).segments.size() == 1);
    REQUIRE(put(pool, client, blocks(2, 4, 600 * KiB)) == AllOk(4, Outcome::Ok));
    const auto again = pool.expect<wire::Attached>(client, client.ask(wire::Attach{1, 1}));
    CHECK(again.segments.size() == 3);
    CHECK(again.segments[0].index == 1);
    CHECK(pool.expect<wire::Attached>(client, client.ask(wire::Attach{1, UINT32_MAX})).segments.empty());
    CHECK(pool.stat("client_pages") == 1);
}

namespace {

/// Blocks that lie in one window of the client's memory.
struct Pulled {
    Pulled(TestPool& pool, std::uint64_t first, std::uint64_t count, std::uint32_t length)
        : batch(blocks(first, count, length)) {
        for (std::size_t at = 0; at < count; ++at) {
            batch.items[at].window_offset = memory.size();
            memory.insert(memory.end(), batch.bytes[at].begin(), batch.bytes[at].end());
        }
        auto registered = pool.fabric->register_memory(memory, transport::Access::Read);
        REQUIRE(registered);
        window = std::move(*registered);
    }
    [[nodiscard]] wire::Put put() const {
        auto ask = batch.put();
        ask.window.push_back({.bytes = memory.size(),
                              .token = window->token().value,
                              .descriptor = window->descriptor().bytes});
        return ask;
    }
    Batch batch;
    std::vector<std::byte> memory;
    std::unique_ptr<transport::Segment> window;
};

}  // namespace

TEST_CASE("a put on the same host is read from the client's own memory") {
    if (!reads_processes()) return;
    TestPool pool(Over::Shm);
    Client& client = pool.join();
    const Pulled pulled(pool, 1, 20, 3000);
    REQUIRE(put(pool, client, blocks(5, 1, 3000)) == AllOk{Outcome::Ok});
    AllOk expected(20, Outcome::Ok);
    expected[4] = Outcome::Present;
    CHECK(pool.outcomes(client, client.ask(pulled.put())) == expected);
    const auto id = ask_get(client, digests_of(1, 20), 3000, true);
    CHECK(pool.outcomes(client, id) == AllOk(20, Outcome::Ok));
    CHECK(same(pool.answer(client, id).payload, pulled.memory));
}

TEST_CASE("a window that cannot be read gives NoPull, and the space comes back") {
    TestPool pool(Over::Shm);
    Client& client = pool.join();
    Pulled pulled(pool, 1, 3, 3000);
    SUBCASE("an offset beyond the window") { pulled.batch.items[1].window_offset = 1 * GiB; }
    SUBCASE("an offset that wraps around") { pulled.batch.items[2].window_offset = UINT64_MAX - 10; }
    CHECK(std::ranges::count(pool.outcomes(client, client.ask(pulled.put())), Outcome::NoPull) == 3);
    CHECK(pool.stat("blocks") == 0);
    CHECK(put(pool, client, blocks(1, 3, 3000)) == AllOk(3, Outcome::Ok));
    const Pulled more(pool, 4, 3, 3000);
    auto garbage = more.put();
    garbage.window[0].descriptor.resize(3);
    CHECK(pool.refused(client, client.ask(garbage)) == Errc::Invalid);
    CHECK(put(pool, client, blocks(9, 1, 3000)) == AllOk{Outcome::Ok});
}

TEST_CASE("a put cannot be pulled over tcp") {
    TestPool pool(Over::Tcp), donor(Over::Shm);
    Client& client = pool.join();
    const Pulled pulled(donor, 1, 3, 3000);
    CHECK(pool.refused(client, client.ask(pulled.put())) == Errc::Unsupported);
}

// The first of two large pulled puts took all slots of the lane; the second found none, had no
// completion of its own to wait for, and was never answered.
TEST_CASE("pulled puts that together need more reads than the lane has slots are all answered") {
    if (!reads_processes()) return;
    TestPool pool(Over::Shm, {.capacity_bytes = 128 * MiB});
    Client& client = pool.join();
    std::vector<std::unique_ptr<Pulled>> all;
    std::vector<std::uint64_t> ids;
    for (std::uint64_t at = 0; at < 4; ++at) {
        all.push_back(std::make_unique<Pulled>(pool, 1 + at * model::kBatchMax, model::kBatchMax, 200));
        ids.push_back(client.ask(all.back()->put()));
    }
    for (std::size_t at = 0; at < 4; ++at) {
        CHECK(pool.outcomes(client, ids[at]) == AllOk(model::kBatchMax, Outcome::Ok));
        const auto id = ask_get(client, digests_of(1 + at * model::kBatchMax, model::kBatchMax), 200);
        CHECK(pool.outcomes(client, id) == AllOk(model::kBatchMax, Outcome::Ok));
        CHECK(same(pool.answer(client, id).payload, all[at]->memory));
    }
}

TEST_CASE("a small pulled put does not overtake the large one that its block hangs on") {
    if (!reads_processes()) return;
    TestPool pool(Over::Shm, {.capacity_bytes = 16 * MiB});
    Client& client = pool.join();
    Pulled large(pool, 1, 1, 3 * kPullBytes);
    Pulled small(pool, 2, 1, 100);
    small.batch.items.front().parent = digest_of(1);
    small.batch.items.front().position = 2;
    const auto first = client.ask(large.put());
    const auto second = client.ask(small.put());
    CHECK(pool.outcomes(client, first) == AllOk{Outcome::Ok});
    CHECK(pool.outcomes(client, second) == AllOk{Outcome::Ok});
}

TEST_CASE("more pulled puts than may wait at once are answered with Again") {
    if (!reads_processes()) return;
    TestPool pool(Over::Shm);
    Client& client = pool.join();
    std::vector<std::unique_ptr<Pulled>> all;
    std::vector<std::uint64_t> ids;
    for (std::uint64_t at = 0; at < kPutsPerPeerMax + 5; ++at) {
        all.push_back(std::make_unique<Pulled>(pool, 1 + at, 1, 200));
        ids.push_back(client.ask(all.back()->put()));
    }
    for (std::size_t at = 0; at < ids.size(); ++at) {
        if (at < kPutsPerPeerMax) {
            CHECK(pool.outcomes(client, ids[at]) == AllOk{Outcome::Ok});
        } else {
            CHECK(pool.refused(client, ids[at]) == Errc::Again);
        }
    }
}
