#include "memory_cache.h"

#include <fstream>
#include <optional>

#include <cmpool/base/clock.h>
#include <cmpool/engine/generator.h>
#include <cmpool/engine/tokenizer.h>
#include <cmpool/testing/shared_data.h>

#include <nlohmann/json.hpp>

using namespace cmpool;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr std::uint32_t kBlockTokens = 16;

/// The trained checkpoint and what a double-precision program computed from it.
struct Stories {
    engine::Model model;
    engine::Tokenizer tokenizer;
    nlohmann::json cases;
    engine::PagedKv kv;

    static std::optional<Stories> open() {
        const auto model_path = testing::shared_data("models/stories260K/stories260K.bin");
        const auto table_path = testing::shared_data("models/stories260K/tok512.bin");
        const auto golden_path = testing::shared_data("models/stories260K/golden.json");
        if (!model_path || !table_path || !golden_path) return std::nullopt;
        const auto model = engine::Model::load(*model_path).value();
        const auto cases = nlohmann::json::parse(std::ifstream(*golden_path)).at("cases");
        REQUIRE(cases.size() == 8);
        return Stories{model, engine::Tokenizer::load(*table_path, model.config().vocab).value(), cases,
                       engine::PagedKv::create(model.config().block_shape(kBlockTokens), 32).value()};
    }

    const nlohmann::json& named(const std::string& name) const {
        return *std::ranges::find_if(cases, [&](const auto& one) { return one.at("name") == name; });
    }
};

void check_case(const Stories& stories, const nlohmann::json& expected, engine::Generator& generator,
                std::optional<std::size_t> reused = std::nullopt) {
    CAPTURE(expected.at("name").get<std::string>());
    auto tokens = stories.tokenizer.encode(expected.at("prompt").get<std::string>());
    CHECK(tokens == expected.at("prompt_ids").get<Tokens>());
    const Tokens output = expected.at("output_ids");
    const auto run = generator.generate(tokens, output.size());
    REQUIRE(run);
    CHECK(run->tokens == output);
    if (reused) CHECK(run->reused_tokens == *reused);
    tokens.insert(tokens.end(), run->tokens.begin(), run->tokens.end());
    CHECK(stories.tokenizer.decode(tokens) == expected.at("text").get<std::string>());
}

}  // namespace

TEST_CASE("a trained model says what the reference says") {
    auto stories = Stories::open();
    if (!stories) return;
    const SystemClock clock;
    engine::Generator generator(stories->model, stories->kv, nullptr, clock);
    for (const auto& expected : stories->cases) check_case(*stories, expected, generator, 0);
    CHECK(stories->kv.free_blocks() == stories->kv.capacity_blocks());
}

TEST_CASE("a trained model says the same with prefixes from a store") {
    auto stories = Stories::open();
    if (!stories) return;
    const SystemClock clock;
    testing::MemoryCache store(stories->kv);
    engine::Generator generator(stories->model, stories->kv, &store, clock);
    for (const auto& expected : stories->cases) check_case(*stories, expected, generator);
    // Now every prompt is known, up to the block that its last token needs.
    for (const auto& expected : stories->cases) {
        const std::size_t prompt_tokens = expected.at("prompt_ids").size();
        check_case(*stories, expected, generator, (prompt_tokens - 1) / kBlockTokens * kBlockTokens);
    }
}

// The two prompts have 136 tokens in common: eight whole blocks and half of a ninth.
TEST_CASE("of 136 common tokens the 128 in whole blocks are reused") {
    auto stories = Stories::open();
    if (!stories) return;
    const SystemClock clock;
    testing::MemoryCache store(stories->kv);
    engine::Generator generator(stories->model, stories->kv, &store, clock);
    check_case(*stories, stories->named("shared_prefix_a"), generator, 0);
    CHECK(store.stored_blocks == 8);
    check_case(*stories, stories->named("shared_prefix_b"), generator, 128);
    check_case(*stories, stories->named("shared_prefix_a_longer"), generator, 128);
    CHECK(store.stored_blocks == 9);
}

TEST_CASE("logits are the reference's to single precision") {
    auto stories = Stories::open();
    if (!stories) return;
    for (const auto& expected : stories->cases) {
        CAPTURE(expected.at("name").get<std::string>());
        const Tokens prompt = expected.at("prompt_ids");
        engine::BlockTable table(stories->kv);
        REQUIRE(table.reserve(prompt.size()));
        engine::Forward forward(stories->model, stories->kv, prompt.size());
        const engine::Slice slice{prompt, 0, table.blocks()};
        forward.step({&slice, 1});
        for (const auto& top : expected.at("prefill_top5"))
            CHECK(forward.logits(0)[top.at(0)] == doctest::Approx(top.at(1).get<double>()).epsilon(1e-4));
    }
}
