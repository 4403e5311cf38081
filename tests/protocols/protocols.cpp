#include "blocks.h"

#include <algorithm>

#include <doctest/doctest.h>

using namespace cmpool::testing;

namespace {

using Order::Acquire;
using Order::Full;
using Order::Release;

Program owner_that_reuses(std::initializer_list<Value> blocks) {
    Program program;
    for (const Value block : blocks) {
        append(program, clear());
        append(program, fill(block));
        append(program, publish(block));
    }
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
    auto left = weaken({owner_that_reuses({kNew, kNewer}), reader_of(kNew)}, kOldIsThere).not_noticed;
    CHECK(std::erase(left, "thread 0, 2: full fence gone") == 1);
    CHECK(left == expected);
    left = weaken({owner_that_reuses({kNew}), reader_of(kOld)}, kOldIsThere).not_noticed;
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
    CHECK(weaken(programs, kOldIsThere).not_noticed == expected);
}
