// Many prompts at once: each gets the tokens that it gets alone, and gives all its pages back.
#include "memory_cache.h"

#include <map>

#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/engine/generator.h>

#include <doctest/doctest.h>

using namespace cmpool;
using namespace cmpool::engine;
using Tokens = std::vector<std::uint32_t>;

namespace {

Tokens prompt_of(std::uint32_t seed, std::size_t count) {
    Rng rng(seed);
    Tokens tokens(count);
    for (auto& token : tokens) token = static_cast<std::uint32_t>(rng.below(200));
    return tokens;
}

class TestClock final : public Clock {
public:
    [[nodiscard]] Instant now() const noexcept override { return now_; }
    void advance(Nanos time) { now_ = now_ + time; }

private:
    Instant now_{1};
};

/// Its stores end when the test says so, or when they are dropped.
class SlowCache final : public client::ContextCache {
public:
    client::Prefix match(std::span<const std::uint32_t>) override { return {}; }
    std::unique_ptr<client::Load> load(client::Prefix, std::span<const std::uint32_t>, std::size_t) override {
        return nullptr;
    }
    client::Store store(std::span<const std::uint32_t>, std::size_t,
                        std::span<const std::uint32_t>) override {
        stores.push_back(std::make_shared<client::Store::State>());
        return client::Store(stores.back());
    }
    void computed(std::size_t, Nanos) override {}
    void end_dropped() {
        for (auto& store : stores) store->done.store(store->done.load() || store->dropped.load());
    }

    std::vector<std::shared_ptr<client::Store::State>> stores;
};

EngineOptions options(const Model& model, std::size_t step_tokens = 24) {
    return {.scheduler = {.step_tokens = step_tokens, .running_max = 8, .context = model.config().context}};
}

}  // namespace

TEST_CASE("prompts that come and go together get the tokens that each gets alone") {
    const auto model = Model::synthetic(40'000).value();
    const SystemClock clock;
    auto kv = PagedKv::create(model.config().block_shape(8), 60).value();
    std::vector<Tokens> prompts;
    std::vector<Tokens> alone;
    for (std::uint32_t seed = 0; seed < 12; ++seed) {
        prompts.push_back(prompt_of(seed % 3, 20));  // three beginnings, twelve ends
        const auto end = prompt_of(seed, 5 + seed * 6);
        prompts.back().insert(prompts.back().end(), end.begin(), end.end());
        alone.push_back(Generator(model, kv, nullptr, clock).generate(prompts.back(), 10).value().tokens);
    }
    for (const bool cached : {false, true}) {
        testing::MemoryCache cache(kv);
        Engine engine(model, kv, cached ? &cache : nullptr, clock, options(model));
        std::map<SequenceId, Tokens> given;
        std::size_t next = 0, ended = 0;
        Rng rng(5);
        for (int turn = 0; turn < 2000 && ended < prompts.size(); ++turn) {
            if (next < prompts.size() && rng.chance(0.4)) {
                REQUIRE(engine.submit({.id = next, .prompt = prompts[next], .output_max = 10}, Start::Here));
                ++next;
            }
            for (const Emission& emission : engine.turn().emissions) {
                given[emission.id].push_back(emission.token);
                if (emission.finish == Finish::None) continue;
                engine.release(emission.id);
                ++ended;
            }
        }
        for (std::size_t at = 0; at < prompts.size(); ++at) {
            CAPTURE(at);
            CHECK(given[at] == alone[at]);
        }
        CHECK(kv.free_blocks() == kv.capacity_blocks());
    }
}

TEST_CASE("a sequence that is given up at any moment gives its pages back") {
    const auto model = Model::synthetic(20'000).value();
    const SystemClock clock;
    auto kv = PagedKv::create(model.config().block_shape(8), 40).value();
    for (int turns = 0; turns < 12; ++turns) {
        testing::MemoryCache cache(kv);
        Engine engine(model, kv, &cache, clock, options(model, 8));
        for (SequenceId id = 0; id < 4; ++id)
            REQUIRE(engine.submit({.id = id, .prompt = prompt_of(1, 40), .output_max = 4}, Start::Here));
        for (int turn = 0; turn < turns; ++turn) (void)engine.turn();
        for (SequenceId id = 0; id < 4; ++id) {
            engine.release(id);
            CHECK_FALSE(engine.knows(id));
        }
        CHECK(kv.free_blocks() == kv.capacity_blocks());
        CHECK_FALSE(engine.turn().computed);
    }
}

// The pool may take its time; those who wait for pages may not.
TEST_CASE("pages that are being stored are kept, until somebody has waited for them for a while") {
    const auto model = Model::synthetic(20'000).value();
    TestClock clock;
    auto kv = PagedKv::create(model.config().block_shape(8), 10).value();
    SlowCache cache;
    Engine engine(model, kv, &cache, clock, options(model, 64));
    REQUIRE(engine.submit({.id = 1, .prompt = prompt_of(1, 60)}, Start::Here));
    REQUIRE(engine.turn().emissions.size() == 1);
    engine.release(1);
    clock.advance(std::chrono::hours(1));
    (void)engine.turn();
    CHECK(engine.closing() == 1);
    CHECK_FALSE(cache.stores[0]->dropped.load());  // nobody waits
    REQUIRE(engine.submit({.id = 2, .prompt = prompt_of(2, 60)}, Start::Here));
    (void)engine.turn();
    (void)engine.turn();
    CHECK(cache.stores[0]->dropped.load());
    CHECK(engine.scheduler().running() == 0);  // dropped is not done: it may still be read
    cache.end_dropped();
    CHECK(engine.turn().emissions.size() == 1);
    cache.stores[1]->done.store(true);
    engine.release(2);
    CHECK(kv.free_blocks() == kv.capacity_blocks());
}

TEST_CASE("a prompt that starts elsewhere has pages and no rows, until it has landed") {
    const auto model = Model::synthetic(20'000).value();
    const SystemClock clock;
    auto kv = PagedKv::create(model.config().block_shape(8), 20).value();
    const auto prompt = prompt_of(1, 30);
    const auto alone = Generator(model, kv, nullptr, clock).generate(prompt, 6).value().tokens;

    auto there = PagedKv::create(model.config().block_shape(8), 20).value();
    Engine prefill(model, there, nullptr, clock, options(model));
    REQUIRE(prefill.submit({.id = 1, .prompt = prompt}, Start::Here));
    std::vector<Emission> first;
    while (first.empty()) first = prefill.turn().emissions;

    testing::MemoryCache cache(kv);
    auto storing = options(model);
    storing.store_output = true;
    Engine decode(model, kv, &cache, clock, storing);
    REQUIRE(decode.submit({.id = 9, .prompt = prompt, .output_max = 6}, Start::Elsewhere));
    CHECK(decode.turn().admitted == std::vector<SequenceId>{9});
    CHECK_FALSE(decode.turn().computed);
    for (std::size_t block = 0; block < prefill.blocks(1).size(); ++block)
        std::ranges::copy(there.block_bytes(prefill.blocks(1)[block]),
                          kv.block_bytes(decode.blocks(9)[block]).begin());
    Tokens tokens{decode.landed(9, first[0].token).token};
    while (tokens.size() < 6) tokens.push_back(decode.turn().emissions.at(0).token);
    CHECK(tokens == alone);
    CHECK(cache.stored_blocks ==
          1);  // 35 tokens have keys and values; whoever computed the prompt stored three
    decode.release(9);
    prefill.release(1);
    CHECK(kv.free_blocks() == kv.capacity_blocks());
    CHECK(there.free_blocks() == there.capacity_blocks());
}
