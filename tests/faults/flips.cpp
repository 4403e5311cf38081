// Memory that forgets: bits of a pool's segments flip under its feet.
#include "faults.h"

#include <cmpool/testing/segments.h>

using namespace cmpool;
using namespace std::chrono_literals;
using client::Outcome;
using testing::Daemon;
using testing::SegmentsOf;

namespace {

constexpr std::size_t kBlocks = 240;
constexpr std::size_t kBytes = 60'000;

struct Stored {
    explicit Stored(client::PoolClient& pool) : keys(testing::chain_of(pool, kBlocks)) {
        for (std::size_t at = 0; at < kBlocks; ++at) {
            const auto bytes = testing::pattern(kBytes, at);
            const Bytes piece(bytes);
            const client::PutItem item{.key = keys[at],
                                       .from = {&piece, 1},
                                       .parent = at == 0 ? model::kNoParent : keys[at - 1],
                                       .position = static_cast<std::uint32_t>(at),
                                       .group = testing::group_of(pool, keys, at)};
            REQUIRE(pool.put({&item, 1}).count(Outcome::Stored) == 1);
        }
    }
    struct Seen {
        std::size_t hits = 0, misses = 0, wrong = 0;
    };
    /// Every block, its checksum compared first.
    Seen read(client::PoolClient& pool) const {
        Seen seen;
        std::vector<std::byte> into(kBytes);
        for (std::size_t at = 0; at < kBlocks; ++at) {
            const MutableBytes room(into);
            const client::GetItem item{keys[at], {&room, 1}, testing::group_of(pool, keys, at)};
            const auto block = pool.get({&item, 1}, {.deadline = 5s, .verify = true}).blocks.front();
            if (block.outcome != Outcome::Hit) {
                ++seen.misses;
            } else if (block.bytes == kBytes && into == testing::pattern(kBytes, at)) {
                ++seen.hits;
            } else {
                ++seen.wrong;
            }
        }
        return seen;
    }
    std::vector<client::Digest> keys;
};

/// A pool with as many of them as it has room for.
struct Filled {
    Filled(const std::string& capacity, const std::string& transport)
        : daemon({"--capacity", capacity, "--shards", "1"}),
          pool(testing::open_pool(daemon.uri(fmt::format("?transport={}&deadline_ms=5000", transport)))),
          stored(*pool) {}
    Daemon daemon;
    std::unique_ptr<client::PoolClient> pool;
    Stored stored;
};

}  // namespace

TEST_CASE(
    "a flipped bit of a block is a miss for who compares its checksum, is counted, and spoils no other "
    "block") {
    for (const std::string transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Filled filled("32M", transport);
        auto& [daemon, pool, stored] = filled;
        const SegmentsOf data(daemon.process().pid(), "-data");
        REQUIRE(data.all().size() == 8);
        Rng rng(11);
        for (int flips = 0; flips < 40; ++flips) data.flip(rng);
        const auto seen = stored.read(*pool);
        CHECK(seen.wrong == 0);
        CHECK(seen.misses > 0);
        CHECK(seen.misses <= 40);
        // Nobody need ask for a block: the scrubber finds what is left, headers included.
        CHECK(
            testing::comes_true([&] { return testing::statistic(*pool, "corrupt_blocks") >= seen.misses; }));
        CHECK(testing::statistic(*pool, "corrupt_blocks") <= 40);
        CHECK(testing::round_trip(*pool, 1) == "");
        MESSAGE(transport << ": 40 bits, " << seen.misses << " misses, "
                          << testing::statistic(*pool, "corrupt_blocks") << " found");
        CHECK(daemon.stop());
    }
}

TEST_CASE("flipped bits that nobody reads are found by the scrubber, and are misses from then on") {
    Filled filled("16M", "shm");
    auto& [daemon, pool, stored] = filled;
    const SegmentsOf data(daemon.process().pid(), "-data");
    for (const auto segment : data.all()) segment[segment.size() / 2] ^= std::byte{0x10};
    CHECK(testing::comes_true(
        [&] { return testing::statistic(*pool, "corrupt_blocks") >= data.all().size() - 1; }));
    const auto seen = stored.read(*pool);
    CHECK(seen.wrong == 0);
    CHECK(seen.misses >= data.all().size() - 1);
    CHECK(daemon.stop());
}

TEST_CASE("flipped bits of the index make misses at most, and the pool lives on") {
    for (const std::string transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Filled filled("32M", transport);
        auto& [daemon, pool, stored] = filled;
        const SegmentsOf index(daemon.process().pid(), "-index");
        REQUIRE(index.all().size() == 1);
        Rng rng(12);
        for (int flips = 0; flips < 4000; ++flips) index.flip(rng);
        const auto seen = stored.read(*pool);
        CHECK(seen.wrong == 0);
        CHECK(seen.misses > 0);
        // What nobody finds is no memory for nothing: the scrubber gives it back, and counts it.
        CHECK(
            testing::comes_true([&] { return testing::statistic(*pool, "corrupt_blocks") >= seen.misses; }));
        CHECK(testing::statistic(*pool, "blocks") <= kBlocks - seen.misses);
        // New ones lie where the flipped ones lay, and are evicted, and looked for again.
        for (std::uint64_t number = 0; number < 600; ++number)
            CHECK(testing::round_trip(*pool, number, 100'000) != "get: wrong bytes");
        CHECK(stored.read(*pool).wrong == 0);
        CHECK(daemon.process().wait(0ms) == std::nullopt);
        MESSAGE(transport << ": 4000 bits of the index, " << seen.misses << " misses");
        CHECK(daemon.stop());
    }
}
