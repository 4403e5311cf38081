#include "blocks.h"

#include <doctest/doctest.h>

namespace cmpool::testing {

using Order::Acquire;
using Order::Full;
using Order::Release;

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

Program reader_that_pins(Value block, Location pin) {
    Program program = find(block);
    append(program, {store(pin, block, Release), fence(Full)});
    append(program, look_again());
    append(program, copy_out());
    append(program, {store(pin, 0, Release), whole(block)});
    return program;
}

Weakened weaken(const std::vector<Program>& programs, const std::array<Value, kLocations>& initial) {
    Weakened result;
    std::size_t states = 0;
    for (const auto& mutation : mutations(programs)) {
        const auto seen = explore(mutation.programs, initial);
        states += seen.states;
        (seen.violation ? result.noticed : result.not_noticed).push_back(mutation.what);
    }
    const std::size_t noticed = result.noticed.size();
    MESSAGE(noticed << " of " << noticed + result.not_noticed.size() << " mutations noticed, " << states
                    << " states");
    return result;
}

void holds(const std::vector<Program>& programs, const std::array<Value, kLocations>& initial) {
    const auto seen = explore(programs, initial);
    CHECK_MESSAGE(!seen.violation, seen.violation.value_or(""));
    CHECK(seen.ends > 0);
    MESSAGE(seen.states << " states, " << seen.ends << " ends");
}

}  // namespace cmpool::testing
