// A hit whose layers come while the step behind it computes: the same bytes, also when they stop coming.
#include "checkpoint_files.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include <cmpool/client/context_cache.h>
#include <cmpool/engine/engine.h>

#include <doctest/doctest.h>

using namespace cmpool;
using namespace cmpool::engine;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr std::uint32_t kBlockTokens = 8;

/// What becomes of layers that are on their way.
enum class Fate : std::uint8_t { Come, GivenBack, Failed };

/// A cache that has every prompt's first blocks, and brings them layer by layer on a thread of its own; the
/// last `ending` layers meet their fate. Blocks that are given back come at once after all.
class LayerCache final : public client::ContextCache {
public:
    LayerCache(PagedKv& kv, std::vector<std::vector<std::byte>> blocks)
        : kv_(kv), blocks_(std::move(blocks)) {}

    client::Prefix match(std::span<const std::uint32_t>) override {
        client::Prefix prefix;
        prefix.blocks = prefix.present = hit_blocks;
        return prefix;
    }
    std::unique_ptr<client::Load> load(client::Prefix prefix, std::span<const std::uint32_t> pages,
                                       std::size_t next_tokens) override {
        CHECK(next_tokens > 0);
        auto state = std::make_shared<client::Load::State>(prefix.blocks, clock_);
        const auto range = state->meeting.claim_back(prefix.blocks);
        state->by_layers = true;
        loader_ = std::jthread(
            [this, state, range, to = std::vector(pages.begin(), pages.end())] { bring(*state, range, to); });
        return std::make_unique<client::Load>(std::move(state), client::Match{});
    }
    client::Store store(std::span<const std::uint32_t>, std::size_t,
                        std::span<const std::uint32_t>) override {
        return {};
    }
    void computed(std::size_t tokens, Nanos) override { computed_tokens += tokens; }

    std::size_t hit_blocks = 0;
    Fate fate = Fate::Come;
    std::uint32_t ending = 0;
    std::size_t computed_tokens = 0;

private:
    void bring(client::Load::State& state, client::Meeting::Range range,
               const std::vector<std::uint32_t>& pages) {
        const std::uint32_t layers = kv_.shape().layers;
        for (std::uint32_t layer = 0; layer < layers; ++layer) {
            if (fate != Fate::Come && layer + ending >= layers) return end(state, range, pages);
            for (std::size_t at = range.first; at < range.first + range.count; ++at) copy(at, layer, pages);
            const std::scoped_lock lock(state.mutex);
            state.layers_here = layer + 1;
            if (state.layers_here == layers) {
                state.by_layers = false;
                state.meeting.landed(range.count);
            }
            state.changed.notify_all();
        }
    }
    void end(client::Load::State& state, client::Meeting::Range range,
             const std::vector<std::uint32_t>& pages) {
        const std::scoped_lock lock(state.mutex);
        state.by_layers = false;
        state.meeting.give_back();
        if (fate == Fate::Failed) state.meeting.stop();
        const auto again = state.meeting.claim_back(range.count / 2);
        for (std::size_t at = again.first; at < again.first + again.count; ++at)
            for (std::uint32_t layer = 0; layer < kv_.shape().layers; ++layer) copy(at, layer, pages);
        state.meeting.landed(again.count);
        state.meeting.stop();
        state.changed.notify_all();
    }
    void copy(std::size_t block, std::uint32_t layer, const std::vector<std::uint32_t>& pages) {
        const std::size_t bytes = kv_.shape().layer_bytes();
        std::memcpy(kv_.block_bytes(pages[block]).data() + layer * bytes,
                    blocks_[block].data() + layer * bytes, bytes);
    }

    PagedKv& kv_;
    std::vector<std::vector<std::byte>> blocks_;
    SystemClock clock_;
    std::jthread loader_;
};

/// Blocks of a prompt after its prefill, and the token that follows it.
struct Prefilled {
    std::vector<std::vector<std::byte>> blocks;
    std::uint32_t token = 0;
    Progress progress;
};

Prefilled prefill(const Model& model, PagedKv& kv, client::ContextCache* cache, const Tokens& prompt,
                  std::size_t step_tokens) {
    const SystemClock clock;
    std::ranges::fill(kv.bytes(), std::byte{0xff});
    Engine engine(
        model, kv, cache, clock,
        {.scheduler = {.step_tokens = step_tokens, .running_max = 2, .context = model.config().context}});
    REQUIRE(engine.submit({.id = 1, .prompt = prompt}, Start::Here));
    for (std::size_t turn = 0; turn < 1'000'000; ++turn) {
        const Turn done = engine.turn();
        if (done.emissions.empty()) continue;
        Prefilled out{.token = done.emissions[0].token, .progress = engine.progress(1)};
        for (const std::uint32_t page : engine.blocks(1).first(prompt.size() / kBlockTokens)) {
            const auto bytes = kv.block_bytes(page);
            out.blocks.emplace_back(bytes.begin(), bytes.end());
        }
        return out;
    }
    FAIL("no token came");
    return {};
}

}  // namespace

TEST_CASE("KV bytes do not depend on whether a hit comes by blocks or by layers, nor on layers that stop") {
    for (const auto& config : {testing::kLlamaConfig, testing::kDeepseekConfig}) {
        const auto model = testing::seeded_checkpoint(config);
        Rng rng(5);
        Tokens prompt(61);
        for (auto& token : prompt) token = static_cast<std::uint32_t>(rng.below(31));
        auto kv = PagedKv::create(model.config().block_shape(kBlockTokens), 16).value();
        const Prefilled cold = prefill(model, kv, nullptr, prompt, 61);
        LayerCache cache(kv, cold.blocks);
        for (const std::size_t hit : {1, 3, 7}) {
            for (const std::size_t step_tokens : {5, 24, 61}) {
                for (const Fate fate : {Fate::Come, Fate::GivenBack, Fate::Failed}) {
                    for (std::uint32_t ending = 1; ending <= model.config().layers; ++ending) {
                        CAPTURE(hit);
                        CAPTURE(step_tokens);
                        CAPTURE(ending);
                        cache.hit_blocks = hit;
                        cache.fate = fate;
                        cache.ending = ending;
                        cache.computed_tokens = 0;
                        const Prefilled warm = prefill(model, kv, &cache, prompt, step_tokens);
                        CHECK(warm.token == cold.token);
                        CHECK(warm.blocks == cold.blocks);
                        const std::size_t loaded = fate == Fate::Come        ? hit
                                                   : fate == Fate::GivenBack ? hit / 2
                                                                             : 0;
                        CHECK(warm.progress.reused_tokens == loaded * kBlockTokens);
                        // A step that was given up is not counted as computed.
                        CHECK(cache.computed_tokens == prompt.size() - loaded * kBlockTokens);
                    }
                }
            }
        }
        CHECK(kv.free_blocks() == kv.capacity_blocks());
    }
}
