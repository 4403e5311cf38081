// How a domain makes room: what goes, in which order, and what never does.
#include "test_store.h"

#include <vector>

using namespace cmpool;
using namespace cmpool::testing;

namespace {

struct TreeRun {
    std::uint64_t seed;
    std::uint32_t length_min, length_max;
    unsigned bucket_bits;
};

/// Conversations that grow and branch, each matched (touched from last to first) and then continued, in
/// a store far too small; after every step no block may be there without its parent, inside a group.
void run_tree(const TreeRun& run) {
    CAPTURE(run.seed);
    Rng rng(run.seed);
    const std::uint32_t group_blocks = std::uint32_t{1} << rng.below(5);
    Store one(64 * KiB, 2, run.bucket_bits, group_blocks);
    std::vector<Node> known{{}};  // by number; 0 is nobody
    std::vector<std::vector<std::uint64_t>> chains;
    std::uint64_t stored = 0;
    for (int step = 0; step < 150; ++step) {
        CAPTURE(step);
        std::vector<std::uint64_t> chain;
        if (!chains.empty() && rng.chance(0.8)) {
            chain = chains[rng.below(chains.size())];
            chain.resize(rng.chance(0.5) ? chain.size() : 1 + rng.below(chain.size()));
        }
        for (std::uint64_t more = 1 + rng.below(12); more > 0 && chain.size() < 60; --more) {
            const std::uint64_t parent = chain.empty() ? 0 : chain.back();
            known.push_back({.number = known.size(),
                             .parent = parent,
                             .position = static_cast<std::uint32_t>(chain.size()),
                             .length = static_cast<std::uint32_t>(
                                 run.length_min + rng.below(run.length_max - run.length_min + 1))});
            chain.push_back(known.back().number);
        }
        chains.push_back(chain);

        std::vector<ExtentId> matched;
        for (const std::uint64_t number : chain) {
            if (!one.has(number)) break;
            matched.push_back(one.find(number));
        }
        std::for_each(matched.rbegin(), matched.rend(), [&](ExtentId id) { one.store.touch(id); });
        for (std::size_t at = matched.size(); at < chain.size(); ++at) {
            const Outcome outcome = one.put(known[chain[at]]);
            if (outcome == Outcome::Orphan) break;  // the parent had to make way
            REQUIRE((outcome == Outcome::Ok || outcome == Outcome::Present || outcome == Outcome::Refused));
            stored += outcome == Outcome::Ok ? 1 : 0;
        }
        one.check();
        for (const Node& node : known) {
            if (node.number == 0 || !one.has(node.number)) continue;
            REQUIRE(one.holds_exactly(node));
            CAPTURE(node.number);
            if (!one.spec(node).begins_group) REQUIRE(one.has(node.parent));
        }
    }
    CHECK(stored > 100);
    CHECK(one.store.counts().evicted_blocks > 0);
}

}  // namespace

TEST_CASE("what stays is closed under prefixes inside each group") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) run_tree({seed, 1000, 1000, 8});
}

// Room for a large block is made by clearing neighbours in memory; they lie in the middle of chains.
TEST_CASE("clearing a run in memory takes along what hangs on its blocks") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) run_tree({seed, 1, 20'000, 8});
}

// With 64-bit index buckets that are full long before the memory is, the oldest block of a bucket made
// way: the root of a group rather than its tail.
TEST_CASE("a full bucket takes along what hangs on the block that makes way") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) run_tree({seed, 1, 200, 2});
}

TEST_CASE("a full bucket never takes another namespace's block") {
    Store one(64 * KiB, 1, 0);
    std::uint64_t number = 1;
    BlockSpec theirs = one.spec({.number = number});
    theirs.namespace_id = kSpace + 1;
    for (; number <= 14; ++number) {
        theirs.digest = digest_of(number);
        REQUIRE(one.put(theirs, bytes_of(number, 192)) == Outcome::Ok);
    }
    CHECK(one.put({.number = 99}) == Outcome::Refused);
    CHECK(one.store.counts().evicted_blocks == 0);
    one.check();
    REQUIRE(one.store.remove(digest_of(3), kSpace + 1));
    CHECK(one.put({.number = 99}) == Outcome::Ok);
    CHECK(one.put({.number = 98}) == Outcome::Ok);  // now there is one of ours to go
    CHECK_FALSE(one.has(99));
    one.check();
}

TEST_CASE("a large block fits after many small ones, whatever was held before") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Store one(256 * KiB, 2, 12);
        std::uint64_t number = 1;
        while (one.store.counts().evicted_blocks == 0)
            REQUIRE(one.put({.number = number++,
                             .length = 1 + static_cast<std::uint32_t>(rng.below(2000))}) == Outcome::Ok);
        one.check();
        REQUIRE(one.put({.number = number++, .length = 256 * KiB - 64}) == Outcome::Ok);
        one.check();
        REQUIRE(one.put({.number = number++, .length = 1}) == Outcome::Ok);
        CHECK(one.begin(one.spec({.number = number, .length = 256 * KiB - 63})).refused == Outcome::Refused);
        one.check();
    }
}

// Any run between held blocks that is long enough must be used: nothing else can be.
TEST_CASE("a put never fails while a run that nobody reads is long enough") {
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Store one(256 * KiB, 1, 12);
        std::vector<std::uint64_t> numbers;
        for (std::uint64_t number = 1; one.store.counts().evicted_blocks == 0; ++number) {
            REQUIRE(one.put({.number = number,
                             .length = 1 + static_cast<std::uint32_t>(
                                               rng.below(seed % 2 == 0 ? 300 : 9000))}) == Outcome::Ok);
            numbers.push_back(number);
        }
        std::map<std::uint64_t, std::uint64_t> held;  // offset, units
        for (const std::uint64_t number : numbers) {
            if (!one.has(number) || !rng.chance(0.05)) continue;
            const ExtentId id = one.find(number);
            one.store.hold(id);
            held.emplace(one.store.extent(id).offset_units, one.store.extent(id).units);
        }
        std::uint64_t longest = 0, at = 0;
        for (const auto& [offset, units] : held) {
            longest = std::max(longest, offset - at);
            at = offset + units;
        }
        longest = std::max(longest, 256 * KiB / model::kUnitBytes - at);
        const auto length = [](std::uint64_t units) {
            return static_cast<std::uint32_t>(units * model::kUnitBytes - model::kHeaderBytes);
        };
        CHECK_FALSE(one.make_room(length(longest + 1)));
        one.check();
        REQUIRE(one.put({.number = 1'000'000, .length = length(longest)}) == Outcome::Ok);
        one.check();
    }
}

// The allocator looks at sixteen extents of a class; the one that fits was the seventeenth, and a put
// was refused although memory for it lay free.
TEST_CASE("free memory behind many extents that are a little too short is found") {
    Store one(4 * MiB, 1, 10);
    const auto length = [](std::uint64_t units) {
        return static_cast<std::uint32_t>(units * model::kUnitBytes - model::kHeaderBytes);
    };
    std::uint64_t number = 1;
    const auto keep = [&] {
        REQUIRE(one.put({.number = number, .length = 1}) == Outcome::Ok);
        one.store.hold(one.find(number++));
    };
    REQUIRE(one.put({.number = number++, .length = length(1087)}) == Outcome::Ok);
    keep();
    for (int each = 0; each < 40; ++each) {
        REQUIRE(one.put({.number = number++, .length = length(1024)}) == Outcome::Ok);
        keep();
    }
    const Node rest{.number = number, .length = length(65536 - 1087 - 2 - 40 * 1026)};
    REQUIRE(one.put(rest) == Outcome::Ok);
    one.store.hold(one.find(number));
    REQUIRE(one.store.remove(digest_of(1), kSpace));
    for (std::uint64_t gone = 3; gone < number; gone += 2) REQUIRE(one.store.remove(digest_of(gone), kSpace));
    CHECK(one.put({.number = 1000, .length = length(1087)}) == Outcome::Ok);
    one.check();
}

// Pins that leave no run long enough made a put that had to fail evict everything else first.
TEST_CASE("a put that cannot fit does not empty the pool") {
    Store one(256 * KiB, 4, 12);
    std::uint64_t number = 1;
    for (; one.store.counts().evicted_blocks == 0; ++number) {
        REQUIRE(one.put({.number = number, .length = 960}) == Outcome::Ok);
        if (number % 16 == 0) one.store.hold(one.find(number));
    }
    const std::uint64_t before = one.store.counts().live_blocks;
    CHECK_FALSE(one.make_room(128 * KiB));
    CHECK(one.store.counts().live_blocks > before / 2);
    one.check();
}
