#include "checkpoint_files.h"
#include "memory_cache.h"

#include <cstring>

#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/engine/generator.h>

using namespace cmpool;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr std::uint64_t kParameters = 40'000;

Tokens seeded_prompt(const engine::Model& model, std::size_t count, std::uint64_t seed = 7) {
    Rng rng(seed);
    Tokens tokens(count);
    for (auto& token : tokens) token = static_cast<std::uint32_t>(rng.below(model.config().vocab));
    return tokens;
}

/// One of each kind: keys and values of equal heads, of shared heads with norms and experts, latents, latents
/// for queries too.
std::vector<engine::Model> all_models() {
    return {engine::Model::synthetic(kParameters).value(), testing::seeded_checkpoint(testing::kQwenConfig),
            testing::seeded_checkpoint(testing::kDeepseekConfig),
            testing::seeded_checkpoint(testing::kDeepseekLargeConfig)};
}

/// What a forward pass left behind: what is kept of each token by layer, and the last logits.
/// It does not depend on the block size, so runs with different ones compare too.
using Trace = std::vector<float>;

Trace trace(engine::PagedKv& kv, std::span<const std::uint32_t> blocks, std::size_t tokens,
            std::span<const float> logits) {
    const engine::BlockShape& shape = kv.shape();
    const std::size_t row = std::size_t{shape.kv_heads} * shape.head_dim;
    Trace out(logits.begin(), logits.end());
    for (std::size_t position = 0; position < tokens; ++position) {
        const auto* block =
            reinterpret_cast<const float*>(kv.block_bytes(blocks[position / shape.tokens]).data());
        for (std::size_t part = 0; part < std::size_t{shape.layers} * shape.parts; ++part) {
            const float* from = block + (part * shape.tokens + position % shape.tokens) * row;
            out.insert(out.end(), from, from + row);
        }
    }
    return out;
}

Trace prefill(const engine::Model& model, const Tokens& prompt, std::size_t chunk,
              std::uint32_t block_tokens = 16, std::size_t threads = 1) {
    auto kv = engine::PagedKv::create(model.config().block_shape(block_tokens), 256).value();
    // Whatever the memory held before must not show through.
    std::memset(kv.bytes().data(), 0xff, kv.bytes().size());
    engine::BlockTable table(kv);
    REQUIRE(table.reserve(prompt.size()));
    engine::Forward forward(model, kv, chunk, threads);
    for (std::size_t start = 0; start < prompt.size(); start += chunk) {
        const auto tokens = std::span(prompt).subspan(start, std::min(chunk, prompt.size() - start));
        const engine::Slice slice{tokens, start, table.blocks()};
        forward.step({&slice, 1});
    }
    return trace(kv, table.blocks(), prompt.size(), forward.logits(0));
}

bool same_bytes(const Trace& one, const Trace& other) {
    return one.size() == other.size() &&
           std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("KV bytes do not depend on how prefill is cut into chunks, nor on the block size") {
    for (const auto& model : all_models()) {
        CAPTURE(model.identity());
        const auto prompt = seeded_prompt(model, 150);
        const auto whole = prefill(model, prompt, prompt.size());
        for (const std::size_t chunk : {1, 3, 7, 16, 33, 64}) {
            CAPTURE(chunk);
            CHECK(same_bytes(prefill(model, prompt, chunk), whole));
        }
        for (const std::uint32_t block_tokens : {1, 5, 32, 200}) {
            CAPTURE(block_tokens);
            CHECK(same_bytes(prefill(model, prompt, 48, block_tokens), whole));
        }
    }
}

// Who computes which part is chance: often enough, and no part may feel it.
TEST_CASE("KV bytes do not depend on how many threads compute a step") {
    auto models = all_models();
    models.push_back(engine::Model::synthetic(300'000).value());  // its products are worth dividing
    for (const auto& model : models) {
        CAPTURE(model.identity());
        const auto prompt = seeded_prompt(model, 150);
        const auto alone = prefill(model, prompt, prompt.size());
        for (const std::size_t threads : {2, 3, 5}) {
            CAPTURE(threads);
            for (const std::size_t chunk : {1, 33, 150})
                CHECK(same_bytes(prefill(model, prompt, chunk, 16, threads), alone));
        }
    }
}

// Continuous batching puts strangers next to each other; none may feel it.
TEST_CASE("KV bytes do not depend on what else is in the batch") {
    for (const auto& model : all_models()) {
        CAPTURE(model.identity());
        auto kv = engine::PagedKv::create(model.config().block_shape(16), 64).value();
        const std::size_t lengths[] = {1, 40, 17};
        std::vector<Tokens> prompts;
        std::vector<std::unique_ptr<engine::BlockTable>> tables;
        std::vector<engine::Slice> batch;
        for (const std::size_t length : lengths) {
            prompts.push_back(seeded_prompt(model, length, length));
            tables.push_back(std::make_unique<engine::BlockTable>(kv));
            REQUIRE(tables.back()->reserve(length));
        }
        for (std::size_t index = 0; index < prompts.size(); ++index)
            batch.push_back({prompts[index], 0, tables[index]->blocks()});
        engine::Forward forward(model, kv, 58);
        forward.step(batch);
        for (std::size_t index = 0; index < prompts.size(); ++index) {
            CAPTURE(index);
            const auto together =
                trace(kv, tables[index]->blocks(), prompts[index].size(), forward.logits(index));
            CHECK(same_bytes(together, prefill(model, prompts[index], prompts[index].size())));
        }
    }
}

// The whole point: computing after any number of cached blocks ends in the same bytes as computing all.
TEST_CASE("every hit length gives the cold run's tokens, and stores the cold run's bytes") {
    const SystemClock clock;
    for (const auto& model : all_models()) {
        CAPTURE(model.identity());
        const auto prompt = seeded_prompt(model, 83);
        auto kv = engine::PagedKv::create(model.config().block_shape(8), 64).value();
        const auto cold = engine::Generator(model, kv, nullptr, clock).generate(prompt, 24).value();
        CHECK(cold.reused_tokens == 0);

        testing::MemoryCache all(kv);
        CHECK(engine::Generator(model, kv, &all, clock).generate(prompt, 24).value().tokens == cold.tokens);
        CHECK(all.stored_blocks == 10);
        for (std::size_t hit = 0; hit <= 10; ++hit) {
            for (const std::size_t from_the_back : {hit, hit / 2, std::size_t{0}}) {
                CAPTURE(hit);
                CAPTURE(from_the_back);
                all.blocks_max = hit;
                all.from_the_back = from_the_back;
                all.computed_tokens = 0;
                const testing::MemoryCache before = all;
                const auto warm = engine::Generator(model, kv, &all, clock, {.chunk_tokens = 13})
                                      .generate(prompt, 24)
                                      .value();
                CHECK(warm.reused_tokens == from_the_back * 8);
                CHECK(all.computed_tokens == prompt.size() - warm.reused_tokens);
                CHECK(warm.tokens == cold.tokens);
                CHECK(all.same_blocks(before));
            }
        }
        CHECK(kv.free_blocks() == kv.capacity_blocks());
    }
}

// Logits come from computing the last token, so a full hit of a whole number of blocks is cut by one.
TEST_CASE("a prompt of whole blocks that are all cached still computes its last block") {
    const auto model = engine::Model::synthetic(kParameters).value();
    const SystemClock clock;
    auto kv = engine::PagedKv::create(model.config().block_shape(8), 64).value();
    testing::MemoryCache store(kv);
    engine::Generator generator(model, kv, &store, clock);
    const auto prompt = seeded_prompt(model, 32);
    const auto cold = generator.generate(prompt, 5).value();
    const auto warm = generator.generate(prompt, 5).value();
    CHECK(warm.reused_tokens == 24);
    CHECK(warm.tokens == cold.tokens);
}

TEST_CASE("a synthetic model's text moves, and is the same every time") {
    const SystemClock clock;
    std::vector<Tokens> runs;
    for (int round = 0; round < 2; ++round) {
        const auto model = engine::Model::synthetic(300'000).value();
        auto kv = engine::PagedKv::create(model.config().block_shape(16), 16).value();
        runs.push_back(engine::Generator(model, kv, nullptr, clock)
                           .generate(seeded_prompt(model, 20), 48)
                           .value()
                           .tokens);
    }
    CHECK(runs[0] == runs[1]);
    std::ranges::sort(runs[0]);
    CHECK(std::ranges::unique(runs[0]).begin() - runs[0].begin() >= 8);
}

TEST_CASE("what cannot be generated is refused with what was expected") {
    const auto model = engine::Model::synthetic(kParameters).value();
    const SystemClock clock;
    auto kv = engine::PagedKv::create(model.config().block_shape(16), 2).value();
    engine::Generator generator(model, kv, nullptr, clock);
    CHECK(generator.generate({}, 1).error().code == Errc::Invalid);
    CHECK(generator.generate(Tokens{model.config().vocab}, 1).error().code == Errc::Invalid);
    CHECK(generator.generate(Tokens(model.config().context + 1, 1), 1).error().code == Errc::Invalid);
    CHECK(generator.generate(Tokens(33, 1), 1).error().code == Errc::Invalid);
    CHECK(generator.generate(Tokens(3, 1), 0).error().code == Errc::Invalid);
    CHECK(generator.generate(Tokens(32, 1), 1).value().tokens.size() == 1);
    CHECK(kv.free_blocks() == 2);
}

TEST_CASE("generation ends before a stop token") {
    const auto model = engine::Model::synthetic(kParameters).value();
    const SystemClock clock;
    auto kv = engine::PagedKv::create(model.config().block_shape(16), 8).value();
    const Tokens prompt{1, 70, 71};
    const auto free = engine::Generator(model, kv, nullptr, clock).generate(prompt, 20).value().tokens;
    REQUIRE(free.size() == 20);
    const auto at = std::ranges::find(free, free[5]) - free.begin();
    engine::Generator stopping(model, kv, nullptr, clock, {.stop_tokens = {free[5]}});
    CHECK(stopping.generate(prompt, 20).value().tokens == Tokens(free.begin(), free.begin() + at));
}
