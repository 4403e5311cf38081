// A real pool behind a narrow way: what is loaded last comes layer by layer, beside the step behind it.
#include <algorithm>
#include <atomic>
#include <functional>

#include <cmpool/engine/context.h>
#include <cmpool/engine/engine.h>
#include <cmpool/engine/wake.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr std::uint32_t kBlockTokens = 16;

struct Prefilled {
    std::vector<std::byte> bytes;  ///< of the prompt's full blocks
    std::uint32_t token = 0;
    Nanos took{};
    engine::Progress progress;
};

/// One engine, which prefills one prompt at a time.
class Prefiller {
public:
    Prefiller(const engine::Model& model, const std::string& uri, std::size_t step_tokens,
              client::ContextCacheOptions options)
        : model_(model), kv_(engine::PagedKv::create(model_.config().block_shape(kBlockTokens), 64).value()) {
        options.on_progress = [this] {
            if (armed.exchange(false) && !strike()) armed = true;
            wake_.notify();
        };
        cache_ = engine::open_cache(uri, model_, kv_, std::move(options)).value();
        engine_ = std::make_unique<engine::Engine>(
            model_, kv_, cache_.get(), clock_,
            engine::EngineOptions{.scheduler = {.step_tokens = step_tokens,
                                                .running_max = 1,
                                                .context = model_.config().context}});
    }

    Prefilled prefill(const Tokens& prompt) {
        const auto id = next_++;
        const Instant begun = clock_.now();
        REQUIRE(engine_->submit({.id = id, .prompt = prompt}, engine::Start::Here));
        Prefilled out;
        for (bool over = false; !over;) {
            const auto turn = engine_->turn();
            over = !turn.emissions.empty();
            if (over) out.token = turn.emissions[0].token;
            if (!turn.computed && turn.look_again) wake_.wait(*turn.look_again);
        }
        out.took = clock_.now() - begun;
        out.progress = engine_->progress(id);
        for (const std::uint32_t page : engine_->blocks(id).first(prompt.size() / kBlockTokens)) {
            const auto bytes = kv_.block_bytes(page);
            out.bytes.insert(out.bytes.end(), bytes.begin(), bytes.end());
        }
        engine_->release(id);
        CHECK(testing::comes_true([&] {
            (void)engine_->turn();
            return engine_->closing() == 0;
        }));
        std::ranges::fill(kv_.bytes(), std::byte{0xff});
        return out;
    }
    std::atomic<bool> armed{false};  ///< some next progress of the cache strikes, once
    std::function<bool()> strike;    ///< false: not yet

    [[nodiscard]] client::NamespaceSpec spec() const { return engine::namespace_of(model_, kv_.shape()); }
    [[nodiscard]] std::uint64_t block_bytes() const { return kv_.shape().bytes(); }

private:
    engine::Model model_;
    engine::PagedKv kv_;
    SystemClock clock_;
    engine::Wake wake_;
    std::unique_ptr<client::ContextCache> cache_;
    std::unique_ptr<engine::Engine> engine_;
    engine::SequenceId next_ = 1;
};

Tokens prompt_of(std::size_t tokens, std::uint32_t seed) {
    Tokens prompt(tokens, 1);
    for (std::size_t at = 0; at < tokens; ++at)
        prompt[at] = static_cast<std::uint32_t>((at * 7 + seed * 31) % 250);
    return prompt;
}

/// At which `bytes` take so long.
std::uint64_t rate_for(std::uint64_t bytes, Nanos time) {
    return static_cast<std::uint64_t>(double(bytes) / std::chrono::duration<double>(time).count());
}

std::string uri_of(const Daemon& daemon, const std::string& transport) {
    return daemon.uri("?deadline_ms=5000&transport=" + transport);
}

}  // namespace

TEST_CASE("through a narrow way, by blocks or by layers, a hit of any length gives the bytes of no hit") {
    constexpr std::uint32_t kHitMax = 6;
    constexpr std::size_t kBehind = 100;
    const auto model = engine::Model::synthetic(3'000'000).value();
    Prefiller alone(model, "none", 128, {});
    // The longest hit takes a third as long on the way as the step behind it.
    Nanos step = Nanos::max();
    for (std::uint32_t round = 0; round < 5; ++round)
        step = std::min(step, alone.prefill(prompt_of(kBehind, round)).took);
    const std::uint64_t rate = rate_for(alone.block_bytes() * kHitMax, step / 3);
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        std::size_t by_layers = 0;
        for (const std::uint32_t step_tokens : {32U, 128U}) {
            for (const bool layers : {false, true}) {
                CAPTURE(step_tokens);
                CAPTURE(layers);
                // Who is patient loads every hit; who is not may compute some of it meanwhile.
                Prefiller near(
                    model, uri_of(daemon, transport), step_tokens,
                    {.patient = step_tokens == 128, .load_bytes_per_s = rate, .by_layers = layers});
                for (std::uint32_t round = 0; round < 12; ++round) {
                    Tokens prompt = prompt_of((1 + round % kHitMax) * kBlockTokens, 1);
                    const Tokens rest = prompt_of(kBehind, round + step_tokens + (layers ? 500U : 0U));
                    prompt.insert(prompt.end(), rest.begin(), rest.end());
                    const Prefilled cold = alone.prefill(prompt);
                    const Prefilled warm = near.prefill(prompt);
                    CHECK(warm.token == cold.token);
                    CHECK(warm.bytes == cold.bytes);
                    if (!layers) CHECK_FALSE(warm.progress.by_layers);
                    by_layers += warm.progress.by_layers ? 1 : 0;
                }
            }
        }
        MESSAGE(by_layers, " of 24 hits came by layers over ", std::string(transport));
        CHECK(by_layers > 0);
        CHECK(daemon.stop());
    }
}

TEST_CASE("layers that stop coming cost their step and a deadline, and no byte") {
    constexpr std::size_t kHit = 8;
    const auto model = engine::Model::synthetic(3'000'000).value();
    Prefiller alone(model, "none", 128, {});
    const auto prompt = [](std::uint32_t seed) {
        Tokens all = prompt_of(kHit * kBlockTokens, 1);
        const Tokens rest = prompt_of(100, seed);
        all.insert(all.end(), rest.begin(), rest.end());
        return all;
    };
    const Nanos step = alone.prefill(prompt_of(100, 1)).took;
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        Prefiller engine(model, uri_of(daemon, transport), 128,
                         {.load_bytes_per_s = rate_for(alone.block_bytes() * kHit, step / 2)});
        std::uint32_t seed = 2;
        REQUIRE(testing::comes_true([&] { return engine.prefill(prompt(seed++)).progress.by_layers; }));
        // What the last prompt's threads still report comes before this one's match.
        const auto pool = testing::open_pool(uri_of(daemon, transport), engine.spec());
        const auto before = testing::statistic(*pool, "match_calls");
        engine.strike = [&] {
            if (testing::statistic(*pool, "match_calls") == before) return false;
            daemon.freeze();
            return true;
        };
        engine.armed = true;
        const Prefilled warm = engine.prefill(prompt(seed));
        const Prefilled cold = alone.prefill(prompt(seed));
        CHECK(warm.token == cold.token);
        CHECK(warm.bytes == cold.bytes);
        CHECK(warm.took < 2s);
        // Mapped memory needs no answer.
        if (transport == std::string_view("tcp")) CHECK(warm.progress.reused_tokens < kHit * kBlockTokens);
        daemon.thaw();
        CHECK(daemon.stop());
    }
}

TEST_CASE("a block that goes while its layers come leaves the blocks behind it") {
    constexpr std::size_t kHit = 8;
    const auto model = engine::Model::synthetic(3'000'000).value();
    Prefiller alone(model, "none", 128, {});
    const auto prompt = [](std::uint32_t seed) {
        Tokens all = prompt_of(kHit * kBlockTokens, 1);
        const Tokens rest = prompt_of(100, seed);
        all.insert(all.end(), rest.begin(), rest.end());
        return all;
    };
    const Nanos step = alone.prefill(prompt_of(100, 1)).took;
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        Prefiller engine(
            model, uri_of(daemon, transport), 128,
            {.patient = true, .load_bytes_per_s = rate_for(alone.block_bytes() * kHit, step / 2)});
        const auto pool = testing::open_pool(uri_of(daemon, transport), engine.spec());
        std::uint32_t seed = 2;
        REQUIRE(testing::comes_true([&] { return engine.prefill(prompt(seed++)).progress.by_layers; }));
        const auto keys = pool->chain(prompt(seed)).value();
        const auto before = testing::statistic(*pool, "match_calls");
        engine.strike = [&] {
            if (testing::statistic(*pool, "match_calls") == before) return false;
            return pool->remove({&keys[3], 1}).count(client::Outcome::Hit) == 1;
        };
        engine.armed = true;
        const Prefilled warm = engine.prefill(prompt(seed));
        const Prefilled cold = alone.prefill(prompt(seed));
        CHECK(warm.token == cold.token);
        CHECK(warm.bytes == cold.bytes);
        CHECK_FALSE(warm.progress.by_layers);
        CHECK(warm.progress.reused_tokens == (kHit - 4) * kBlockTokens);
        CHECK(daemon.stop());
    }
}

// The best of several, of more on a loaded machine, which only ever adds; in numbers for people.
TEST_CASE("a hit that comes beside the step behind it brings the first token sooner") {
    constexpr int kRounds = 12;
    constexpr int kRoundsMax = 60;
    const auto model = engine::Model::synthetic(3'000'000).value();
    Daemon daemon;
    constexpr std::size_t kHit = 16;
    constexpr std::size_t kBehind = 64;
    const Tokens known = prompt_of(kHit * kBlockTokens, 1);
    const auto prompt = [&](std::uint32_t seed) {
        Tokens all = known;
        const Tokens rest = prompt_of(kBehind, seed);
        all.insert(all.end(), rest.begin(), rest.end());
        return all;
    };
    Prefiller free(model, uri_of(daemon, "tcp"), 512, {.patient = true});
    for (std::uint32_t seed = 0; seed < 3; ++seed) (void)free.prefill(prompt(seed));
    Nanos step = Nanos::max();
    std::uint32_t next = 3;
    while (next < 8) step = std::min(step, free.prefill(prompt(next++)).took);

    // How long the hit is on its way, in parts of the time of the step behind it.
    for (const double on_the_way : {0.25, 0.5, 1.0, 2.0}) {
        const auto time = Nanos(static_cast<std::int64_t>(double(step.count()) * on_the_way));
        const std::uint64_t rate = rate_for(free.block_bytes() * kHit, time);
        std::vector<std::unique_ptr<Prefiller>> engines;
        for (const bool layers : {false, true}) {
            engines.push_back(std::make_unique<Prefiller>(
                model, uri_of(daemon, "tcp"), 512,
                client::ContextCacheOptions{.patient = true, .load_bytes_per_s = rate, .by_layers = layers}));
        }
        std::vector<Nanos> best(2, Nanos::max());
        std::vector<std::size_t> by_layers(2);
        const bool sooner = on_the_way >= 0.5;
        for (int round = 0; round < kRounds || (sooner && best[1] >= best[0] && round < kRoundsMax);
             ++round) {
            for (std::size_t which = 0; which < 2; ++which) {
                const Prefilled run = engines[which]->prefill(prompt(next++));
                best[which] = std::min(best[which], run.took);
                by_layers[which] += run.progress.by_layers ? 1 : 0;
            }
        }
        CHECK(by_layers[0] == 0);
        CHECK(by_layers[1] > 0);
        MESSAGE("on the way for ", time / 1us, " us at ", rate / MiB,
                " MiB/s, time to first token: ", best[0] / 1us, " us by blocks, ", best[1] / 1us,
                " us by layers");
        if (sooner) CHECK(best[1] < best[0]);
    }
    CHECK(daemon.stop());
}
