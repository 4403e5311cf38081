#include "explorer.h"

#include <algorithm>

#include <doctest/doctest.h>

// The words and fences are those of model/index_layout.h, pool/src/index_writer.cpp and domain_store.cpp (the
// owner), and client/src/attachment.cpp (the reader): who changes one changes the other.
using namespace cmpool::testing;

namespace {

using Order::Acquire;
using Order::Full;
using Order::Release;

// Of the index: a slot's two words, which read 0 where it is empty. Of a block: its header's digest, and its
// payload. All blocks lie in the same extent, so the location word is the same; their tags differ.
constexpr Location kSlotLocation = 0, kSlotTag = 1, kDigest = 2, kPayload = 3, kPayloadEnd = 4, kPin = 5,
                   kOtherPin = 6;
constexpr Value kHere = 1;
constexpr Value kOld = 1, kNew = 2, kNewer = 3;
constexpr std::array<Value, kLocations> kOldIsThere{kHere, kOld, kOld, kOld, kOld};

void append(Program& program, const Program& more) {
    program.insert(program.end(), more.begin(), more.end());
}

Program clear() { return {store(kSlotLocation, 0, Release), store(kSlotTag, 0, Release), fence(Full)}; }
Program fill(Value block) {
    return {store(kDigest, block), store(kPayload, block), store(kPayloadEnd, block)};
}
Program publish(Value block) {
    return {store(kSlotTag, block, Release), store(kSlotLocation, kHere, Release)};
}

Program owner_that_reuses(std::initializer_list<Value> blocks) {
    Program program;
    for (const Value block : blocks) {
        append(program, clear());
        append(program, fill(block));
        append(program, publish(block));
    }
    return program;
}

Program find(Value block) {
    return {load(0, kSlotLocation, Acquire), require(0, kHere), load(1, kSlotTag, Acquire),
            require(1, block)};
}
Program copy_out() { return {copy(2, kDigest), copy(3, kPayload), copy(4, kPayloadEnd)}; }
Program look_again() {
    return {load(5, kSlotLocation, Acquire), require_same(5, 0), load(6, kSlotTag, Acquire),
            require_same(6, 1)};
}
Instruction whole(Value block) {
    return check("a reader has bytes of another block",
                 [block](const Registers& seen) { return seen[3] == block && seen[4] == block; });
}

Program reader_of(Value block) {
    Program program = find(block);
    append(program, copy_out());
    program.push_back(fence(Acquire));
    append(program, look_again());
    append(program, {require(2, block), whole(block)});
    return program;
}

// Pins, and reads without looking again, for as long as the pin stands.
Program reader_that_pins(Value block, Location pin) {
    Program program = find(block);
    append(program, {store(pin, block, Release), fence(Full)});
    append(program, look_again());
    append(program, copy_out());
    append(program, {store(pin, 0, Release), whole(block)});
    return program;
}
Program owner_that_asks_for_pins(Value old, Value block) {
    Program program = clear();
    Program reuse = fill(block);
    append(reuse, publish(block));
    const auto length = static_cast<std::uint8_t>(reuse.size());
    append(program, {load(0, kPin, Acquire), load(1, kOtherPin, Acquire),
                     skip_if(0, old, static_cast<std::uint8_t>(length + 1)), skip_if(1, old, length)});
    append(program, reuse);
    return program;
}

/// Weakens one thing at a time, and returns what nobody noticed.
std::vector<std::string> not_noticed(const std::vector<Program>& programs,
                                     const std::array<Value, kLocations>& initial) {
    std::vector<std::string> names;
    std::size_t all = 0;
    std::size_t states = 0;
    for (const auto& mutation : mutations(programs)) {
        const auto seen = explore(mutation.programs, initial);
        states += seen.states;
        ++all;
        if (!seen.violation) names.push_back(mutation.what);
    }
    MESSAGE((all - names.size()) << " of " << all << " mutations noticed, " << states << " states");
    return names;
}

void holds(const std::vector<Program>& programs, const std::array<Value, kLocations>& initial) {
    const auto seen = explore(programs, initial);
    CHECK_MESSAGE(!seen.violation, seen.violation.value_or(""));
    CHECK(seen.ends > 0);
    MESSAGE(seen.states << " states, " << seen.ends << " ends");
}

}  // namespace

TEST_CASE("the explorer sees what a weakly ordered machine may do, and what a fence forbids") {
    constexpr Location kData = 0, kFlag = 1;
    const auto torn = [](Order written, Order read) {
        const Program writer{store(kData, 1), store(kFlag, 1, written)};
        const Program reader{load(0, kFlag, read), require(0, 1), load(1, kData),
                             check("an old value", [](const Registers& seen) { return seen[1] == 1; })};
        return explore({writer, reader}, {}).violation.has_value();
    };
    CHECK(torn(Order::Relaxed, Order::Relaxed));
    CHECK(torn(Release, Order::Relaxed));
    CHECK(torn(Order::Relaxed, Acquire));
    CHECK_FALSE(torn(Release, Acquire));

    // Each stores and then looks at the other's: without full fences both may see nothing.
    const auto both_miss = [](bool fenced) {
        const auto side = [&](Location mine, Location its, Location result) {
            Program program{store(mine, 1)};
            if (fenced) program.push_back(fence(Full));
            append(program, {load(0, its), require(0, 0), store(result, 1)});
            return program;
        };
        const Program judge{load(0, 2, Acquire), load(1, 3, Acquire),
                            check("both missed", [](const Registers& s) { return s[0] == 0 || s[1] == 0; })};
        return explore({side(0, 1, 2), side(1, 0, 3), judge}, {}).violation.has_value();
    };
    CHECK(both_miss(false));
    CHECK_FALSE(both_miss(true));

    // A copy may take place behind a store that follows it, unless that releases.
    const auto late = [](Order order) {
        const Program reader{copy(0, kData), store(kFlag, 1, order),
                             check("read too late", [](const Registers& seen) { return seen[0] == 0; })};
        const Program writer{load(0, kFlag, Acquire), require(0, 1), store(kData, 1)};
        return explore({reader, writer}, {}).violation.has_value();
    };
    CHECK(late(Order::Relaxed));
    CHECK_FALSE(late(Release));
}

// Everything that is listed as not noticed is implied by something else: what clears a slot is ordered by the
// fence behind it, what looks again by the fence before it, a slot's first word by its second, and what the
// owner writes once it has seen no pin by that it waited for the answer.
TEST_CASE("slots: two readers beside an owner that reuses an extent twice have whole blocks or nothing") {
    holds({owner_that_reuses({kNew, kNewer}), reader_of(kOld), reader_of(kNew)}, kOldIsThere);
    const std::vector<std::string> expected{
        "thread 0, 0: store of 0 to 0 relaxed",  "thread 0, 1: store of 0 to 1 relaxed",
        "thread 0, 7: store of 1 to 0 relaxed",  "thread 0, 8: store of 0 to 0 relaxed",
        "thread 0, 9: store of 0 to 1 relaxed",  "thread 0, 14: store of 3 to 1 relaxed",
        "thread 0, 15: store of 1 to 0 relaxed", "thread 1, 0: load of 0 relaxed",
        "thread 1, 8: load of 0 relaxed",        "thread 1, 10: load of 1 relaxed"};
    // The first clearing's fence keeps bytes of the new block from whoever reads the old one.
    auto left = not_noticed({owner_that_reuses({kNew, kNewer}), reader_of(kNew)}, kOldIsThere);
    CHECK(std::erase(left, "thread 0, 2: full fence gone") == 1);
    CHECK(left == expected);
    left = not_noticed({owner_that_reuses({kNew}), reader_of(kOld)}, kOldIsThere);
    CHECK(std::ranges::none_of(left, [](const std::string& each) { return each.ends_with("fence gone"); }));
}

TEST_CASE("pins: what two readers have pinned is not overwritten") {
    const std::vector<Program> programs{owner_that_asks_for_pins(kOld, kNew), reader_that_pins(kOld, kPin),
                                        reader_that_pins(kOld, kOtherPin)};
    holds(programs, kOldIsThere);
    const std::vector<std::string> expected{
        "thread 0, 0: store of 0 to 0 relaxed",  "thread 0, 1: store of 0 to 1 relaxed",
        "thread 0, 3: load of 5 relaxed",        "thread 0, 4: load of 6 relaxed",
        "thread 0, 10: store of 2 to 1 relaxed", "thread 0, 11: store of 1 to 0 relaxed",
        "thread 1, 0: load of 0 relaxed",        "thread 1, 2: load of 1 relaxed",
        "thread 1, 4: store of 1 to 5 relaxed",  "thread 1, 6: load of 0 relaxed",
        "thread 1, 8: load of 1 relaxed",        "thread 2, 0: load of 0 relaxed",
        "thread 2, 2: load of 1 relaxed",        "thread 2, 4: store of 1 to 6 relaxed",
        "thread 2, 6: load of 0 relaxed",        "thread 2, 8: load of 1 relaxed"};
    CHECK(not_noticed(programs, kOldIsThere) == expected);
}
