#include "blocks.h"

#include <algorithm>

#include <doctest/doctest.h>

// A put: begin() gives it an extent that nobody finds, its bytes land there, commit() shows it; abort() gives
// the extent back. All blocks here take the same extent, one after the other: pool/src/domain_store.cpp and
// server_put.cpp, with the readers of blocks.h.
using namespace cmpool::testing;

namespace {

using Order::Acquire;
using Order::Release;

// The checksum of a header, which is there from the commit on. Where nobody pins: that the bytes may be
// written, and that they are.
constexpr Location kSum = 7, kAsked = kPin, kDone = kOtherPin;

Program all_of(std::initializer_list<Program> parts) {
    Program program;
    for (const auto& part : parts) append(program, part);
    return program;
}

Program begin(Value block) { return {store(kDigest, block), store(kSum, 0)}; }
Program land(Value block) { return {store(kPayload, block), store(kPayloadEnd, block)}; }
Program land_half(Value block) { return {store(kPayload, block)}; }
Program commit(Value block) { return all_of({{store(kDigest, block), store(kSum, block)}, publish(block)}); }

// What was evicted while somebody read it waits for the next sweep, and is used again only without a pin.
Program sweep() { return {load(0, kPin, Acquire), skip_if(0, 0, 2), load(0, kPin, Acquire), require(0, 0)}; }

// Copies the header's checksum as well, and hands it on with the bytes.
Program reader_of_sums(Value block) {
    Program program = find(block);
    append(program, copy_out());
    program.push_back(copy(7, kSum));
    program.push_back(fence(Acquire));
    append(program, look_again());
    append(program,
           {require(2, block), check("a reader has a checksum of nothing", [block](const Registers& r) {
                return r[3] == block && r[4] == block && r[7] == block;
            })});
    return program;
}
Program finds_nothing(Value block) {
    Program program = find(block);
    program.push_back(
        check("a reader finds what was never committed", [](const Registers&) { return false; }));
    return program;
}

constexpr std::array<Value, kLocations> kOldIsShown{kHere, kOld, kOld, kOld, kOld, 0, 0, kOld};
// An extent that has just been given back: the slot reads empty, the bytes are the old block's.
constexpr std::array<Value, kLocations> kOldIsGone{0, 0, kOld, kOld, kOld, 0, 0, kOld};

std::string violation(const std::vector<Program>& programs, const std::array<Value, kLocations>& initial) {
    const auto seen = explore(programs, initial).violation.value_or("nothing");
    return seen.substr(0, seen.find(','));
}

// Somebody else than the owner writes the bytes, as a device does: once asked, and says when they are there.
Program writer(Value block) {
    return all_of(
        {{load(0, kAsked, Acquire), require(0, block)}, land(block), {store(kDone, block, Release)}});
}
Program asked(Value block) { return all_of({begin(block), {store(kAsked, block, Release)}}); }
Program wait_for(Value block) { return {load(0, kDone, Acquire), require(0, block)}; }

}  // namespace

// Lists name what is noticed: each fence, what publishes, what unpins, and what waits for another's bytes.
// All else is implied, as protocols.cpp says.
using Names = std::vector<std::string>;

TEST_CASE("puts: one that is broken off is never found, and the next in its place is whole") {
    const Program owner =
        all_of({clear(), sweep(), begin(kNew), land_half(kNew), begin(kNewer), land(kNewer), commit(kNewer)});
    const Program pinned = reader_that_pins(kOld, kPin);
    holds({owner, reader_of_sums(kOld), reader_of_sums(kNewer)}, kOldIsShown);
    holds({owner, finds_nothing(kNew), reader_of_sums(kNewer)}, kOldIsShown);
    holds({owner, pinned, reader_of_sums(kNewer)}, kOldIsShown);
    CHECK(weaken({owner, pinned, reader_of_sums(kNewer)}, kOldIsShown).noticed ==
          Names{"thread 0, 2: full fence gone", "thread 0, 16: store of 3 to 1 relaxed",
                "thread 1, 5: full fence gone", "thread 1, 13: store of 0 to 5 relaxed",
                "thread 2, 2: load of 1 relaxed"});
    CHECK(weaken({owner, reader_of_sums(kOld)}, kOldIsShown).noticed ==
          Names{"thread 0, 2: full fence gone", "thread 1, 8: acquire fence gone"});
}

TEST_CASE("puts: one that expires makes room for the next while a reader has it pinned") {
    const Program owner = all_of({begin(kNew), land(kNew), commit(kNew), clear(), sweep(), begin(kNewer),
                                  land(kNewer), commit(kNewer)});
    const std::vector<Program> programs{owner, reader_that_pins(kNew, kPin), reader_of_sums(kNewer)};
    holds(programs, kOldIsGone);
    CHECK(weaken(programs, kOldIsGone).noticed ==
          Names{"thread 0, 10: full fence gone", "thread 0, 21: store of 3 to 1 relaxed",
                "thread 1, 5: full fence gone", "thread 1, 13: store of 0 to 5 relaxed",
                "thread 2, 2: load of 1 relaxed"});
    holds({owner, reader_of_sums(kNew), reader_of_sums(kNewer)}, kOldIsGone);
    CHECK(weaken({owner, reader_of_sums(kNew)}, kOldIsGone).noticed ==
          Names{"thread 0, 10: full fence gone", "thread 1, 8: acquire fence gone"});
}

TEST_CASE("puts: bytes that another writes are waited for, before a commit and before an abort") {
    const std::vector<Program> programs{all_of({asked(kNew), wait_for(kNew), commit(kNew)}), writer(kNew),
                                        reader_of_sums(kNew)};
    holds(programs, kOldIsGone);
    CHECK(weaken(programs, kOldIsGone).noticed ==
          Names{"thread 0, 3: load of 6 relaxed", "thread 1, 4: store of 2 to 6 relaxed"});
    // Two write the payload here, which the explorer takes in the order of its steps: enough where one waits
    // for the other, too little to weaken anything.
    const Program aborted =
        all_of({asked(kNew), wait_for(kNew), begin(kNewer), land(kNewer), commit(kNewer)});
    holds({aborted, writer(kNew), reader_of_sums(kNewer)}, kOldIsGone);
}

TEST_CASE("puts: steps in a wrong order are noticed") {
    const std::string torn = "a reader has a checksum of nothing";
    CHECK(violation({all_of({begin(kNew), commit(kNew), land(kNew)}), reader_of_sums(kNew)}, kOldIsGone) ==
          torn);
    CHECK(violation({all_of({begin(kNew), land(kNew), publish(kNew), commit(kNew)}), reader_of_sums(kNew)},
                    kOldIsGone) == torn);
    CHECK(violation({all_of({asked(kNew), commit(kNew)}), writer(kNew), reader_of_sums(kNew)}, kOldIsGone) ==
          torn);
    // An abort that does not wait: what lands late is in the next block.
    CHECK(violation({all_of({asked(kNew), begin(kNewer), land(kNewer), commit(kNewer)}), writer(kNew),
                     reader_of_sums(kNewer)},
                    kOldIsGone) == torn);
    // One that is begun before nobody finds, or has pinned, what lay there.
    CHECK(violation({all_of({begin(kNew), land(kNew), clear(), commit(kNew)}), reader_of_sums(kOld)},
                    kOldIsShown) == torn);
    CHECK(violation({all_of({clear(), begin(kNew), land(kNew), commit(kNew)}), reader_that_pins(kOld, kPin)},
                    kOldIsShown) == "a reader has bytes of another block");
}
