// The store of one domain, over heap memory: what is visible when, and that no reader ever gets other bytes
// than were put.
#include "test_store.h"

#include <map>
#include <set>

using namespace cmpool;
using namespace cmpool::testing;

namespace {

void flip(MutableBytes bytes, std::uint64_t bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
}

}  // namespace

// ---- writing ----

TEST_CASE("a block can be found once it is committed, and not before") {
    Store one;
    const Node node{.number = 1, .length = 1000};
    const auto begun = one.store.begin(one.spec(node));
    REQUIRE_FALSE(begun.refused);
    CHECK_FALSE(one.has(1));
    const auto slower = one.store.begin(one.spec(node));  // whoever commits first stores it
    REQUIRE_FALSE(slower.refused);
    one.check();
    const auto bytes = bytes_of(1, 1000);
    std::ranges::copy(bytes, begun.payload.begin());
    std::ranges::copy(bytes, slower.payload.begin());
    CHECK(one.store.commit(begun.extent, model::checksum(bytes)) == Outcome::Ok);
    CHECK(one.holds_exactly(node));
    CHECK(one.store.commit(slower.extent, model::checksum(bytes)) == Outcome::Present);
    CHECK(one.put(node) == Outcome::Present);
    CHECK(one.store.counts().live_blocks == 1);
    one.check();
}

TEST_CASE("an aborted block leaves no trace") {
    Store one;
    const auto begun = one.store.begin(one.spec({.number = 1}));
    one.store.abort(begun.extent);
    one.check();
    CHECK_FALSE(one.has(1));
    CHECK(one.put({.number = 1}) == Outcome::Ok);
    CHECK(one.put({.number = 2, .length = 64 * KiB - 64 - 256}) == Outcome::Ok);  // all other memory
    CHECK(one.has(1));
    one.check();
}

TEST_CASE("bytes that do not fit their checksum are refused and their memory is given back") {
    Store one;
    const Node whole{.number = 1, .length = 64 * KiB - 64};
    const auto begun = one.store.begin(one.spec(whole));
    CHECK(one.store.commit(begun.extent, 12345) == Outcome::Refused);
    CHECK_FALSE(one.has(1));
    CHECK(one.store.counts().changed_blocks == 1);
    one.check();
    CHECK(one.put(whole) == Outcome::Ok);
}

TEST_CASE("a block inside a group needs its parent, one that begins a group does not") {
    Store one;
    CHECK(one.put({.number = 3, .parent = 2, .position = 2}) == Outcome::Orphan);
    CHECK(one.put({.number = 2, .parent = 1, .position = 1}) == Outcome::Ok);
    CHECK(one.put({.number = 3, .parent = 2, .position = 2}) == Outcome::Ok);
    one.check();
    // Begun while the parent was there; it goes before the commit.
    const auto begun = one.store.begin(one.spec({.number = 4, .parent = 3, .position = 3}));
    REQUIRE_FALSE(begun.refused);
    std::ranges::copy(bytes_of(4, 192), begun.payload.begin());
    REQUIRE(one.store.remove(digest_of(3), kSpace));
    CHECK(one.store.commit(begun.extent, model::checksum(begun.payload)) == Outcome::Orphan);
    CHECK_FALSE(one.has(4));
    one.check();
    // A parent that is still being written is good enough to begin.
    const auto parent = one.store.begin(one.spec({.number = 3, .parent = 2, .position = 2}));
    const auto child = one.store.begin(one.spec({.number = 4, .parent = 3, .position = 3}));
    REQUIRE_FALSE(child.refused);
    std::ranges::copy(bytes_of(3, 192), parent.payload.begin());
    std::ranges::copy(bytes_of(4, 192), child.payload.begin());
    CHECK(one.store.commit(parent.extent, model::checksum(parent.payload)) == Outcome::Ok);
    CHECK(one.store.commit(child.extent, model::checksum(child.payload)) == Outcome::Ok);
    one.check();
}

TEST_CASE("only its own namespace removes a block") {
    Store one;
    REQUIRE(one.put({.number = 1}) == Outcome::Ok);
    CHECK_FALSE(one.store.remove(digest_of(1), kSpace + 1));
    CHECK(one.store.remove(digest_of(1), kSpace));
    CHECK_FALSE(one.store.remove(digest_of(1), kSpace));
    CHECK(one.store.counts().removed_blocks == 1);
    one.check();
}

// Callers choose digests freely. The second of two that share the index's 64 bits was stored, answered
// with Ok, never found, and stored again by the next put.
TEST_CASE("of two digests that share 64 bits the later one is found, and only once") {
    Store one;
    BlockSpec first = one.spec({.number = 1});
    BlockSpec second = first;
    second.digest.bytes[20] ^= std::byte{1};
    REQUIRE(one.put(first, bytes_of(1, 192)) == Outcome::Ok);
    CHECK(one.put(second, bytes_of(2, 192)) == Outcome::Ok);
    REQUIRE(one.store.find(second.digest) != kNoExtent);
    CHECK(same(one.store.view(one.store.find(second.digest)).payload, bytes_of(2, 192)));
    CHECK(one.put(second, bytes_of(2, 192)) == Outcome::Present);
    CHECK(one.store.counts().live_blocks == 1);
    one.check();
}

// ---- reading while others want the room ----

TEST_CASE("a held block keeps its bytes through eviction and removal, and goes when it is let go") {
    Store one(64 * KiB);
    const Node node{.number = 1, .length = 10'000};
    REQUIRE(one.put(node) == Outcome::Ok);
    const ExtentId id = one.find(1);
    const Bytes seen = one.store.view(id).payload;
    one.store.hold(id);
    one.store.hold(id);
    const auto fill = [&](std::uint64_t from) {
        for (std::uint64_t number = from; number < from + 30; ++number)
            REQUIRE(one.put({.number = number, .length = 7'000}) == Outcome::Ok);
    };
    fill(100);
    CHECK(one.holds_exactly(node));
    CHECK(one.store.remove(digest_of(1), kSpace));
    CHECK_FALSE(one.has(1));
    fill(200);
    CHECK(same(seen, bytes_of(1, 10'000)));
    one.check();
    one.store.unhold(id);
    one.store.sweep();
    CHECK(one.store.counts().doomed_bytes > 0);
    CHECK(same(seen, bytes_of(1, 10'000)));
    one.store.unhold(id);
    one.store.sweep();
    CHECK(one.store.counts().doomed_bytes == 0);
    CHECK(one.store.holds() == 0);
    one.check();
}

TEST_CASE("a pinned block keeps its bytes until it is unpinned or its process ends") {
    Store one(64 * KiB);
    auto& page = one.page();
    const Node node{.number = 1, .length = 10'000};
    REQUIRE(one.put(node) == Outcome::Ok);
    const Bytes seen = one.store.view(one.find(1)).payload;
    page.pins[17] = model::pin_word(one.location(one.find(1)));
    page.pins_end = 18;
    for (std::uint64_t number = 100; number < 130; ++number)
        REQUIRE(one.put({.number = number, .length = 7'000}) == Outcome::Ok);
    CHECK(one.holds_exactly(node));
    REQUIRE(one.store.remove(digest_of(1), kSpace));
    CHECK(one.store.counts().doomed_bytes > 0);
    for (std::uint64_t number = 200; number < 230; ++number)
        REQUIRE(one.put({.number = number, .length = 7'000}) == Outcome::Ok);
    CHECK(same(seen, bytes_of(1, 10'000)));
    SUBCASE("unpinned") { page.pins[17] = 0; }
    SUBCASE("ended") {
        one.store.pins().leave(1);
        one.processes.end_all();
    }
    one.store.sweep();
    CHECK(one.store.counts().doomed_bytes == 0);
    one.check();
}

TEST_CASE("touches from a client's ring decide what goes, and garbage in it decides nothing") {
    Store one(64 * KiB, 1, 6);
    auto& page = one.page();
    for (std::uint64_t number = 1; number <= 8; ++number)
        REQUIRE(one.put({.number = number, .length = 8 * KiB - 64}) == Outcome::Ok);
    // The slot of block 1, as a client finds it.
    const auto* buckets = reinterpret_cast<const model::Bucket*>(
        const_cast<transport::Segment&>(one.store.index_segment()).bytes().data());
    const auto found = model::find_slot(buckets, one.store.bucket_bits(), digest_of(1).prefix());
    REQUIRE(found);
    const auto bucket = static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(found->slot) -
                                                   reinterpret_cast<const std::byte*>(buckets)) /
                        sizeof(model::Bucket);
    const auto slot =
        bucket * model::kSlotsPerBucket + static_cast<std::uint64_t>(found->slot - buckets[bucket].slots);
    Rng rng(5);
    for (int round = 0; round < 50; ++round)
        page.touches[page.touch_head++ % model::kTouchRingSlots] = rng.next();
    page.touches[page.touch_head++ % model::kTouchRingSlots] = model::touch_word(slot, found->at.generation);
    page.touches[page.touch_head++ % model::kTouchRingSlots] =
        model::touch_word(slot + 1, found->at.generation + 1);
    REQUIRE(one.put({.number = 9, .length = 8 * KiB - 64}) == Outcome::Ok);
    CHECK(one.has(1));
    CHECK_FALSE(one.has(2));
    one.check();
}

// ---- a naive model ----

TEST_CASE("random operations never show bytes that were not put") {
    for (std::uint64_t seed = 1; seed <= 200; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Store one(64 * KiB, 2, static_cast<unsigned>(2 + rng.below(7)));
        auto& page = one.page();
        std::map<std::uint64_t, Node> put;  // of everything that was ever stored
        struct Reading {
            ExtentId id;
            Node node;
            Bytes seen;
        };
        std::vector<Reading> reading;
        std::vector<DomainStore::Begun> writing;
        std::map<std::size_t, std::pair<Node, Bytes>> pinned;
        for (int step = 0; step < 250; ++step) {
            CAPTURE(step);
            const Node node{
                .number = 1 + rng.below(60),
                .length = static_cast<std::uint32_t>(1 + rng.below(rng.chance(0.2) ? 12'000 : 900))};
            switch (rng.below(12)) {
                default:
                    if (one.put(node) == Outcome::Ok) put[node.number] = node;
                    break;
                case 1:
                    if (one.has(node.number)) one.store.touch(one.find(node.number));
                    break;
                case 2:
                    (void)one.store.remove(digest_of(node.number), kSpace);
                    break;
                case 3:
                    if (const ExtentId id = one.find(node.number); id != kNoExtent && reading.size() < 5) {
                        one.store.hold(id);
                        reading.push_back({id, put[node.number], one.store.view(id).payload});
                    }
                    break;
                case 4:
                    if (!reading.empty()) {
                        one.store.unhold(reading.back().id);
                        reading.pop_back();
                    }
                    break;
                case 5:
                    if (const auto begun = one.store.begin(one.spec(node)); !begun.refused)
                        writing.push_back(begun);
                    break;
                case 6:
                    for (const auto& begun : std::exchange(writing, {})) one.store.abort(begun.extent);
                    break;
                case 7:
                    one.store.sweep();
                    break;
                case 8: {
                    const std::size_t at = rng.below(6);
                    pinned.erase(at);
                    page.pins[at] = 0;
                    page.pins_end = 6;
                    if (const ExtentId id = one.find(node.number); id != kNoExtent && rng.chance(0.6)) {
                        page.pins[at] = model::pin_word(one.location(id));
                        pinned[at] = {put[node.number], one.store.view(id).payload};
                    }
                    break;
                }
                case 9:
                    one.store.scrub(4 * KiB);
                    break;
                case 10:
                    if (rng.chance(0.2) && one.give_up_segment() != nullptr) one.add_segment();
                    break;
            }
            one.check();
            for (const auto& [number, node_put] : put) {
                if (one.has(number)) REQUIRE(one.holds_exactly(node_put));
            }
            for (const auto& each : reading)
                REQUIRE(same(each.seen, bytes_of(each.node.number, each.node.length)));
            for (const auto& [at, each] : pinned)
                REQUIRE(same(each.second, bytes_of(each.first.number, each.first.length)));
        }
        CHECK(one.store.counts().corrupt_blocks == 0);
    }
}

// ---- bit rot ----

TEST_CASE("any flipped bit is found by verify, and only that block is lost") {
    for (std::uint64_t seed = 1; seed <= 100; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Store one(64 * KiB, 1, 3);
        std::vector<Node> nodes;
        for (std::uint64_t number = 1; number <= 30; ++number) {
            nodes.push_back({.number = number, .length = static_cast<std::uint32_t>(1 + rng.below(400))});
            REQUIRE(one.put(nodes.back()) == Outcome::Ok);
        }
        const std::uint64_t victim = 1 + rng.below(30);
        if (!one.has(victim)) continue;  // its bucket was full
        std::vector<std::uint64_t> others;
        for (const Node& node : nodes) {
            if (node.number != victim && one.has(node.number)) others.push_back(node.number);
        }
        const ExtentId id = one.find(victim);
        const MutableBytes raw = one.raw(id);
        // Half of them in the header, of which every bit gets its turn over the seeds.
        flip(raw, rng.chance(0.5) ? (seed * 37) % 512 : rng.below(raw.size() * 8));
        if (const ExtentId seen = one.find(victim); seen != kNoExtent) (void)one.store.view(seen);
        if (rng.chance(0.5)) {
            CHECK_FALSE(one.store.verify(id));
        } else {
            one.store.scrub(UINT64_MAX);
        }
        CHECK(one.store.counts().corrupt_blocks == 1);
        CHECK_FALSE(one.has(victim));
        one.check();
        for (const std::uint64_t number : others) REQUIRE(one.holds_exactly(nodes[number - 1]));
        CHECK(one.put(nodes[victim - 1]) == Outcome::Ok);
        CHECK(one.holds_exactly(nodes[victim - 1]));
    }
}

TEST_CASE("a damaged block can be put again without waiting for the scrubber") {
    for (std::uint64_t bit = 0; bit < 256; bit += 5) {
        CAPTURE(bit);
        Store one;
        const Node node{.number = 1};
        REQUIRE(one.put(node) == Outcome::Ok);
        flip(one.raw(one.find(1)), 16 * 8 + bit);  // in the digest
        REQUIRE_FALSE(one.has(1));
        CHECK(one.put(node) == Outcome::Ok);
        CHECK(one.holds_exactly(node));
        one.check();
    }
}

// The header of a block that is still being written was believed: a flipped length led the checksum out
// of the segment, a flipped digest left the block "being written" for ever.
TEST_CASE("a flipped bit in the header of a block that is being written does no harm") {
    for (std::uint64_t bit = 0; bit < 512; ++bit) {
        CAPTURE(bit);
        Store one(4 * KiB);
        const Node node{.number = 1};
        auto begun = one.store.begin(one.spec(node));
        const auto raw = [&] { return MutableBytes(begun.payload.data() - model::kHeaderBytes, 64); };
        flip(raw(), bit);
        one.store.abort(begun.extent);
        begun = one.store.begin(one.spec(node));
        REQUIRE_FALSE(begun.refused);
        std::ranges::copy(bytes_of(1, 192), begun.payload.begin());
        flip(raw(), bit);
        CHECK(one.store.commit(begun.extent, model::checksum(bytes_of(1, 192))) == Outcome::Ok);
        CHECK(one.holds_exactly(node));
        one.check();
    }
}

// ---- segments ----

TEST_CASE("a segment that is given up takes its blocks along, unless somebody reads in it") {
    Store one(64 * KiB, 3, 10);
    std::vector<Node> nodes;
    for (std::uint64_t number = 1; number <= 24; ++number) {
        nodes.push_back({.number = number, .length = 8 * KiB - 64});
        REQUIRE(one.put(nodes.back()) == Outcome::Ok);
    }
    for (const std::uint64_t number : {1, 9, 17}) one.store.hold(one.find(number));
    CHECK(one.give_up_segment() == nullptr);
    one.check();
    one.store.unhold(one.find(9));
    REQUIRE(one.give_up_segment() != nullptr);
    CHECK(one.store.segment_count() == 2);
    one.check();
    for (const Node& node : nodes) CHECK(one.has(node.number) == (node.number < 9 || node.number > 16));
    one.add_segment();
    for (const Node& node : nodes) {
        if (!one.has(node.number)) REQUIRE(one.put(node) == Outcome::Ok);
    }
    for (const Node& node : nodes) CHECK(one.holds_exactly(node));
    one.check();
}

/// As large as it says, for whoever never looks into it.
class Addresses final : public transport::Segment {
public:
    explicit Addresses(std::size_t bytes) : bytes_(bytes) {}
    [[nodiscard]] MutableBytes bytes() noexcept override { return {&first_, bytes_}; }
    [[nodiscard]] const transport::Descriptor& descriptor() const noexcept override { return descriptor_; }
    [[nodiscard]] transport::Token token() const noexcept override { return {}; }
    [[nodiscard]] transport::Revocation revoke() override { return transport::Revocation::Hard; }
    void punch() noexcept override {}

private:
    std::size_t bytes_;
    std::byte first_{};
    transport::Descriptor descriptor_;
};

// Beyond that its slots and pins would name other memory than they mean.
TEST_CASE("a domain takes no more segments than its offsets can name, those that have gone included") {
    constexpr std::uint64_t kBytes = 2 * GiB;
    Store one(kBytes, 0, 10);
    std::uint64_t segments = 0;
    for (; one.store.can_grow(); ++segments) {
        one.store.add_segment(std::make_unique<Addresses>(kBytes));
        REQUIRE(one.give_up_segment() != nullptr);
    }
    CHECK(segments == model::kDomainBytesMax / kBytes);
    one.check();
}

TEST_CASE("listing goes through a namespace's blocks in pieces") {
    Store one(64 * KiB, 1, 10);
    for (std::uint64_t number = 1; number <= 50; ++number)
        REQUIRE(one.put({.number = number, .position = 7}) == Outcome::Ok);
    one.clock.advance(std::chrono::seconds(3));
    std::set<std::uint64_t> seen;
    std::uint64_t cursor = 0;
    do {
        std::vector<wire::ListedBlock> blocks;
        cursor = one.store.list(kSpace, cursor, 7, blocks);
        CHECK(blocks.size() <= 7);
        for (const auto& block : blocks) {
            seen.insert(block.digest.prefix());
            CHECK(block.length == 192);
            CHECK(block.position == 7);
            CHECK(block.age_ms == 3000);
        }
    } while (cursor != 0);
    CHECK(seen.size() == 50);
    std::vector<wire::ListedBlock> none;
    CHECK(one.store.list(kSpace + 1, 0, 100, none) == 0);
    CHECK(one.store.list(kSpace, UINT64_MAX, 100, none) == 0);
    CHECK(none.empty());
}

// ---- all memory of a server ----

TEST_CASE("memory moves from the domain that has most to one that has less, a segment at a time") {
    TestClock clock;
    HeapFabric fabric;
    auto made = Memory::create({.capacity_bytes = 8 * MiB}, clock, fabric, 1);
    REQUIRE(made);
    Memory& memory = **made;
    auto& rich = **memory.domain(1);
    const auto put = [&](DomainStore& store, std::uint64_t number) {
        const auto bytes = bytes_of(number, 200 * KiB);
        const auto begun = memory.begin(
            store, {.namespace_id = store.domain_id(), .digest = digest_of(number), .length = 200 * KiB});
        if (begun.refused) return *begun.refused;
        std::ranges::copy(bytes, begun.payload.begin());
        const Outcome outcome = store.commit(begun.extent, model::checksum(bytes));
        REQUIRE(memory.check_invariants() == "");
        return outcome;
    };
    for (std::uint64_t number = 1; number <= 100; ++number) REQUIRE(put(rich, number) == Outcome::Ok);
    CHECK(rich.segment_count() == 8);
    auto& late = **memory.domain(2);
    for (std::uint64_t number = 1; number <= 100; ++number) REQUIRE(put(late, number) == Outcome::Ok);
    CHECK(rich.segment_count() == 4);
    CHECK(late.segment_count() == 4);
    for (std::uint64_t number = 1; number <= 100; ++number) {
        for (DomainStore* store : {&rich, &late}) {
            const ExtentId id = store->find(digest_of(number));
            if (id != kNoExtent) CHECK(same(store->view(id).payload, bytes_of(number, 200 * KiB)));
        }
    }
    // A host that gives no memory back costs one segment of capacity, nothing else, and no longer than that.
    fabric.left = 1;  // an index
    auto& third = **memory.domain(3);
    for (std::uint64_t number = 1; number <= 20; ++number) {
        CHECK(put(third, number) == Outcome::Refused);
        clock.advance(std::chrono::milliseconds(50));
    }
    CHECK(memory.capacity_bytes() == 7 * MiB);
    CHECK(put(rich, 1000) == Outcome::Ok);
    fabric.left = SIZE_MAX;
    clock.advance(std::chrono::milliseconds(100));
    CHECK(put(third, 1) == Outcome::Ok);
    CHECK(memory.capacity_bytes() == 8 * MiB);
}

// Sizes above what extents and slots can count wrapped around and broke the allocator.
TEST_CASE("capacities and segments that the index cannot address are refused") {
    TestClock clock;
    HeapFabric fabric;
    fabric.left = 0;
    const auto code = [&](std::uint64_t capacity, std::uint64_t segment) {
        return Memory::create({.capacity_bytes = capacity, .segment_bytes = segment}, clock, fabric, 1)
            .error()
            .code;
    };
    CHECK(code(1 * MiB - 1, 0) == Errc::Invalid);
    CHECK(code(4 * MiB, 8 * MiB) == Errc::Invalid);
    CHECK(code(1024 * GiB, 256 * GiB) == Errc::Invalid);
    CHECK(code(UINT64_MAX, UINT64_MAX) == Errc::Invalid);
    CHECK(code(UINT64_MAX, 0) == Errc::Invalid);
    CHECK(code(4 * MiB, 0) == Errc::NoCapacity);
}
