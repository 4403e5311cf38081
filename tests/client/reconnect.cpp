// A pool that is absent, gone or frozen costs one deadline, and is found again on the side.
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

using namespace cmpool;
using namespace std::chrono_literals;
using client::Outcome;
using testing::Daemon;
using testing::get_one;
using testing::pattern;
using testing::put_one;

namespace {

// What a loaded machine may add to a deadline before it was not honoured.
constexpr auto kSlack = 300ms;

template <class Call>
Nanos timed(Call call) {
    const auto begun = std::chrono::steady_clock::now();
    call();
    return std::chrono::steady_clock::now() - begun;
}

}  // namespace

TEST_CASE("after a restart of the pool a client finds it again by itself, and stores what is gone") {
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        const auto pool =
            testing::open_pool(daemon.uri(std::string("?deadline_ms=200&transport=") + transport));
        const auto first_run = pool->status().incarnation;
        const auto keys = testing::chain_of(*pool, 2);
        const auto block = pattern(5000, 1);
        REQUIRE(put_one(*pool, keys[0], block, {.deadline = 20s}) == Outcome::Stored);
        const auto kept = pool->match(std::span(keys).first(1));
        CHECK(kept.blocks() == 1);

        daemon.kill();
        std::vector<std::byte> room(5000);
        CHECK(timed([&] { CHECK(pool->exists(keys).count(Outcome::Hit) == 0); }) < 200ms + kSlack);
        CHECK(pool->exists(keys).trouble);
        CHECK_FALSE(pool->status().ready);
        REQUIRE(pool->status().trouble);
        CHECK(pool->status().trouble->detail.find("the peer closed the lane") != std::string::npos);
        // What was borrowed from shared memory stays readable when its owner is dead.
        if (const auto view = kept.view(0)) CHECK(std::ranges::equal(*view, block));

        daemon.start();
        CHECK(testing::comes_true([&] { return put_one(*pool, keys[0], block) == Outcome::Stored; }));
        CHECK(get_one(*pool, keys[0], room, {.deadline = 20s}).outcome == Outcome::Hit);
        CHECK(room == block);
        CHECK(pool->status().ready);
        CHECK(pool->status().transport == transport);
        CHECK(pool->status().incarnation != first_run);
        // Keys are of the namespace, which outlives the run.
        CHECK(testing::chain_of(*pool, 2) == keys);
        CHECK(daemon.stop());
    }
}

TEST_CASE("a frozen pool costs one deadline, then nothing, and is back when it thaws") {
    Daemon daemon;
    const auto pool = testing::open_pool(daemon.uri("?deadline_ms=200&transport=tcp"));
    const auto keys = testing::chain_of(*pool, 4);
    const auto block = pattern(5000, 1);
    REQUIRE(put_one(*pool, keys[0], block, {.deadline = 20s}) == Outcome::Stored);

    daemon.freeze();
    std::vector<std::byte> room(5000);
    const auto first = timed([&] { CHECK(get_one(*pool, keys[0], room).outcome == Outcome::Miss); });
    CHECK(first >= 200ms);
    CHECK(first < 200ms + kSlack);
    for (int round = 0; round < 50; ++round) {
        CHECK(timed([&] { CHECK(pool->match(keys).blocks() == 0); }) < kSlack);
        CHECK(timed([&] { CHECK(get_one(*pool, keys[0], room).outcome == Outcome::Miss); }) < kSlack);
        CHECK(timed([&] { CHECK(put_one(*pool, keys[1], block) == Outcome::Dropped); }) < kSlack);
    }
    CHECK(pool->match(keys).trouble());

    daemon.thaw();
    CHECK(testing::comes_true([&] { return get_one(*pool, keys[0], room).outcome == Outcome::Hit; }));
    CHECK(room == block);
    CHECK(pool->status().ready);
    CHECK(daemon.stop());
}

// The lane still reads the caller's buffers when the deadline comes: they are given back all the same.
TEST_CASE("a large put to a frozen pool ends by its deadline, and the next one to a thawed pool is whole") {
    Daemon daemon({"--capacity", "256M", "--no-prefault"});
    const auto pool = testing::open_pool(daemon.uri("?deadline_ms=300&transport=tcp"));
    const auto keys = testing::chain_of(*pool, 2);
    auto block = pattern(16 << 20, 1);
    const Bytes whole(block);
    daemon.freeze();
    const client::PutItem item{.key = keys[0], .from = {&whole, 1}};
    CHECK(timed([&] { CHECK(pool->put({&item, 1}).count(Outcome::Dropped) == 1); }) < 300ms + kSlack);
    std::ranges::fill(block, std::byte{0});  // ours again
    daemon.thaw();
    block = pattern(16 << 20, 2);
    CHECK(testing::comes_true(
        [&] { return put_one(*pool, keys[1], block, {.deadline = 5s}) == Outcome::Stored; }));
    std::vector<std::byte> room(block.size());
    CHECK(get_one(*pool, keys[1], room, {.deadline = 20s, .verify = true}).outcome == Outcome::Hit);
    CHECK(room == block);
    CHECK(daemon.stop());
}

TEST_CASE("a pool that was never there is no error, and is used once it comes") {
    Daemon daemon;
    const auto uri = daemon.uri("?deadline_ms=200");
    daemon.kill();
    std::unique_ptr<client::PoolClient> pool;
    CHECK(timed([&] { pool = testing::open_pool(uri); }) < 200ms + kSlack);
    CHECK_FALSE(pool->status().ready);
    CHECK(pool->status().trouble);
    CHECK(pool->chain(std::vector<std::uint32_t>(4)).error().code == Errc::PeerDown);
    const std::vector<client::Digest> keys(1);
    CHECK(timed([&] { CHECK(pool->exists(keys).count(Outcome::Hit) == 0); }) < 200ms + kSlack);
    daemon.start();
    CHECK(testing::comes_true([&] {
        (void)pool->exists(keys);
        return pool->status().ready;
    }));
    CHECK(pool->status().transport == "shm");  // it is on this host
    CHECK(testing::chain_of(*pool, 1).size() == 1);
    CHECK(daemon.stop());
}

namespace {

/// A pool whose client has not mapped all of its memory yet.
struct HalfMapped {
    Daemon daemon;
    std::unique_ptr<client::PoolClient> pool;
    std::vector<client::Digest> keys;  ///< the last ones lie in memory that `pool` does not know

    HalfMapped() {
        pool = testing::open_pool(daemon.uri("?deadline_ms=200&transport=shm"));
        keys = testing::chain_of(*pool, 100);
        const auto block = pattern(60'000, 1);
        REQUIRE(put_one(*pool, keys[0], block, {.deadline = 20s}) == Outcome::Stored);
        std::vector<std::byte> room(block.size());
        REQUIRE(get_one(*pool, keys[0], room, {.deadline = 20s}).outcome == Outcome::Hit);
        const auto other = testing::open_pool(daemon.uri("?deadline_ms=20000&transport=shm"));
        for (const auto& key : keys) (void)put_one(*other, key, block);  // 6 MB: three segments
    }
};

}  // namespace

// Mapped blocks need nobody who answers, but others do: those are not waited for again and again.
TEST_CASE("a frozen pool whose new memory is not mapped yet costs one deadline, then nothing") {
    HalfMapped half;
    half.daemon.freeze();
    std::vector<std::byte> room(60'000);
    const auto get_last = [&] { return get_one(*half.pool, half.keys.back(), room).outcome; };
    CHECK(timed([&] { CHECK(get_last() == Outcome::Miss); }) < 200ms + kSlack);
    CHECK(timed([&] {
              for (int round = 0; round < 20; ++round) CHECK(get_last() == Outcome::Miss);
          }) < 200ms + kSlack);
    CHECK(get_one(*half.pool, half.keys.front(), room).outcome == Outcome::Hit);
    half.daemon.thaw();
    CHECK(testing::comes_true([&] { return get_last() == Outcome::Hit; }));
    CHECK(room == pattern(60'000, 1));
    CHECK(half.daemon.stop());
}

// The pool stops between telling of its new memory and handing it over. Asked again meanwhile, it must
// not hand over twice: what the client has mapped and lent out by then would move.
TEST_CASE("memory that is being handed over is not asked for a second time") {
    HalfMapped half;
    std::vector<std::byte> room(60'000);
    const MutableBytes into(room);
    const client::GetItem last{half.keys.back(), {&into, 1}};
    const auto events = half.pool->event_fd();
    REQUIRE(events);
    const auto heard = [&] {
        pollfd ready{.fd = *events, .events = POLLIN, .revents = 0};
        return ::poll(&ready, 1, 20'000) == 1;
    };
    auto first = half.pool->start_get({&last, 1}, {.deadline = 500ms});
    REQUIRE(heard());  // the grants are here
    half.daemon.freeze();
    half.pool->progress();
    while (!first.done() && heard()) half.pool->progress();
    CHECK(first.take().count(Outcome::Hit) == 0);

    auto again = half.pool->start_get({&last, 1}, {.deadline = 20s});
    half.daemon.thaw();
    while (!again.done() && heard()) half.pool->progress();
    CHECK(testing::comes_true(
        [&] { return get_one(*half.pool, half.keys.back(), room).outcome == Outcome::Hit; }));
    const auto match = half.pool->match(half.keys);
    CHECK(match.blocks() == 100);
    for (int round = 0; round < 100; ++round) half.pool->progress();
    for (std::size_t index = 0; index < match.blocks(); ++index) {
        if (const auto view = match.view(index)) CHECK(std::ranges::equal(*view, pattern(60'000, 1)));
    }
    CHECK(half.daemon.stop());
}
