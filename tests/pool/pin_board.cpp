// The server's side of pages that clients write, and that hostile clients fill with anything.
#include "pin_board.h"

#include "fakes.h"

#include <cmpool/base/rng.h>

using namespace cmpool;
using namespace cmpool::pool;
using namespace cmpool::testing;

namespace {

/// A board with one client's page.
struct OnePage {
    explicit OnePage(
        std::unique_ptr<HeapSegment> memory = std::make_unique<HeapSegment>(sizeof(model::ControlPage)))
        : page(reinterpret_cast<model::ControlPage*>(memory->bytes().data())),
          id(board.add(std::move(memory), processes.handle())) {}
    PinBoard board;
    FakeProcesses processes;
    model::ControlPage* page;
    PinBoard::PageId id;
};

}  // namespace

TEST_CASE("a pin counts from its place below pins_end, for its insert only") {
    OnePage one;
    const model::Location at{.offset_units = 40, .units = 3, .generation = 7};
    one.page->pins[5] = model::pin_word(at);
    one.board.refresh();
    CHECK_FALSE(one.board.pinned(at));
    one.page->pins_end = 6;
    one.board.refresh();
    CHECK(one.board.pinned(at));
    CHECK_FALSE(one.board.pinned({.offset_units = 40, .units = 3, .generation = 8}));
    one.page->pins[5] = 0;
    one.board.refresh();
    CHECK_FALSE(one.board.pinned(at));
}

TEST_CASE("a page with garbage in every word costs bounded work and pins nothing real") {
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        CAPTURE(seed);
        OnePage one;
        Rng rng(seed);
        auto* words = reinterpret_cast<std::uint64_t*>(one.page);
        for (std::size_t at = 0; at < sizeof(model::ControlPage) / sizeof(std::uint64_t); ++at)
            words[at] = rng.next();
        one.page->pins_end = UINT64_MAX - rng.below(3);
        one.board.refresh();
        CHECK_FALSE(one.board.pinned({.offset_units = 1, .units = 1, .generation = 1}));
        std::vector<std::uint64_t> touches;
        for (int round = 0; round < 20; ++round) {
            touches.clear();
            one.page->touch_head = rng.next();  // jumps anywhere
            one.page->touch_tail = rng.next();  // ours to write; what stands here is not believed
            one.board.drain(touches);
            CHECK(touches.size() <= model::kTouchRingSlots);
        }
        (void)one.board.counts();
        (void)one.board.sweep();
        CHECK(one.board.pages() == 1);
    }
}

TEST_CASE("touches come once, in order, and a ring that was overrun only loses its own") {
    OnePage one;
    std::vector<std::uint64_t> touches;
    const auto touch = [&](std::uint64_t word) {
        one.page->touches[one.page->touch_head++ % model::kTouchRingSlots] = word;
    };
    for (std::uint64_t word = 1; word <= 3; ++word) touch(word);
    one.board.drain(touches);
    CHECK(touches == std::vector<std::uint64_t>{1, 2, 3});
    CHECK(one.page->touch_tail == 3);
    touches.clear();
    one.board.drain(touches);
    CHECK(touches.empty());

    one.page->touch_head += model::kTouchRingSlots + 1;  // more than a ring holds
    one.board.drain(touches);
    CHECK(touches.empty());
    touch(9);
    one.board.drain(touches);
    CHECK(touches == std::vector<std::uint64_t>{9});

    one.page->touch_head -= 5;  // backwards
    touches.clear();
    one.board.drain(touches);
    CHECK(touches.size() <= model::kTouchRingSlots);
}

// A client that lost its lane may still copy from what it pinned; only its end, or its own unpinning,
// says that it does not.
TEST_CASE("a page outlives its lane while its process lives and pins") {
    OnePage one;
    one.page->pins_end = 10;
    one.page->pins[3] = model::pin_word({.offset_units = 8, .units = 1, .generation = 2});
    one.board.leave(one.id);
    CHECK_FALSE(one.board.sweep());
    one.board.refresh();
    CHECK(one.board.pinned({.offset_units = 8, .units = 1, .generation = 2}));

    SUBCASE("until it unpins") { one.page->pins[3] = 0; }
    SUBCASE("until it ends") { one.processes.end_all(); }
    CHECK(one.board.sweep());
    CHECK(one.board.pages() == 0);
    one.board.refresh();
    CHECK_FALSE(one.board.pinned({.offset_units = 8, .units = 1, .generation = 2}));
}

TEST_CASE("a page whose lane is there stays, pins or not, dead process or not") {
    OnePage one;
    CHECK_FALSE(one.board.sweep());
    one.processes.end_all();
    CHECK_FALSE(one.board.sweep());
    CHECK(one.board.pages() == 1);
}

TEST_CASE("what clients counted is summed and stays when they leave") {
    OnePage one;
    one.page->counts.match_calls = 4;
    one.page->counts.get_bytes = 100;
    CHECK(one.board.counts().match_calls == 4);
    one.board.leave(one.id);
    CHECK(one.board.pages() == 0);
    CHECK(one.board.counts().match_calls == 4);
    CHECK(one.board.counts().get_bytes == 100);
}

// The first extent's pin was zero, which means no pin, once in 16 million inserts.
static_assert(model::pin_word({.offset_units = 0, .units = 1, .generation = 0}) != 0);
