// An engine whose pool is absent, dead or frozen says the same, and its first token is late by one
// deadline at most, once.
#include <algorithm>
#include <functional>
#include <optional>

#include <cmpool/engine/context.h>
#include <cmpool/engine/generator.h>
#include <cmpool/testing/child.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Child;
using testing::Daemon;
using testing::Talk;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr std::uint32_t kBlockTokens = 16;
constexpr std::size_t kPromptTokens = 100;
constexpr std::size_t kReusable = 96;
constexpr auto kDeadline = 200ms;
// What a loaded machine may add before a deadline was not honoured.
constexpr auto kSlack = 300ms;
constexpr auto kNoDelay = 5ms;

/// Does something to the pool at a moment that the engine does not choose.
class Sabotage final : public client::ContextCache {
public:
    explicit Sabotage(std::unique_ptr<client::ContextCache> inner) : inner_(std::move(inner)) {}

    client::Prefix match(std::span<const std::uint32_t> tokens) override {
        strike(before_load);
        return inner_->match(tokens);
    }
    std::unique_ptr<client::Load> load(client::Prefix prefix, std::span<const std::uint32_t> pages,
                                       std::size_t next_tokens) override {
        return inner_->load(std::move(prefix), pages, next_tokens);
    }
    client::Store store(std::span<const std::uint32_t> tokens, std::size_t first,
                        std::span<const std::uint32_t> pages) override {
        auto stored = inner_->store(tokens, first, pages);
        strike(after_store);
        return stored;
    }
    void computed(std::size_t tokens, Nanos time) override { inner_->computed(tokens, time); }

    std::function<void()> before_load, after_store;

private:
    static void strike(std::function<void()>& blow) {
        if (const auto once = std::exchange(blow, nullptr)) once();
    }
    std::unique_ptr<client::ContextCache> inner_;
};

/// A small engine with prompts of its own, and what it says to them without a pool.
class Engine {
public:
    explicit Engine(const std::string& uri)
        : store(engine::open_cache(uri, model_, kv_, {.patient = true}).value()),
          generator_(model_, kv_, &store, clock_) {}

    /// The same prompt for the same number.
    engine::Generation say(std::uint32_t number) {
        Tokens prompt(kPromptTokens, 1);
        prompt[1] = 2 + number;
        const auto run = generator_.generate(prompt, 4);
        REQUIRE(run);
        CHECK(run->tokens == alone_.generate(prompt, 4)->tokens);
        return *run;
    }

private:
    engine::Model model_ = engine::Model::synthetic(20'000).value();
    engine::PagedKv kv_ = engine::PagedKv::create(model_.config().block_shape(kBlockTokens), 16).value();
    SystemClock clock_;

public:
    Sabotage store;

private:
    engine::Generator alone_{model_, kv_, nullptr, clock_};
    engine::Generator generator_;
};

std::string uri_of(const Daemon& daemon, const std::string& transport) {
    return daemon.uri(fmt::format("?deadline_ms={}&transport={}", kDeadline.count(), transport));
}

/// After the first one, loads of a sick pool take no time. Now and then a loaded machine does.
void check_undelayed(Engine& engine, const std::function<void(const engine::Generation&)>& look) {
    std::vector<Nanos> loads;
    for (std::uint32_t number = 0; number < 20; ++number) {
        const auto run = engine.say(number);
        loads.push_back(run.load);
        look(run);
    }
    std::ranges::sort(loads);
    CHECK(loads[loads.size() * 3 / 4] < kNoDelay);
    CHECK(loads.back() < kDeadline + kSlack);
    CHECK(std::ranges::count_if(loads, [](Nanos load) { return load >= kDeadline; }) <= 1);
}

void check_reuse_comes_back(Engine& engine) {
    CHECK(testing::comes_true([&] { return engine.say(0).reused_tokens == kReusable; }));
}

void no_reuse(const engine::Generation& run) { CHECK(run.reused_tokens == 0); }

}  // namespace

TEST_CASE("an engine starts and answers without its pool, and uses it once it is there") {
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        daemon.kill();
        Engine engine(uri_of(daemon, transport));
        CHECK(engine.say(0).load < kDeadline + kSlack);
        check_undelayed(engine, no_reuse);
        daemon.start();
        check_reuse_comes_back(engine);
        CHECK(daemon.stop());
    }
}

TEST_CASE("a pool that is killed while an engine works changes no token, and delays one deadline at most") {
    for (const char* transport : {"shm", "tcp"}) {
        for (const bool loading : {true, false}) {
            CAPTURE(transport);
            CAPTURE(loading);
            Daemon daemon;
            Engine engine(uri_of(daemon, transport));
            check_reuse_comes_back(engine);
            (loading ? engine.store.before_load : engine.store.after_store) = [&] { daemon.kill(); };
            CHECK(engine.say(50).load < kDeadline + kSlack);
            check_undelayed(engine, no_reuse);
            daemon.start();
            check_reuse_comes_back(engine);
            CHECK(daemon.stop());
        }
    }
}

TEST_CASE("a frozen pool changes no token, and delays one deadline at most") {
    for (const std::string transport : {"shm", "tcp"}) {
        for (const bool loading : {true, false}) {
            CAPTURE(transport);
            CAPTURE(loading);
            Daemon daemon;
            Engine engine(uri_of(daemon, transport));
            check_reuse_comes_back(engine);
            (loading ? engine.store.before_load : engine.store.after_store) = [&] { daemon.freeze(); };
            CHECK(engine.say(50).load < kDeadline + kSlack);
            // Mapped memory needs nobody who answers: what was stored is still reused.
            check_undelayed(engine, [&](const engine::Generation& run) {
                if (transport == "tcp") no_reuse(run);
            });
            if (transport == "shm") CHECK(engine.say(0).reused_tokens == kReusable);
            daemon.thaw();
            check_reuse_comes_back(engine);
            CHECK(testing::comes_true([&] { return engine.say(99).reused_tokens == kReusable; }));
            CHECK(daemon.stop());
        }
    }
}

TEST_CASE("a pool that is frozen while an engine starts delays the start, not the first token") {
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        daemon.freeze();
        const auto begun = std::chrono::steady_clock::now();
        Engine engine(uri_of(daemon, transport));
        CHECK(std::chrono::steady_clock::now() - begun < 2 * kDeadline + kSlack);  // one reads, one writes
        CHECK(engine.say(0).load < kDeadline + kSlack);
        check_undelayed(engine, no_reuse);
        daemon.thaw();
        check_reuse_comes_back(engine);
        CHECK(daemon.stop());
    }
}

// A view has no time limit on shm: whoever holds it may be stopped by a debugger for as long as it likes.
TEST_CASE("a frozen client's view is what it was when the client thaws, whatever others stored meanwhile") {
    Daemon daemon({"--capacity", "4M"});
    const auto spec = testing::plain_namespace();
    Child reader([&](const Talk& talk) {
        const auto pool = testing::open_pool(daemon.uri("?deadline_ms=20000&transport=shm"), spec);
        const auto keys = testing::chain_of(*pool, 8);
        for (std::size_t index = 0; index < keys.size(); ++index) {
            (void)testing::put_one(*pool, keys[index], testing::pattern(20'000, index));
        }
        const auto match = pool->match(keys, 100);
        std::vector<Bytes> views;
        for (std::size_t index = 0; index < match.blocks(); ++index)
            views.push_back(match.view(index).value());
        talk.say(fmt::format("{} views", views.size()));
        while (talk.hear()) {
            std::size_t equal = 0;
            for (std::size_t index = 0; index < views.size(); ++index) {
                equal += std::ranges::equal(views[index], testing::pattern(20'000, index)) ? 1 : 0;
            }
            talk.say(fmt::format("{} equal", equal));
        }
    });
    REQUIRE(reader.hear() == "8 views");
    reader.freeze();
    const auto writer = testing::open_pool(daemon.uri("?deadline_ms=20000&transport=shm"), spec);
    const auto keys = testing::chain_of(*writer, 400, 1);
    for (const auto& key : keys) {  // 12 MB, three times what there is
        CHECK(testing::put_one(*writer, key, testing::pattern(30'000, 99)) == client::Outcome::Stored);
    }
    CHECK(testing::statistic(*writer, "evicted_blocks") > 200);
    reader.thaw();
    CHECK(reader.ask("compare") == "8 equal");
    // Dead, it holds nothing any more.
    reader.signal(SIGKILL);
    CHECK(testing::comes_true([&] { return testing::statistic(*writer, "client_pages") == 1; }));
    CHECK(testing::comes_true([&] { return testing::statistic(*writer, "doomed_bytes") == 0; }));
    CHECK(daemon.stop());
}
