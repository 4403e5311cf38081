// The prefix cache against a real pool: tokens in, the same bytes out, and never in the way.
#include <algorithm>
#include <numeric>

#include <cmpool/client/context_cache.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

using namespace cmpool;
using namespace cmpool::client;
using namespace std::chrono_literals;
using testing::Daemon;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr std::uint32_t kBlockTokens = 4;
constexpr std::size_t kPages = 32;

NamespaceSpec spec() { return testing::plain_namespace("context"); }

/// An engine's pages and a cache over them. Its compute is slow, so that loading is always worth it.
struct Engine {
    explicit Engine(const std::string& uri, KvPages::Order order = KvPages::Order::PageFirst,
                    bool patient = true)
        : kv{.layers = 3,
             .parts = 2,
             .heads = 2,
             .head_size = 64,
             .elem_bytes = 4,
             .block_tokens = kBlockTokens,
             .order = order} {
        memory.resize(kPages * kv.page_bytes());
        kv.memory = memory;
        cache = open_context_cache(uri, spec(), kv, {.patient = patient}).value();
        cache->computed(1000, 10s);
    }

    std::vector<std::byte> page(std::size_t index) {
        std::vector<MutableBytes> pieces;
        kv.append_pieces(index, pieces);
        std::vector<std::byte> out;
        for (const auto piece : pieces) out.insert(out.end(), piece.begin(), piece.end());
        return out;
    }
    void fill(std::size_t index, std::uint64_t seed) {
        std::vector<MutableBytes> pieces;
        kv.append_pieces(index, pieces);
        const auto bytes = testing::pattern(kv.page_bytes(), seed);
        auto from = bytes.begin();
        for (const auto piece : pieces) {
            std::copy_n(from, piece.size(), piece.begin());
            from += static_cast<std::ptrdiff_t>(piece.size());
        }
    }
    bool store(const Tokens& tokens, std::span<const std::uint32_t> pages) {
        auto stored = cache->store(tokens, 0, pages);
        return testing::comes_true([&] { return stored.done(); });
    }
    std::size_t match(const Tokens& tokens) { return cache->match(tokens).blocks; }
    /// Fills pages until nothing more comes; what is missing would be computed.
    std::size_t load(const Tokens& tokens, std::span<const std::uint32_t> pages) {
        auto prefix = cache->match(tokens);
        const auto blocks = prefix.blocks;
        auto load = cache->load(std::move(prefix), pages, 0);
        CHECK(testing::comes_true([&] {
            if (const auto advice = load->advise(); advice.compute_blocks > 0)
                (void)load->claim(advice.compute_blocks);
            return load->met();
        }));
        CHECK(load->loaded_blocks() <= blocks);
        return load->loaded_blocks();
    }

    std::vector<std::byte> memory;
    KvPages kv;
    std::unique_ptr<ContextCache> cache;
};

Tokens tokens_of(std::size_t blocks, std::uint32_t seed = 0) {
    Tokens tokens(blocks * kBlockTokens);
    for (std::size_t at = 0; at < tokens.size(); ++at) tokens[at] = static_cast<std::uint32_t>(at * 7 + seed);
    return tokens;
}

std::string uri_of(const Daemon& daemon, const std::string& transport, int deadline_ms = 2000) {
    return daemon.uri(fmt::format("?transport={}&deadline_ms={}", transport, deadline_ms));
}

}  // namespace

TEST_CASE("blocks come back as they were, also into pages of the other order") {
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        Engine writer(uri_of(daemon, transport));
        const Tokens tokens = tokens_of(10);
        CHECK(testing::comes_true(
            [&] { return writer.match(tokens) == 0 && writer.cache->match(tokens).keys.size() == 10; }));
        std::vector<std::uint32_t> pages;
        for (std::uint32_t page = 0; page < 10; ++page) {
            writer.fill(page, page);
            pages.push_back(page);
        }
        REQUIRE(
            testing::comes_true([&] { return writer.store(tokens, pages) && writer.match(tokens) == 10; }));
        for (const auto order : {KvPages::Order::PageFirst, KvPages::Order::LayerFirst}) {
            Engine reader(uri_of(daemon, transport), order);
            const std::vector<std::uint32_t> scattered{31, 3, 17, 8, 2, 0, 29, 11, 5, 23};
            REQUIRE(testing::comes_true([&] { return reader.load(tokens, scattered) == 10; }));
            for (std::size_t block = 0; block < 10; ++block)
                CHECK(reader.page(scattered[block]) == testing::pattern(reader.kv.page_bytes(), block));
            // Half of another prompt is the same.
            Tokens other = tokens;
            other[5 * kBlockTokens] += 1;
            CHECK(reader.match(other) == 5);
            CHECK(reader.load(other, scattered) == 5);
        }
        CHECK(daemon.stop());
    }
}

TEST_CASE("what was stored lately is not sent again, unless the pool has lost it") {
    Daemon daemon;
    Engine engine(uri_of(daemon, "shm"));
    const auto pool = testing::open_pool(uri_of(daemon, "shm"), spec());
    const Tokens tokens = tokens_of(6);
    const std::vector<std::uint32_t> pages{0, 1, 2, 3, 4, 5};
    REQUIRE(testing::comes_true([&] { return engine.store(tokens, pages) && engine.match(tokens) == 6; }));
    const auto puts = testing::statistic(*pool, "messages_Put");
    REQUIRE(engine.store(tokens, pages));
    CHECK(testing::statistic(*pool, "messages_Put") == puts);
    (void)pool->remove(pool->chain(tokens).value());
    CHECK(engine.match(tokens) == 0);
    REQUIRE(engine.store(tokens, pages));
    CHECK(engine.match(tokens) == 6);
    CHECK(testing::statistic(*pool, "messages_Put") > puts);
    CHECK(daemon.stop());
}

// A store borrows the engine's pages: a pool that is stuck must not keep them.
TEST_CASE("a store that is dropped gives its pages back soon, whatever the pool does") {
    Daemon daemon;
    Engine engine(uri_of(daemon, "tcp", 200));
    const Tokens tokens = tokens_of(20);
    std::vector<std::uint32_t> pages(20);
    std::iota(pages.begin(), pages.end(), 0U);
    REQUIRE(testing::comes_true([&] { return engine.store(tokens, pages) && engine.match(tokens) == 20; }));
    daemon.freeze();
    std::vector<Store> stores;
    for (std::uint32_t seed = 1; seed <= kStoreJobsMax + 8; ++seed)
        stores.push_back(engine.cache->store(tokens_of(20, seed), 0, pages));
    // The queue has a bound: above it a store is done at once, undone.
    CHECK(std::ranges::count_if(stores, &Store::done) >= 7);
    for (Store& store : stores) store.drop();
    const auto begun = std::chrono::steady_clock::now();
    CHECK(testing::comes_true([&] { return std::ranges::all_of(stores, &Store::done); }));
    CHECK(std::chrono::steady_clock::now() - begun < 1s);
    daemon.thaw();
    CHECK(daemon.stop());
}

TEST_CASE("a load that is given up leaves its pages alone from then on") {
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        Engine engine(uri_of(daemon, transport));
        const Tokens tokens = tokens_of(30);
        std::vector<std::uint32_t> pages(30);
        std::iota(pages.begin(), pages.end(), 0U);
        REQUIRE(
            testing::comes_true([&] { return engine.store(tokens, pages) && engine.match(tokens) == 30; }));
        for (int round = 0; round < 50; ++round) {
            auto load = engine.cache->load(engine.cache->match(tokens), pages, 0);
            if (round % 3 > 0) (void)load->claim(static_cast<std::size_t>(round) % 30);
            load.reset();
            std::ranges::fill(engine.memory, std::byte{0x5a});
            CHECK(engine.match(tokens) == 30);
            CHECK(std::ranges::count(engine.memory, std::byte{0x5a}) == std::ptrdiff_t(engine.memory.size()));
        }
        CHECK(daemon.stop());
    }
}

TEST_CASE("where computing is far cheaper than loading, the cache says so, and tries again later") {
    Daemon daemon;
    Engine engine(uri_of(daemon, "tcp"), KvPages::Order::PageFirst, false);
    const Tokens tokens = tokens_of(10);
    std::vector<std::uint32_t> pages(10);
    std::iota(pages.begin(), pages.end(), 0U);
    REQUIRE(testing::comes_true([&] { return engine.store(tokens, pages) && engine.match(tokens) == 10; }));
    for (int again = 0; again < 100; ++again) engine.cache->computed(1'000'000, 1ms);
    (void)engine.match(tokens);  // a first try is allowed
    const auto prefix = engine.cache->match(tokens);
    CHECK(prefix.blocks == 0);
    CHECK(prefix.present == 10);  // it knows all the same what need not be stored
    CHECK(testing::comes_true([&] { return engine.match(tokens) == 10; }));
    CHECK(daemon.stop());
}

TEST_CASE("pages and a namespace that do not fit together are refused") {
    Daemon daemon;
    std::vector<std::byte> memory(1024);
    KvPages kv{.layers = 1, .parts = 1, .heads = 1, .head_size = 8, .elem_bytes = 4, .block_tokens = 8};
    kv.memory = memory;
    CHECK(open_context_cache(daemon.uri(), spec(), kv).error().code == Errc::Invalid);
    kv.block_tokens = kBlockTokens;
    CHECK(open_context_cache("nonsense", spec(), kv).error().code == Errc::Invalid);
    CHECK(open_context_cache(daemon.uri(), spec(), kv));
    CHECK(daemon.stop());
}
