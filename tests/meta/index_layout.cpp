#include <map>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/model/index_layout.h>

using namespace cmpool;
using namespace cmpool::model;

namespace {

constexpr std::uint64_t kUnitsEnd = std::uint64_t{1} << kUnitsBits;

Location any_location(Rng& rng) {
    return {.offset_units = rng.below(std::uint64_t{1} << kOffsetBits),
            .units = static_cast<std::uint32_t>(1 + rng.below(kUnitsEnd - 1)),
            .generation = static_cast<std::uint32_t>(rng.below(std::uint64_t{1} << kGenerationBits))};
}

}  // namespace

TEST_CASE("what a slot was given it gives back, and to nobody else's key") {
    constexpr std::uint64_t kSeed = 11;
    CAPTURE(kSeed);
    Rng rng(kSeed);
    int wrong = 0;
    for (int round = 0; round < 1'000'000; ++round) {
        const auto prefix = rng.next();
        const auto at = any_location(rng);
        const auto slot = encode_slot(prefix, at);
        if (decode_slot(slot, prefix) != at) ++wrong;
        if (decode_slot(slot, prefix ^ (std::uint64_t{1} << (kGenerationBits + rng.below(40))))) ++wrong;
    }
    CHECK(wrong == 0);
}

// A reader may see one word of the old entry and one of the new. The two must not pass for a location
// that neither had: the tag's 40 bits let 1 in 2^40 through, which the header's digest then catches.
TEST_CASE("a torn slot decodes to nothing") {
    constexpr std::uint64_t kSeed = 12;
    CAPTURE(kSeed);
    Rng rng(kSeed);
    int wrong = 0;
    for (int round = 0; round < 1'000'000; ++round) {
        const auto prefix = rng.next();
        // Half the time the same key again, at another place: the tag alone would fit.
        const auto other = rng.chance(0.5) ? prefix : rng.next();
        const auto old_at = any_location(rng);
        const auto new_at = rng.chance(0.1)
                                ? Location{old_at.offset_units, old_at.units, old_at.generation + 1}
                                : any_location(rng);
        const auto before = rng.chance(0.2) ? Slot{} : encode_slot(other, old_at);
        const auto after = rng.chance(0.2) ? Slot{} : encode_slot(prefix, new_at);
        for (const Slot torn :
             {Slot{before.tag_word, after.location_word}, Slot{after.tag_word, before.location_word}}) {
            const auto seen = decode_slot(torn, prefix);
            if (!seen) continue;
            // The right thing: one of the two entries as it was (they may share a word), or the same
            // place with either generation.
            const bool whole = torn == before || torn == after;
            const bool same_place = before.location_word == after.location_word;
            if (!whole && !same_place) ++wrong;
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("an empty slot holds no key, not even the zero one") {
    CHECK_FALSE(decode_slot(Slot{}, 0));
    CHECK_FALSE(decode_slot(Slot{mix64(0), 0}, 0));
}

// Against a map, over a small table filled until entries spill into the next bucket.
TEST_CASE("a lookup finds exactly what was inserted, also where it has spilled") {
    constexpr std::uint64_t kSeed = 13;
    constexpr unsigned kBits = 6;
    CAPTURE(kSeed);
    Rng rng(kSeed);
    std::vector<Bucket> table((1U << kBits) + 1);
    std::map<std::uint64_t, Location> model;
    const auto free_slot = [](Bucket& bucket) -> Slot* {
        for (auto& slot : bucket.slots) {
            if (slot.location_word == 0) return &slot;
        }
        return nullptr;
    };
    std::uint64_t spilled = 0;
    int wrong = 0;
    for (int round = 0; round < 200'000; ++round) {
        if (rng.chance(0.55)) {
            const auto prefix = rng.next();
            auto* home = &table[bucket_of(prefix, kBits)];
            auto* slot = free_slot(*home);
            if (slot == nullptr && (slot = free_slot(home[1])) != nullptr) {
                ++home->spill;
                ++spilled;
            }
            if (slot == nullptr) continue;
            model[prefix] = any_location(rng);
            *slot = encode_slot(prefix, model[prefix]);
        } else if (!model.empty()) {
            auto chosen = model.lower_bound(rng.next());
            if (chosen == model.end()) chosen = model.begin();
            const auto found = find_slot(table.data(), kBits, chosen->first);
            if (!found || found->at != chosen->second) {
                ++wrong;
                break;
            }
            const auto home = bucket_of(chosen->first, kBits);
            const auto lies_in = static_cast<std::uint64_t>(
                reinterpret_cast<const Bucket*>(reinterpret_cast<std::uintptr_t>(found->slot) &
                                                ~std::uintptr_t{sizeof(Bucket) - 1}) -
                table.data());
            if (lies_in != home) --table[home].spill;
            *const_cast<Slot*>(found->slot) = Slot{};
            if (find_slot(table.data(), kBits, chosen->first)) ++wrong;
            model.erase(chosen);
        }
        if (find_slot(table.data(), kBits, rng.next())) ++wrong;
    }
    for (const auto& [prefix, at] : model) {
        const auto found = find_slot(table.data(), kBits, prefix);
        if (!found || found->at != at) ++wrong;
    }
    CHECK(wrong == 0);
    CHECK(spilled > 1000);
}

TEST_CASE("a header with any byte changed is no header") {
    BlockHeader header{.magic = kHeaderMagic,
                       .check = 0,
                       .generation = 99,
                       .digest = {},
                       .length = 4096,
                       .namespace_and_state = 3 << 8 | 1,
                       .payload_checksum = 0x1234};
    header.digest.bytes.fill(std::byte{0x5a});
    header.check = header_check(header);
    REQUIRE(header_valid(header));
    for (std::size_t at = 0; at < sizeof header; ++at) {
        for (unsigned flip = 1; flip < 256; ++flip) {
            auto bytes = std::as_writable_bytes(std::span(&header, 1));
            bytes[at] ^= static_cast<std::byte>(flip);
            if (header_valid(header)) FAIL("byte ", at, " flipped by ", flip, " goes unnoticed");
            bytes[at] ^= static_cast<std::byte>(flip);
        }
    }
    CHECK_FALSE(header_valid(BlockHeader{}));
}

TEST_CASE("a payload takes its header and whole units") {
    CHECK(units_for(0) == 1);
    CHECK(units_for(1) == 2);
    CHECK(units_for(64) == 2);
    CHECK(units_for(65) == 3);
    CHECK(units_for(kBlockBytesMax) == kBlockBytesMax / kUnitBytes + 1);
    CHECK(units_for(kBlockBytesMax) < kUnitsEnd);
}
