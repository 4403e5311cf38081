// Loading from the back, computing from the front: who fills which block, and when it pays.
#include <cstdlib>
#include <optional>
#include <thread>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/client/context_cache.h>

#include <doctest/doctest.h>

using namespace cmpool;
using namespace cmpool::client;
using namespace std::chrono_literals;

namespace {

enum class Filled : std::uint8_t { Nobody, Computed, Loading, Loaded };

}  // namespace

TEST_CASE("whatever the order of claims, each block is filled once, and by one side") {
    for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        const std::size_t blocks = rng.below(40);
        Meeting meeting(blocks);
        std::vector<Filled> filled(blocks, Filled::Nobody);
        std::optional<Meeting::Range> out;
        for (int step = 0; step < 1000 && !meeting.met(); ++step) {
            switch (rng.below(step < 900 ? 4 : 3)) {
                case 0: {
                    const std::size_t first = meeting.front();
                    const std::size_t count = meeting.claim_front(rng.below(5));
                    for (std::size_t at = first; at < first + count; ++at) {
                        REQUIRE(filled[at] == Filled::Nobody);
                        filled[at] = Filled::Computed;
                    }
                    break;
                }
                case 1:
                    if (out) break;
                    out = meeting.claim_back(1 + rng.below(6));
                    for (std::size_t at = out->first; at < out->first + out->count; ++at) {
                        REQUIRE(filled[at] == Filled::Nobody);
                        filled[at] = Filled::Loading;
                    }
                    break;
                case 2: {
                    if (!out) break;
                    if (rng.chance(0.1)) {
                        meeting.give_back();
                        for (std::size_t at = out->first; at < out->first + out->count; ++at)
                            filled[at] = Filled::Nobody;
                        out.reset();
                        break;
                    }
                    const std::size_t good = rng.chance(0.9) ? out->count : rng.below(out->count + 1);
                    meeting.landed(good);
                    for (std::size_t at = out->first; at < out->first + out->count; ++at)
                        filled[at] = at < out->first + out->count - good ? Filled::Nobody : Filled::Loaded;
                    out.reset();
                    break;
                }
                default:
                    if (rng.chance(0.05)) meeting.stop();
            }
            CHECK(meeting.in_flight() == (out ? out->count : 0));
        }
        REQUIRE(meeting.met());
        for (std::size_t at = 0; at < blocks; ++at)
            REQUIRE(filled[at] == (at < meeting.front() ? Filled::Computed : Filled::Loaded));
    }
}

TEST_CASE("a stopped meeting claims nothing more for loading, and what is out still lands") {
    Meeting meeting(10);
    CHECK(meeting.claim_back(4).first == 6);
    meeting.stop();
    CHECK(meeting.claim_front(99) == 6);
    CHECK_FALSE(meeting.met());
    meeting.landed(4);
    CHECK(meeting.met());
    CHECK(meeting.claim_back(1).count == 0);
}

TEST_CASE("both sides end together, and nobody computes what loads sooner") {
    CHECK(front_share(100, 1ms, {0ms, 1ms}) == 50);
    CHECK(front_share(100, 1ms, {0ms, 3ms}) == 25);
    CHECK(front_share(100, 3ms, {0ms, 1ms}) == 75);
    CHECK(front_share(100, 1us, {0ms, 1ms}) == 0);
    CHECK(front_share(100, 1ms, {50ms, 1ms}) == 25);
    CHECK(front_share(100, 1ms, {200ms, 1us}) == 0);  // a step alone takes longer
    CHECK(front_share(0, 1ms, {0ms, 1ms}) == 0);
    CHECK(front_share(100, 0ms, {0ms, 0ms}) == 50);
    CHECK(front_share(100, Nanos::max(), {0ms, 1ms}) == 99);
    CHECK(blocks_within(10ms, 3ms) == 3);
    CHECK(blocks_within(0ms, 3ms) == 0);
    CHECK(blocks_within(10ms, 0ms) > 1'000'000);
}

TEST_CASE("the cost model knows nothing before it has seen something, and follows what it sees") {
    CostModel costs;
    CHECK_FALSE(costs.load(1));
    CHECK_FALSE(costs.compute(1));
    costs.loaded(1000, 1ms);
    CHECK(costs.load(2000) == 2ms);
    for (int again = 0; again < 50; ++again) costs.loaded(1000, 10ms);
    CHECK(*costs.load(1000) > 9ms);
    costs.loaded(0, 1h);  // nothing learned from nothing
    CHECK(*costs.load(1000) < 10ms);
    // Steps of one size say nothing about what is fixed.
    costs.computed(128, 64ms);
    CHECK(costs.compute(16)->step == 0ms);
    CHECK(costs.compute(16)->block == 8ms);
}

TEST_CASE("the cost model tells what a step costs from what its tokens cost") {
    CostModel costs;
    for (const int tokens : {128, 16, 100, 128, 7, 64}) costs.computed(tokens, 10ms + tokens * 500us);
    CHECK(std::abs((costs.compute(16)->step - 10ms) / 1us) < 100);
    CHECK(std::abs((costs.compute(16)->block - 8ms) / 1us) < 100);
    // A machine that contradicts itself is not believed: nothing is cheaper for being larger.
    for (const int tokens : {128, 16, 128, 16}) costs.computed(tokens, tokens == 16 ? 100ms : 1ms);
    CHECK(costs.compute(16)->step >= 0ms);
    CHECK(costs.compute(16)->block >= 0ms);
}

namespace {

class StillClock final : public Clock {
public:
    [[nodiscard]] Instant now() const noexcept override { return now_; }
    void advance(Nanos time) { now_ = now_ + time; }

private:
    Instant now_{1'000'000'000};
};

}  // namespace

// A pool that was fast a moment ago may have stopped: its batch then gets dearer while it lasts.
TEST_CASE("the engine waits for a fast load, and computes once the load is late") {
    StillClock clock;
    const auto state = std::make_shared<Load::State>(100, clock);
    state->load_per_block = 10us;
    state->compute = {.step = 0ms, .block = 2ms};
    Load load(state, Match{});
    (void)state->meeting.claim_back(20);
    const Advice first = load.advise();
    CHECK(first.compute_blocks == 0);
    CHECK(first.look_again > 0ms);
    clock.advance(200ms);
    CHECK(load.advise().compute_blocks > 0);
    // Slow from the beginning: both share the work.
    state->load_per_block = 2ms;
    clock.advance(-200ms);
    CHECK(load.advise().compute_blocks == 50);
    CHECK(load.claim(1000) == 80);
    CHECK(load.advise().compute_blocks == 0);  // the rest is on its way
    state->meeting.landed(20);
    CHECK(load.met());
    CHECK(load.loaded_blocks() == 20);
}

TEST_CASE("what can come beside the next step leaves less for the computing side, until it is late") {
    StillClock clock;
    const auto state = std::make_shared<Load::State>(100, clock);
    state->load_per_block = 2ms;
    state->compute = {.step = 0ms, .block = 2ms};
    state->beside = 100ms;
    Load load(state, Match{});
    CHECK(load.advise().compute_blocks == 25);  // 50 are left for both
    state->beside = 200ms;
    CHECK(load.advise().compute_blocks == 0);
    (void)state->meeting.claim_back(10);
    clock.advance(30ms);  // 3 ms a block: 66 of them would come
    CHECK(load.advise().compute_blocks == 20);
    state->meeting.landed(10);
}

TEST_CASE("who waits for layers goes on when they are here, or will not come") {
    StillClock clock;
    const auto state = std::make_shared<Load::State>(10, clock);
    Load load(state, Match{});
    CHECK_FALSE(load.ready());
    CHECK_FALSE(load.wait_for(0));  // nothing comes by layers
    (void)state->meeting.claim_back(10);
    state->by_layers = true;
    CHECK_FALSE(load.ready());
    state->layers_here = 2;
    CHECK(load.ready());
    CHECK_FALSE(load.met());
    CHECK(load.wait_for(1));
    CHECK(load.end() == Load::End::NotYet);
    std::jthread loader([&] {
        const std::scoped_lock lock(state->mutex);
        state->by_layers = false;
        state->meeting.give_back();
        state->changed.notify_all();
    });
    CHECK_FALSE(load.wait_for(2));
    CHECK(load.claim(3) == 3);
    CHECK(load.end() == Load::End::Failed);  // who computes some of it will not load it all
    (void)state->meeting.claim_back(7);
    state->meeting.landed(7);
    CHECK(load.wait_for(2));
    CHECK(load.met());
}

// A step that computes may end after the load; what it saves must be worth that.
TEST_CASE("the engine computes beside a load where that saves an eighth of it, not less") {
    StillClock clock;
    const auto state = std::make_shared<Load::State>(100, clock);
    state->compute = {.step = 0ms, .block = 2ms};
    Load load(state, Match{});
    state->load_per_block = 200us;
    CHECK(load.advise().compute_blocks == 0);
    state->load_per_block = 400us;
    CHECK(load.advise().compute_blocks == 16);
}

TEST_CASE("what is not loaded any more is computed, all of it") {
    StillClock clock;
    const auto state = std::make_shared<Load::State>(30, clock);
    state->load_per_block = 1us;
    state->compute = {.step = 0ms, .block = 1s};
    Load load(state, Match{});
    (void)state->meeting.claim_back(10);
    state->meeting.landed(3);  // seven were gone
    CHECK(load.advise().compute_blocks == 27);
    CHECK(load.claim(27) == 27);
    CHECK(load.met());
}

TEST_CASE("pages of both orders name the same bytes in the pool's order") {
    std::vector<std::byte> memory(2 * 2 * 3 * 4 * 8);
    KvPages kv{.layers = 2, .parts = 2, .heads = 1, .head_size = 2, .elem_bytes = 4, .block_tokens = 4};
    kv.memory = memory;
    REQUIRE(kv.check());
    CHECK(kv.page_bytes() == 128);
    CHECK(kv.pages() == 3);
    std::vector<MutableBytes> pieces;
    kv.append_pieces(1, pieces);
    REQUIRE(pieces.size() == 1);
    CHECK(pieces[0].data() == memory.data() + 128);
    CHECK(pieces[0].size() == 128);
    kv.order = KvPages::Order::LayerFirst;
    pieces.clear();
    kv.append_pieces(1, pieces);
    REQUIRE(pieces.size() == 4);
    for (std::size_t part = 0; part < 4; ++part) {
        CHECK(pieces[part].data() == memory.data() + part * 3 * 32 + 32);
        CHECK(pieces[part].size() == 32);
    }
    kv.memory = MutableBytes(memory).first(100);
    CHECK(kv.check().error().code == Errc::Invalid);
    kv.heads = 0;
    CHECK(kv.check().error().code == Errc::Invalid);
}
