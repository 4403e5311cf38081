// cmpool.hpp: the same promises in C++, with values that own themselves.
#include <algorithm>
#include <numeric>

#include <cmpool/testing/daemon.h>

#include <cmpool.hpp>
#include <doctest/doctest.h>
#include <poll.h>

using cmpool::Get;
using cmpool::Outcome;
using cmpool::Put;
using cmpool::testing::Daemon;

namespace {

using Block = std::vector<std::byte>;

struct Fixture {
    Daemon daemon;
    cmpool::Expected<cmpool::Pool> opened = cmpool::Pool::open(
        daemon.uri("?deadline_ms=20000&transport=shm"), {.model = "test", .dtype = "u8", .block_tokens = 2});
    cmpool::Pool& pool = *opened;
    std::vector<cmpool::Digest> keys = *pool.chain(std::vector<std::uint32_t>{1, 2, 3, 4, 5, 6, 7});
    std::vector<Block> blocks{Block(5000, std::byte{1}), Block(70, std::byte{2}), Block(9, std::byte{3})};

    [[nodiscard]] std::vector<Put> puts() const {
        std::vector<Put> all;
        for (std::size_t at = 0; at < keys.size(); ++at)
            all.push_back({.key = keys[at],
                           .from = blocks[at],
                           .parent = at > 0 ? keys[at - 1] : cmpool::Digest{},
                           .group = pool.group(keys, at),
                           .position = static_cast<std::uint32_t>(at)});
        return all;
    }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "C++: put, match, get, view, remove") {
    REQUIRE(keys.size() == 3);
    CHECK(pool.put(puts()).count(Outcome::Stored) == 3);
    auto lease = pool.match(keys);
    CHECK(lease.blocks() == 3);
    CHECK(lease.held());
    CHECK_FALSE(lease.trouble());
    const auto view = lease.view(0);
    REQUIRE(view);
    CHECK(std::ranges::equal(*view, blocks[0]));
    CHECK(lease.view(3).error().code == cmpool::Code::Invalid);

    Block first(5000), rest(2);
    const cmpool_span pieces[]{{rest.data(), 1}, {rest.data() + 1, 1}};
    const Get gets[]{
        {.key = keys[0], .into = first, .group = pool.group(keys, 0)},
        {.key = keys[2], .group = pool.group(keys, 2), .offset = 1, .length = 2, .pieces = pieces}};
    const auto got = pool.get(gets, {.verify = true});
    CHECK(got.count(Outcome::Hit) == 2);
    CHECK_FALSE(got.trouble);
    CHECK(first == blocks[0]);
    CHECK(rest == Block(2, std::byte{3}));

    lease.release();
    CHECK(lease.blocks() == 0);
    CHECK(pool.remove(std::span(keys).first(1)).count(Outcome::Hit) == 1);
    CHECK(pool.exists(keys).count(Outcome::Hit) == 2);
    CHECK(pool.match(keys).blocks() == 0);
    const auto own = pool.key("something of our own");
    REQUIRE(own);
    CHECK(pool.exists({&*own, 1}).count(Outcome::Miss) == 1);
    CHECK(pool.status().first.ready != 0);
    CHECK(pool.stats()->size() > 10);
}

TEST_CASE_FIXTURE(Fixture, "C++: started calls end by an event loop, by waiting, or by being forgotten") {
    auto put = pool.start_put(puts());
    REQUIRE(put);
    const auto fd = pool.event_fd();
    REQUIRE(fd);
    while (!put->done()) {
        pollfd waiting{.fd = *fd, .events = POLLIN, .revents = 0};
        REQUIRE(::poll(&waiting, 1, 20'000) == 1);
        pool.progress();
    }
    CHECK(put->report().count(Outcome::Stored) == 3);
    auto match = pool.start_match(keys);
    REQUIRE(match);
    CHECK(match->report().trouble->code == cmpool::Code::Invalid);  // it is not of this kind, and stays
    const auto lease = match->lease();
    CHECK(lease.blocks() == 3);
    {
        Block room(5000);
        const Get get{.key = keys[0], .into = room, .group = pool.group(keys, 0)};
        const auto forgotten = pool.start_get({&get, 1});
        CHECK(forgotten);
    }
    Block page(5000);
    const auto memory = pool.register_memory(page);
    REQUIRE(memory);
    const Get get{.key = keys[0], .into = page, .group = pool.group(keys, 0)};
    CHECK(pool.start_get({&get, 1})->report().count(Outcome::Hit) == 1);
    CHECK(page == blocks[0]);
}

TEST_CASE("C++: what fails says so in a value") {
    const auto wrong = cmpool::Pool::open("nonsense", {.model = "test", .dtype = "u8"});
    REQUIRE_FALSE(wrong);
    CHECK(wrong.error().code == cmpool::Code::Invalid);
    CHECK_FALSE(wrong.error().text.empty());
    const auto absent =
        cmpool::Pool::open("cmpool://127.0.0.1:1?deadline_ms=50", {.model = "test", .dtype = "u8"});
    REQUIRE(absent);
    CHECK(absent->status().second->code == cmpool::Code::PeerDown);
    const cmpool::Digest key{};
    const auto report = absent->exists({&key, 1});
    CHECK(report.count(Outcome::Miss) == 1);
    CHECK(report.trouble);
    CHECK_FALSE(absent->key("x"));
    CHECK(absent->match({&key, 1}).trouble());
}
