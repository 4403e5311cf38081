// The allocator against intervals that are simply listed.
#include "extent_map.h"

#include <map>
#include <optional>

#include <cmpool/base/rng.h>

using namespace cmpool;
using namespace cmpool::pool;

namespace {

constexpr std::uint32_t kSegmentUnits = 4096;

/// What must be true of memory, without any structure that could be wrong.
class Intervals {
public:
    void add_segment(std::uint64_t offset) { segments_.emplace(offset, true); }
    void remove_segment(std::uint64_t offset) { segments_.erase(offset); }
    [[nodiscard]] const std::map<std::uint64_t, bool>& segments() const { return segments_; }

    /// Nothing overlaps and nothing leaves its segment.
    [[nodiscard]] bool take(std::uint64_t offset, std::uint32_t units) {
        const auto segment = segments_.upper_bound(offset);
        if (segment == segments_.begin()) return false;
        if (offset + units > std::prev(segment)->first + kSegmentUnits) return false;
        const auto next = taken_.lower_bound(offset);
        if (next != taken_.end() && next->first < offset + units) return false;
        if (next != taken_.begin() && std::prev(next)->first + std::prev(next)->second > offset) return false;
        taken_.emplace(offset, units);
        taken_units_ += units;
        return true;
    }
    void give(std::uint64_t offset) {
        taken_units_ -= taken_.at(offset);
        taken_.erase(offset);
    }
    [[nodiscard]] std::uint64_t free_units() const { return segments_.size() * kSegmentUnits - taken_units_; }
    [[nodiscard]] std::uint64_t largest_gap() const {
        std::uint64_t largest = 0;
        for (const auto& [start, present] : segments_) {
            std::uint64_t at = start;
            for (auto each = taken_.lower_bound(start);
                 each != taken_.end() && each->first < start + kSegmentUnits; ++each) {
                largest = std::max(largest, each->first - at);
                at = each->first + each->second;
            }
            largest = std::max(largest, start + kSegmentUnits - at);
        }
        return largest;
    }
    [[nodiscard]] bool empty(std::uint64_t segment) const {
        const auto first = taken_.lower_bound(segment);
        return first == taken_.end() || first->first >= segment + kSegmentUnits;
    }

private:
    std::map<std::uint64_t, bool> segments_;
    std::map<std::uint64_t, std::uint32_t> taken_;
    std::uint64_t taken_units_ = 0;
};

}  // namespace

TEST_CASE("random taking and giving back never overlaps, never leaks and always merges") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        ExtentMap map;
        Intervals model;
        std::map<std::uint64_t, ExtentId> segments;
        std::vector<ExtentId> taken;
        std::uint64_t next_segment = 0;
        const std::uint32_t units_max = seed % 2 == 0 ? 40 : 3000;
        for (int step = 0; step < 1500; ++step) {
            CAPTURE(step);
            const auto dice = rng.below(100);
            if (segments.empty() || (dice < 2 && segments.size() < 5)) {
                segments[next_segment] = map.add_segment(next_segment, kSegmentUnits);
                model.add_segment(next_segment);
                next_segment += kSegmentUnits;
            } else if (dice < 4) {
                const auto first = segments.begin();
                if (!model.empty(first->first)) continue;
                map.remove_segment(first->second);
                model.remove_segment(first->first);
                segments.erase(first);
            } else if (dice < 56 || taken.empty()) {
                const auto units = static_cast<std::uint32_t>(1 + rng.below(units_max));
                const bool fits = map.fits(units);
                const ExtentId id = map.allocate(units);
                REQUIRE(fits == (id != kNoExtent));
                if (id == kNoExtent) {
                    // A class above is searched to its end; only inside its own class may one be missed.
                    REQUIRE(model.largest_gap() < units + units / 8 + 2);
                    continue;
                }
                REQUIRE(map[id].units == units);
                REQUIRE(map[id].state == ExtentState::Writing);
                REQUIRE(model.take(map[id].offset_units, units));
                taken.push_back(id);
            } else {
                const std::size_t at = rng.below(taken.size());
                model.give(map[taken[at]].offset_units);
                map.free(taken[at]);
                taken[at] = taken.back();
                taken.pop_back();
            }
            REQUIRE(map.free_units() == model.free_units());
            REQUIRE(map.check_invariants() == "");
        }
        for (const ExtentId id : taken) map.free(id);
        REQUIRE(map.free_units() == segments.size() * kSegmentUnits);
        for (const auto& [offset, first] : segments) {
            REQUIRE(map[first].units == kSegmentUnits);
            map.remove_segment(first);
        }
        REQUIRE(map.free_units() == 0);
        REQUIRE(map.check_invariants() == "");
    }
}

// A pool of one model has one block size and is always full. Rounding up to the next size class would
// then step over the only extent that is free.
TEST_CASE("in a full pool of equal blocks the freed one is found again") {
    for (const std::uint32_t units : {1u, 15u, 16u, 17u, 31u, 33u, 100u, 1023u, 1024u, 1025u, 1365u}) {
        CAPTURE(units);
        ExtentMap map;
        map.add_segment(0, kSegmentUnits / units * units);
        std::vector<ExtentId> all;
        for (ExtentId id = map.allocate(units); id != kNoExtent; id = map.allocate(units)) all.push_back(id);
        REQUIRE(all.size() == kSegmentUnits / units);
        REQUIRE(map.free_units() == 0);
        Rng rng(units);
        for (int round = 0; round < 50; ++round) {
            ExtentId& one = all[rng.below(all.size())];
            map.free(one);
            one = map.allocate(units);
            REQUIRE(one != kNoExtent);
            REQUIRE(map.check_invariants() == "");
        }
    }
}

TEST_CASE("memory moves between sizes as the mix changes") {
    ExtentMap map;
    const ExtentId first = map.add_segment(0, kSegmentUnits);
    for (const std::uint32_t units : {4u, 64u, 2048u, 9u, 4096u, 1u}) {
        std::vector<ExtentId> all;
        for (ExtentId id = map.allocate(units); id != kNoExtent; id = map.allocate(units)) all.push_back(id);
        CHECK(all.size() == kSegmentUnits / units);
        for (std::size_t at = 0; at < all.size(); at += 2) map.free(all[at]);
        for (std::size_t at = 1; at < all.size(); at += 2) map.free(all[at]);
        CHECK(map[first].units == kSegmentUnits);
        CHECK(map.check_invariants() == "");
    }
}

TEST_CASE("a segment that has gone is never handed out, one that came is") {
    ExtentMap map;
    const ExtentId one = map.add_segment(0, 64);
    const ExtentId two = map.add_segment(64, 64);
    map.remove_segment(one);
    CHECK(map.free_units() == 64);
    const ExtentId whole = map.allocate(64);
    REQUIRE(whole == two);
    CHECK(map[whole].offset_units == 64);
    CHECK(map.allocate(1) == kNoExtent);
    map.add_segment(128, 64);
    CHECK(map[map.allocate(64)].offset_units == 128);
    CHECK(map.check_invariants() == "");
}

TEST_CASE("neighbouring segments do not merge") {
    ExtentMap map;
    map.add_segment(0, 64);
    map.add_segment(64, 64);
    CHECK_FALSE(map.fits(65));
    const ExtentId id = map.allocate(64);
    map.free(id);
    CHECK_FALSE(map.fits(65));
    CHECK(map.check_invariants() == "");
}
