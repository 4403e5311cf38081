// Several ranks and one pool: blocks in parts, tickets, and bytes that all ranks share.
#include <algorithm>
#include <barrier>
#include <numeric>
#include <thread>

#include <cmpool/client/rank_cache.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

using namespace cmpool;
using namespace cmpool::client;
using namespace std::chrono_literals;
using testing::Daemon;
using Tokens = std::vector<std::uint32_t>;

namespace {

constexpr std::uint32_t kBlockTokens = 4;
constexpr std::size_t kBlocks = 12;
constexpr std::size_t kPages = 16;

NamespaceSpec spec() { return testing::plain_namespace("ranks"); }

/// What a rank holds of a block.
std::vector<std::byte> bytes_of(const KvPages& kv, std::size_t block, std::uint32_t rank) {
    return testing::pattern(kv.page_bytes(), block * 1000 + rank);
}

/// One rank's pages and its cache.
struct RankEngine {
    RankEngine(const std::string& uri, const Rank& its_rank, KvPages::Order order)
        : rank(its_rank),
          kv{.layers = 3,
             .parts = rank.holds == Rank::Holds::TheSame ? 1U : 2U,
             .heads = rank.holds == Rank::Holds::TheSame ? 1U : 2U,
             .head_size = 73,
             .elem_bytes = 2,
             .block_tokens = kBlockTokens,
             .order = order} {
        memory.resize(kPages * kv.page_bytes());
        kv.memory = memory;
        cache = open_rank_cache(uri, spec(), kv, rank, {.patient = true}).value();
        cache->computed(1000, 10s);
        std::iota(pages.begin(), pages.end(), 0U);
        std::ranges::reverse(pages);
    }

    /// What lies in the page of block `block`; `range` of it.
    [[nodiscard]] std::vector<MutableBytes> pieces(std::size_t block, ByteRange range = {}) const {
        std::vector<MutableBytes> out;
        kv.append_pieces(pages[block], range, out);
        return out;
    }
    [[nodiscard]] std::vector<std::byte> page(std::size_t block) const {
        std::vector<std::byte> out;
        for (const auto piece : pieces(block)) out.insert(out.end(), piece.begin(), piece.end());
        return out;
    }
    void fill() {
        for (std::size_t block = 0; block < kBlocks; ++block) {
            const auto bytes = bytes_of(kv, block, rank.holds == Rank::Holds::TheSame ? 0 : rank.index);
            auto from = bytes.begin();
            for (const auto piece : pieces(block)) {
                std::copy_n(from, piece.size(), piece.begin());
                from += static_cast<std::ptrdiff_t>(piece.size());
            }
        }
    }
    void wipe() { std::ranges::fill(memory, std::byte{0xee}); }
    void store(const Tokens& tokens) {
        auto stored = cache->store(tokens, 0, std::span(pages).first(kBlocks));
        CHECK(testing::comes_true([&] { return stored.done(); }));
    }
    [[nodiscard]] Load::End load(const Ticket& ticket, const Tokens& tokens) {
        auto load = cache->load(ticket, tokens, std::span(pages).first(kBlocks));
        CHECK(testing::comes_true([&] { return load->end() != Load::End::NotYet; }));
        return load->end();
    }

    Rank rank;
    KvPages kv;
    std::vector<std::byte> memory;
    std::vector<std::uint32_t> pages = std::vector<std::uint32_t>(kBlocks);
    std::unique_ptr<RankCache> cache;
};

std::vector<std::unique_ptr<RankEngine>> ranks_of(const std::string& uri, std::uint32_t count,
                                                  Rank::Holds holds,
                                                  KvPages::Order order = KvPages::Order::PageFirst) {
    std::vector<std::unique_ptr<RankEngine>> ranks;
    for (std::uint32_t index = 0; index < count; ++index)
        ranks.push_back(std::make_unique<RankEngine>(uri, Rank{index, count, holds}, order));
    for (auto& rank : ranks) rank->fill();
    return ranks;
}

Tokens tokens_of(std::uint32_t seed = 0) {
    Tokens tokens(kBlocks * kBlockTokens);
    for (std::size_t at = 0; at < tokens.size(); ++at) tokens[at] = static_cast<std::uint32_t>(at * 5 + seed);
    return tokens;
}

/// Stores until all of it can be matched.
void store_all(std::vector<std::unique_ptr<RankEngine>>& ranks, const Tokens& tokens) {
    REQUIRE(testing::comes_true([&] {
        for (auto& rank : ranks) rank->store(tokens);
        return ranks[0]->cache->match(tokens).blocks == kBlocks;
    }));
}

}  // namespace

TEST_CASE("a block in parts is there when all its parts are, and each rank gets its own") {
    for (const std::string transport : {"shm", "tcp"}) {
        for (const std::uint32_t count : {2U, 4U}) {
            CAPTURE(transport);
            CAPTURE(count);
            Daemon daemon({"--shards", "2"});
            const std::string uri = daemon.uri("?deadline_ms=5000&transport=" + transport);
            auto ranks = ranks_of(uri, count, Rank::Holds::OwnHeads);
            const auto pool = testing::open_pool(uri, spec());
            const Tokens tokens = tokens_of();
            const auto keys = pool->chain(tokens).value();
            for (std::uint32_t rank = 0; rank < count; ++rank) {
                CHECK(ranks[0]->cache->match(tokens).present == 0);
                ranks[rank]->store(tokens);
            }
            store_all(ranks, tokens);

            auto prefix = ranks[0]->cache->match(tokens);
            const Ticket ticket = ranks[0]->cache->ticket(prefix);
            CHECK(ticket.blocks == kBlocks);
            CHECK(ticket.leased == 1);
            for (auto& rank : ranks) {
                rank->wipe();
                CHECK(rank->load(ticket, tokens) == Load::End::All);
                for (std::size_t block = 0; block < kBlocks; ++block)
                    CHECK(rank->page(block) == bytes_of(rank->kv, block, rank->rank.index));
            }

            // Without one part of block 5, five blocks are left; whose part it is makes no difference.
            prefix = {};
            const Digest gone = model::part_digest(keys[5], count - 1, count);
            CHECK(testing::comes_true([&] {
                (void)pool->remove({&gone, 1});
                return pool->exists({&gone, 1}).count(Outcome::Hit) == 0;
            }));
            const auto shorter = ranks[0]->cache->match(tokens);
            CHECK(shorter.present == 5);
            // The old ticket promises more than there is: that rank hears so, and nobody gets other bytes.
            CHECK(ranks[count - 1]->load(ticket, tokens) == Load::End::Failed);
            for (std::uint32_t rank = 0; rank + 1 < count; ++rank)
                CHECK(ranks[rank]->load(ticket, tokens) == Load::End::All);
            const Ticket news = ranks[0]->cache->ticket(shorter);
            CHECK(news.blocks == 5);
            for (auto& rank : ranks) CHECK(rank->load(news, tokens) == Load::End::All);
            // Who has heard that a part is missing stores it again.
            for (auto& rank : ranks) rank->fill();
            store_all(ranks, tokens);
            CHECK(daemon.stop());
        }
    }
}

TEST_CASE("a ticket that does not fit fails at once, and one of no blocks loads nothing") {
    Daemon daemon;
    const std::string uri = daemon.uri("?deadline_ms=5000");
    auto ranks = ranks_of(uri, 2, Rank::Holds::OwnHeads);
    const Tokens tokens = tokens_of();
    store_all(ranks, tokens);
    const auto prefix = ranks[0]->cache->match(tokens);
    const Ticket good = ranks[0]->cache->ticket(prefix);
    CHECK(ranks[1]->load(good, tokens) == Load::End::All);
    CHECK(ranks[1]->load(good, tokens_of(1)) == Load::End::Failed);
    CHECK(ranks[1]->load(good, Tokens(tokens.begin(), tokens.end() - 1)) == Load::End::Failed);
    Ticket other = good;
    ++other.epoch;
    CHECK(ranks[1]->load(other, tokens) == Load::End::Failed);
    other = good;
    --other.blocks;
    CHECK(ranks[1]->load(other, tokens) == Load::End::Failed);
    other.blocks = 1'000'000;
    CHECK(ranks[1]->load(other, tokens) == Load::End::Failed);
    const auto few = ranks[1]->cache->load(good, tokens, std::span(ranks[1]->pages).first(3));
    CHECK(few->end() == Load::End::Failed);
    CHECK(ranks[1]->load(Ticket{.epoch = good.epoch}, tokens) == Load::End::All);

    // A pool that was started again holds nothing, and says so by its run.
    daemon.kill();
    daemon.start();
    CHECK(ranks[1]->load(good, tokens) == Load::End::Failed);
    CHECK(daemon.stop());
}

TEST_CASE("a latent that all ranks share is stored once and read once, whatever their number") {
    for (const std::string transport : {"shm", "tcp"}) {
        for (const std::uint32_t count : {2U, 4U}) {
            for (const auto order : {KvPages::Order::PageFirst, KvPages::Order::LayerFirst}) {
                CAPTURE(transport);
                CAPTURE(count);
                Daemon daemon;
                const std::string uri = daemon.uri("?deadline_ms=5000&transport=" + transport);
                auto ranks = ranks_of(uri, count, Rank::Holds::TheSame, order);
                const auto pool = testing::open_pool(uri, spec());
                const Tokens tokens = tokens_of();
                store_all(ranks, tokens);
                CHECK(testing::statistic(*pool, "put_bytes") == kBlocks * ranks[0]->kv.page_bytes());
                const auto prefix = ranks[0]->cache->match(tokens);
                const Ticket ticket = ranks[0]->cache->ticket(prefix);
                for (auto& rank : ranks) rank->wipe();
                const auto before = testing::statistic(*pool, "get_bytes");

                // Each on a thread of its own; what stands for the ranks' all-gather is a copy.
                std::barrier gathered(static_cast<std::ptrdiff_t>(count));
                std::vector<Load::End> ends(count);
                std::vector<std::jthread> threads;
                for (std::uint32_t index = 0; index < count; ++index) {
                    threads.emplace_back([&, index] {
                        RankEngine& mine = *ranks[index];
                        ends[index] = mine.load(ticket, tokens);
                        gathered.arrive_and_wait();
                        for (std::size_t block = 0; block < kBlocks; ++block) {
                            for (std::uint32_t other = 0; other < count; ++other) {
                                if (other == index) continue;
                                const ByteRange stripe = mine.kv.stripe(other, count);
                                const auto from = ranks[other]->pieces(block, stripe);
                                const auto to = mine.pieces(block, stripe);
                                for (std::size_t at = 0; at < to.size(); ++at)
                                    std::ranges::copy(from[at], to[at].begin());
                            }
                        }
                    });
                }
                threads.clear();
                CHECK(std::ranges::count(ends, Load::End::All) == count);
                for (auto& rank : ranks)
                    for (std::size_t block = 0; block < kBlocks; ++block)
                        CHECK(rank->page(block) == bytes_of(rank->kv, block, 0));
                CHECK(testing::statistic(*pool, "get_bytes") - before == kBlocks * ranks[0]->kv.page_bytes());
                CHECK(daemon.stop());
            }
        }
    }
}

TEST_CASE("stripes cover a page once, and some bytes of a page lie where they lie in the whole") {
    std::vector<std::byte> memory(std::size_t{3} * 2 * 5 * 4 * 3 * 7 * 2);
    for (const auto order : {KvPages::Order::PageFirst, KvPages::Order::LayerFirst}) {
        const KvPages kv{.layers = 3,
                         .parts = 2,
                         .heads = 3,
                         .head_size = 7,
                         .elem_bytes = 2,
                         .block_tokens = 4,
                         .order = order,
                         .memory = memory};
        const auto addresses = [&](ByteRange range) {
            std::vector<MutableBytes> pieces;
            kv.append_pieces(2, range, pieces);
            std::vector<const std::byte*> all;
            for (const auto piece : pieces)
                for (const auto& byte : piece) all.push_back(&byte);
            return all;
        };
        const auto whole = addresses({});
        REQUIRE(whole.size() == kv.page_bytes());
        for (std::uint32_t count = 1; count <= kv.page_bytes() / 64; ++count) {
            std::vector<const std::byte*> all;
            for (std::uint32_t index = 0; index < count; ++index) {
                const auto stripe = kv.stripe(index, count);
                CHECK(stripe.length > 0);
                const auto some = addresses(stripe);
                all.insert(all.end(), some.begin(), some.end());
            }
            CHECK(all == whole);
        }
        for (std::uint32_t first = 0; first < kv.layers; ++first) {
            const auto layer = addresses(kv.layer_range(first, kv.layers - first));
            CHECK(std::ranges::equal(layer, std::span(whole).subspan(first * kv.layer_bytes())));
        }
    }
}

TEST_CASE("a rank that there is not, and pages too small to share, are refused") {
    Daemon daemon;
    std::vector<std::byte> memory(128);
    const KvPages kv{.layers = 1,
                     .parts = 1,
                     .heads = 1,
                     .head_size = 8,
                     .elem_bytes = 4,
                     .block_tokens = kBlockTokens,
                     .memory = memory};
    for (const Rank rank : {Rank{0, 0}, Rank{2, 2}, Rank{0, kRanksMax + 1}, Rank{0, 3, Rank::Holds::TheSame}})
        CHECK(open_rank_cache(daemon.uri(), spec(), kv, rank).error().code == Errc::Invalid);
    CHECK(open_rank_cache(daemon.uri(), spec(), kv, {0, 2, Rank::Holds::TheSame}));
    CHECK(daemon.stop());
}
