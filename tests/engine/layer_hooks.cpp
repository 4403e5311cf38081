#include "checkpoint_files.h"

#include <algorithm>
#include <cstring>

#include <cmpool/engine/forward.h>

#include <doctest/doctest.h>

using namespace cmpool;
using engine::Slice;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr std::uint32_t kBlockTokens = 8;
constexpr std::size_t kCachedTokens = 24;

Tokens prompt_of(std::size_t count) {
    Rng rng(5);
    Tokens tokens(count);
    for (auto& token : tokens) token = static_cast<std::uint32_t>(rng.below(31));
    return tokens;
}

/// A prompt computed in one step.
struct Cold {
    explicit Cold(const engine::Model& model, const Tokens& prompt)
        : kv(engine::PagedKv::create(model.config().block_shape(kBlockTokens), 8).value()), table(kv) {
        CMPOOL_ASSERT(table.reserve(prompt.size()).has_value());
        std::ranges::fill(kv.bytes(), std::byte{0});
        engine::Forward forward(model, kv, prompt.size());
        const Slice slice{prompt, 0, table.blocks()};
        forward.step({&slice, 1});
        logits.assign(forward.logits(0).begin(), forward.logits(0).end());
    }

    engine::PagedKv kv;
    engine::BlockTable table;
    std::vector<float> logits;
};

/// Fills in the cached blocks of a layer when it is about to be read, and not before.
class LateLoader final : public engine::LayerHooks {
public:
    LateLoader(engine::PagedKv& from, engine::PagedKv& to) : from_(from), to_(to) {}

    void on_written(std::size_t layer, std::span<const Slice> batch) override {
        calls.push_back({'w', layer});
        CHECK(batch.size() == 1);
    }
    bool on_reading(std::size_t layer, std::span<const Slice> batch) override {
        calls.push_back({'r', layer});
        if (layer == give_up_at) return false;
        const std::size_t bytes = from_.shape().layer_bytes();
        for (std::size_t block = 0; block < kCachedTokens / kBlockTokens; ++block) {
            std::memcpy(to_.block_bytes(batch[0].blocks[block]).data() + layer * bytes,
                        from_.block_bytes(static_cast<std::uint32_t>(block)).data() + layer * bytes, bytes);
        }
        return true;
    }

    std::vector<std::pair<char, std::size_t>> calls;
    std::size_t give_up_at = SIZE_MAX;

private:
    engine::PagedKv& from_;
    engine::PagedKv& to_;
};

}  // namespace

TEST_CASE("blocks may come layer by layer, each when its layer is about to be read") {
    for (const auto& config : {testing::kLlamaConfig, testing::kDeepseekConfig}) {
        const auto model = testing::seeded_checkpoint(config);
        const auto prompt = prompt_of(40);
        Cold cold(model, prompt);
        auto kv = engine::PagedKv::create(model.config().block_shape(kBlockTokens), 8).value();
        std::ranges::fill(kv.bytes(), std::byte{0xff});
        engine::BlockTable table(kv);
        REQUIRE(table.reserve(prompt.size()));
        engine::Forward forward(model, kv, prompt.size());
        const Slice suffix{std::span(prompt).subspan(kCachedTokens), kCachedTokens, table.blocks()};

        // A loader that comes too late for a layer ends the step; a later one can take it up again.
        LateLoader loader(cold.kv, kv);
        loader.give_up_at = 1;
        CHECK_FALSE(forward.step({&suffix, 1}, loader));
        CHECK(loader.calls ==
              std::vector<std::pair<char, std::size_t>>{{'w', 0}, {'r', 0}, {'w', 1}, {'r', 1}});

        loader.calls.clear();
        loader.give_up_at = SIZE_MAX;
        CHECK(forward.step({&suffix, 1}, loader));
        REQUIRE(loader.calls.size() == std::size_t{2} * model.config().layers);
        for (std::size_t index = 0; index < loader.calls.size(); ++index)
            CHECK(loader.calls[index] == std::pair(index % 2 == 0 ? 'w' : 'r', index / 2));
        CHECK(std::ranges::equal(forward.logits(0), cold.logits));
        const auto bytes = prompt.size() / kBlockTokens * kv.shape().bytes();
        CHECK(std::memcmp(kv.bytes().data(), cold.kv.bytes().data(), bytes) == 0);
    }
}

// What on_written() promises: a layer's bytes of the step's tokens can leave while later layers compute.
TEST_CASE("a layer's bytes are final once it is written") {
    class Keeper final : public engine::LayerHooks {
    public:
        explicit Keeper(engine::PagedKv& kv) : kv_(kv) {}
        void on_written(std::size_t layer, std::span<const Slice> batch) override {
            const std::size_t bytes = kv_.shape().layer_bytes();
            for (const std::uint32_t block : batch[0].blocks) {
                const auto from = kv_.block_bytes(block).subspan(layer * bytes, bytes);
                kept.insert(kept.end(), from.begin(), from.end());
            }
        }
        std::vector<std::byte> kept;

    private:
        engine::PagedKv& kv_;
    };
    const auto model = testing::seeded_checkpoint(testing::kLlamaConfig);
    const auto prompt = prompt_of(16);
    Cold cold(model, prompt);
    auto kv = engine::PagedKv::create(model.config().block_shape(kBlockTokens), 2).value();
    engine::BlockTable table(kv);
    REQUIRE(table.reserve(prompt.size()));
    engine::Forward forward(model, kv, prompt.size());
    Keeper keeper(kv);
    const Slice slice{prompt, 0, table.blocks()};
    REQUIRE(forward.step({&slice, 1}, keeper));

    std::vector<std::byte> expected;
    const std::size_t bytes = kv.shape().layer_bytes();
    for (std::size_t layer = 0; layer < model.config().layers; ++layer) {
        for (std::uint32_t block = 0; block < 2; ++block) {
            const auto from = cold.kv.block_bytes(block).subspan(layer * bytes, bytes);
            expected.insert(expected.end(), from.begin(), from.end());
        }
    }
    CHECK(keeper.kept == expected);
}
