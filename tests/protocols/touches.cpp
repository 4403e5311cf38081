#include "explorer.h"

#include <doctest/doctest.h>

// The ring of model::ControlPage, with two slots: Attachment::touch() and PinBoard::drain().
using namespace cmpool::testing;

namespace {

using Order::Acquire;
using Order::Release;

constexpr Location kFirst = 0, kSecond = 1, kHead = 2, kTail = 3;

// Three touches: the third goes where the first was, once the server says that it has taken that.
Program client() {
    return {store(kFirst, 11, Release),
            store(kSecond, 12, Release),
            store(kHead, 2, Release),
            load(0, kTail, Acquire),
            require(0, 2),
            store(kFirst, 13, Release),
            store(kHead, 3, Release)};
}

Program server() {
    return {
        load(0, kHead, Acquire),
        require(0, 2),
        load(1, kFirst, Acquire),
        load(2, kSecond, Acquire),
        store(kTail, 2, Release),
        check("a touch that nobody wrote there", [](const Registers& r) { return r[1] == 11 && r[2] == 12; }),
        load(3, kHead, Acquire),
        require(3, 3),
        load(4, kFirst, Acquire),
        check("a touch of the round before", [](const Registers& r) { return r[4] == 13; })};
}

}  // namespace

TEST_CASE("touches: the server takes what the client has written, each once") {
    const std::vector<Program> programs{client(), server()};
    const auto seen = explore(programs, {});
    CHECK_MESSAGE(!seen.violation, seen.violation.value_or(""));
    CHECK(seen.ends > 0);
    // A touch itself is ordered by the head behind it and by the tail that says it was taken.
    std::vector<std::string> noticed;
    for (const auto& mutation : mutations(programs)) {
        if (explore(mutation.programs, {}).violation) noticed.push_back(mutation.what);
    }
    CHECK(noticed == std::vector<std::string>{
                         "thread 0, 2: store of 2 to 2 relaxed", "thread 0, 6: store of 3 to 2 relaxed",
                         "thread 1, 0: load of 2 relaxed", "thread 1, 6: load of 2 relaxed"});
}
