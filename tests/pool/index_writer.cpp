// The index against a hash map, in tables so small that buckets fill and spill.
#include "index_writer.h"

#include <cstring>
#include <unordered_map>

#include <cmpool/base/rng.h>

using namespace cmpool;
using namespace cmpool::pool;

namespace {

/// A table in aligned heap memory, and its writer.
struct Table {
    explicit Table(unsigned bucket_bits)
        : bits(bucket_bits), buckets((std::size_t{1} << bucket_bits) + 1), writer(bytes(), bits, 0x1234) {}
    [[nodiscard]] MutableBytes bytes() { return std::as_writable_bytes(std::span(buckets)); }
    /// What a client sees, which has the raw table only.
    [[nodiscard]] auto seen(std::uint64_t prefix) const {
        return model::find_slot(buckets.data(), bits, prefix);
    }

    unsigned bits;
    std::vector<model::Bucket> buckets;
    IndexWriter writer;
};

model::Location location_of(ExtentId extent) { return {extent * 7ull + 1, extent % 100 + 1, extent * 3 + 1}; }

}  // namespace

TEST_CASE("the raw table shows every entry that is there and none that is not") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Table table(static_cast<unsigned>(seed % 5));
        std::unordered_map<std::uint64_t, ExtentId> model;
        std::vector<std::uint64_t> erased;
        ExtentId next = 0;
        bool filled = false;
        for (int step = 0; step < 2000; ++step) {
            CAPTURE(step);
            if (model.empty() || rng.chance(step % 400 < 200 ? 0.7 : 0.35)) {
                const std::uint64_t prefix = rng.next();
                const ExtentId extent = next++;
                const bool room = table.writer.neighbours(prefix).size() < 2 * model::kSlotsPerBucket;
                REQUIRE(table.writer.insert(prefix, location_of(extent), extent) == room);
                filled |= !room;
                if (room) model.emplace(prefix, extent);
                if (!room) erased.push_back(prefix);
            } else {
                const auto gone = std::next(model.begin(), static_cast<long>(rng.below(model.size())));
                table.writer.erase(gone->first, gone->second);
                erased.push_back(gone->first);
                model.erase(gone);
            }
            REQUIRE(table.writer.entries() == model.size());
            for (const auto& [prefix, extent] : model) {
                const auto found = table.seen(prefix);
                REQUIRE(found);
                REQUIRE(found->at == location_of(extent));
                REQUIRE(table.writer.find(prefix) == extent);
            }
            if (erased.size() > 20) erased.erase(erased.begin());
            for (const std::uint64_t prefix : erased) {
                REQUIRE_FALSE(table.seen(prefix));
                REQUIRE(table.writer.find(prefix) == kNoExtent);
            }
        }
        CHECK(filled);
        // An empty table makes no reader look into a second bucket.
        for (const auto& [prefix, extent] : model) table.writer.erase(prefix, extent);
        for (const auto& bucket : table.buckets) CHECK(bucket.spill == 0);
    }
}

TEST_CASE("two full buckets say no, and name who fills them") {
    Table table(4);
    const std::uint64_t home = 5;
    for (ExtentId extent = 0; extent < 2 * model::kSlotsPerBucket; ++extent)
        REQUIRE(table.writer.insert((extent + 1ull) << 32 | home, location_of(extent), extent));
    CHECK_FALSE(table.writer.insert(99ull << 32 | home, location_of(99), 99));
    CHECK_FALSE(table.seen(99ull << 32 | home));
    CHECK(table.writer.neighbours(home).size() == 2 * model::kSlotsPerBucket);
    table.writer.erase(3ull << 32 | home, 2);
    CHECK(table.writer.insert(99ull << 32 | home, location_of(99), 99));
    CHECK(table.writer.find(99ull << 32 | home) == 99);
}

TEST_CASE("a slot number leads to its extent, and any other number to none") {
    Table table(3);
    REQUIRE(table.writer.insert(0x77ull << 32 | 2, location_of(9), 9));
    const auto found = table.seen(0x77ull << 32 | 2);
    REQUIRE(found);
    std::uint64_t hits = 0;
    for (std::uint64_t slot = 0; slot < 100; ++slot) hits += table.writer.at(slot) == 9 ? 1 : 0;
    CHECK(hits == 1);
    CHECK(table.writer.at(UINT64_MAX) == kNoExtent);
    CHECK(table.writer.at(UINT64_MAX / 2) == kNoExtent);
}

// A bucket that nothing lay in is left alone, so that a large table costs what its entries touch.
TEST_CASE("each bucket that has been used says which table and place it is") {
    Table table(3);
    REQUIRE(table.writer.insert(0x77ull << 32 | 2, location_of(9), 9));
    for (std::uint64_t at = 0; at < table.buckets.size(); ++at)
        CHECK(table.buckets[at].identity == (at == 2 ? 0x1234ull << 32 | at : 0));
}

// A flipped bit in a block's header gives erase() a prefix of another bucket. It once lowered the spill
// count of that bucket, and readers no longer looked for what had spilled there.
TEST_CASE("erasing under a wrong prefix leaves the neighbours' spilled entries visible") {
    Table table(4);
    const std::uint64_t home = 5;
    const std::uint64_t next_door = 0x99ull << 32 | (home + 1);
    REQUIRE(table.writer.insert(next_door, location_of(77), 77));
    std::vector<std::uint64_t> prefixes;
    for (ExtentId extent = 0; extent < 2 * model::kSlotsPerBucket - 1; ++extent) {
        prefixes.push_back((extent + 1ull) << 32 | home);
        REQUIRE(table.writer.insert(prefixes.back(), location_of(extent), extent));
    }
    const std::uint64_t spilled = table.buckets[home].spill;
    REQUIRE(spilled > 0);

    table.writer.erase(next_door ^ 3, 77);  // 6 ^ 3 == 5: the bucket before
    CHECK(table.buckets[home].spill == spilled);
    for (const std::uint64_t prefix : prefixes) CHECK(table.seen(prefix));
    CHECK_FALSE(table.seen(next_door));

    // And a spilled one under a prefix that leads elsewhere: its own bucket's count goes down.
    for (ExtentId extent = 0; extent < prefixes.size(); ++extent)
        table.writer.erase(extent * 0x9e37ull, extent);
    for (const auto& bucket : table.buckets) CHECK(bucket.spill == 0);
}

TEST_CASE("the writer knows after each flipped bit which entries readers find no more") {
    Rng rng(3);
    Table table(2);
    std::unordered_map<std::uint64_t, ExtentId> model;
    for (ExtentId extent = 0; extent < 24; ++extent) {
        const std::uint64_t prefix = rng.next();
        if (table.writer.insert(prefix, location_of(extent), extent)) model.emplace(prefix, extent);
    }
    std::size_t lost = 0;
    for (std::size_t bit = 0; bit < table.bytes().size() * 8; ++bit) {
        const auto flip = [&] { table.bytes()[bit / 8] ^= std::byte{1} << static_cast<int>(bit % 8); };
        flip();
        for (const auto& [prefix, extent] : model) {
            const auto found = table.seen(prefix);
            const bool there = found && found->at == location_of(extent);
            REQUIRE(table.writer.shows(prefix, location_of(extent), extent) == there);
            lost += there ? 0 : 1;
        }
        flip();
    }
    // Two words of each entry, and the counts that say of a bucket that more lies in the next.
    CHECK(lost >= model.size() * 128);
}
