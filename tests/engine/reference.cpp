#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>

#include <cmpool/engine/forward.h>
#include <cmpool/testing/shared_data.h>
#include <cmpool/testing/temp_folder.h>

#include <nlohmann/json.hpp>

using namespace cmpool;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr float kTolerance = 1e-4f;

/// A checkpoint of `tests/fixtures` in its usual form, a folder, and its logits in double precision.
struct Reference {
    testing::TempFolder folder;
    nlohmann::json logits;

    static std::unique_ptr<Reference> open(const std::string& name, bool shards = false) {
        const auto config = testing::shared_data("models/hf-tiny/" + name + "_config.json");
        if (!config) return nullptr;
        const auto beside = [&](const std::string& file) { return config->parent_path() / file; };
        auto reference = std::make_unique<Reference>();
        const auto& to = reference->folder;
        std::filesystem::copy(*config, to / "config.json");
        if (shards) {
            std::filesystem::copy(beside(name + ".safetensors.index.json"),
                                  to / "model.safetensors.index.json");
            for (const char* part : {"-00001-of-00002", "-00002-of-00002"})
                std::filesystem::copy(beside(name + part + ".safetensors"),
                                      to / (name + part + ".safetensors"));
        } else {
            std::filesystem::copy(beside(name + ".safetensors"), to / "model.safetensors");
        }
        reference->logits = nlohmann::json::parse(std::ifstream(beside(name + "_logits.json")));
        return reference;
    }
};

/// The largest deviation over all sequences and positions, one token a step.
float deviation(const engine::Model& model, const nlohmann::json& expected, std::uint32_t block_tokens) {
    auto kv = engine::PagedKv::create(model.config().block_shape(block_tokens), 16).value();
    std::ranges::fill(kv.bytes(), std::byte{0xff});
    engine::Forward forward(model, kv, 1);
    float largest = 0;
    REQUIRE(expected.at("sequences").size() == 3);
    for (std::size_t sequence = 0; sequence < 3; ++sequence) {
        const Tokens tokens = expected["sequences"][sequence];
        engine::BlockTable table(kv);
        REQUIRE(table.reserve(tokens.size()));
        for (std::size_t position = 0; position < tokens.size(); ++position) {
            const engine::Slice slice{std::span(tokens).subspan(position, 1), position, table.blocks()};
            forward.step({&slice, 1});
            const std::vector<float> row = expected["logits"][sequence][position];
            REQUIRE(row.size() == forward.logits(0).size());
            for (std::size_t index = 0; index < row.size(); ++index) {
                const float apart = std::abs(row[index] - forward.logits(0)[index]);
                REQUIRE(std::isfinite(apart));
                largest = std::max(largest, apart);
            }
        }
    }
    return largest;
}

void check_reference(const std::string& name, bool shards = false) {
    CAPTURE(name);
    const auto reference = Reference::open(name, shards);
    if (!reference) return;
    const auto model = engine::Model::open(reference->folder.path().string());
    REQUIRE_MESSAGE(model, model.error().detail);
    float largest = 0;
    for (const std::uint32_t block_tokens : {1, 5, 16})
        largest = std::max(largest, deviation(*model, reference->logits, block_tokens));
    MESSAGE(name << ": largest deviation " << largest);
    CHECK(largest < kTolerance);
}

}  // namespace

TEST_CASE("a Llama checkpoint gives the reference's logits, position by position") {
    check_reference("tiny_llama");
}

TEST_CASE("so it does in two shards, and is the same model") {
    check_reference("tiny_llama", true);
    const auto whole = Reference::open("tiny_llama");
    const auto shards = Reference::open("tiny_llama", true);
    if (!whole || !shards) return;
    CHECK(engine::Model::open(whole->folder.path().string())->identity() ==
          engine::Model::open(shards->folder.path().string())->identity());
}

TEST_CASE("a DeepSeek-V2 checkpoint does, from a latent of 9 floats a token and layer") {
    check_reference("tiny_deepseek_v2");
    const auto reference = Reference::open("tiny_deepseek_v2");
    if (!reference) return;
    const auto model = engine::Model::open(reference->folder.path().string()).value();
    CHECK(model.config().block_shape(1).bytes() == 2 * (5 + 4) * sizeof(float));
}

TEST_CASE("a DeepSeek-V2 checkpoint with yarn does") { check_reference("tiny_deepseek_v2_yarn"); }

TEST_CASE("a Qwen3 checkpoint with experts does") { check_reference("tiny_qwen3_moe"); }
