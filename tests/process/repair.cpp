// Several cmpoold as one pool: copies that are made again, a node that drains, a client that is cut off.
#include "nodes.h"

#include <cmpool/testing/proxy.h>
#include <cmpool/testing/shared_data.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Cli;
using testing::Cluster;
using testing::SteadyClock;

namespace {

constexpr std::uint64_t kBlockBytes = 4096;
constexpr std::size_t kChains = 12;
constexpr std::size_t kChainBlocks = 70;

/// Chains of blocks, each with bytes of its own, put and read one chain a call.
struct Chains {
    explicit Chains(client::PoolClient& its_pool) : pool(its_pool) {
        for (std::uint32_t seed = 0; seed < kChains; ++seed)
            keys.push_back(testing::chain_of(pool, kChainBlocks, seed + 1));
    }
    template <class Call>
    auto timed(const Call& call) {
        const auto begin = SteadyClock::now();
        auto result = call();
        took.push_back(SteadyClock::now() - begin);
        return result;
    }
    /// How many blocks so many members hold now.
    std::size_t put(std::uint32_t copies) {
        std::size_t stored = 0;
        for (std::size_t chain = 0; chain < keys.size(); ++chain) {
            std::vector<std::vector<std::byte>> bytes;
            std::vector<Bytes> pieces;
            std::vector<client::PutItem> items;
            for (std::size_t at = 0; at < kChainBlocks; ++at)
                bytes.push_back(testing::pattern(kBlockBytes, chain * 1000 + at));
            for (const auto& each : bytes) pieces.emplace_back(each);
            for (std::size_t at = 0; at < kChainBlocks; ++at)
                items.push_back({.key = keys[chain][at],
                                 .from = {&pieces[at], 1},
                                 .parent = at == 0 ? model::kNoParent : keys[chain][at - 1],
                                 .position = static_cast<std::uint32_t>(at),
                                 .group = testing::group_of(pool, keys[chain], at)});
            const auto report = timed([&] { return pool.put(items); });
            for (const auto& block : report.blocks) stored += block.copies >= copies ? 1 : 0;
        }
        return stored;
    }
    /// How many come, with the bytes that were put.
    std::size_t get() {
        std::size_t hits = 0;
        std::vector<std::byte> room(kChainBlocks * kBlockBytes);
        for (std::size_t chain = 0; chain < keys.size(); ++chain) {
            std::vector<MutableBytes> pieces;
            std::vector<client::GetItem> items;
            for (std::size_t at = 0; at < kChainBlocks; ++at)
                pieces.push_back(MutableBytes(room).subspan(at * kBlockBytes, kBlockBytes));
            for (std::size_t at = 0; at < kChainBlocks; ++at)
                items.push_back(
                    {keys[chain][at], {&pieces[at], 1}, testing::group_of(pool, keys[chain], at)});
            const auto report = timed([&] { return pool.get(items); });
            for (std::size_t at = 0; at < kChainBlocks; ++at) {
                if (report.blocks[at].outcome != client::Outcome::Hit) continue;
                const auto expected = testing::pattern(kBlockBytes, chain * 1000 + at);
                CHECK(std::ranges::equal(pieces[at], expected));
                ++hits;
            }
        }
        return hits;
    }
    std::size_t match() {
        std::size_t blocks = 0;
        for (const auto& chain : keys) blocks += timed([&] { return pool.match(chain); }).blocks();
        return blocks;
    }
    client::PoolClient& pool;
    std::vector<std::vector<client::Digest>> keys;
    std::vector<SteadyClock::duration> took;  ///< by each call
    static constexpr std::size_t kAll = kChains * kChainBlocks;
};

}  // namespace

TEST_CASE("with two replicas a second node may be killed once the first one's copies are made again") {
    Cluster cluster(5);
    const auto uri = cluster.nodes.front()->uri("?transport=tcp&deadline_ms=2000");
    REQUIRE(testing::open_pool(uri)->change_namespace("test", "1", {.replicas = 2}));
    const auto pool = testing::open_pool(uri);
    REQUIRE(
        testing::comes_true([&] { return Cluster::knows(*pool, 5) && pool->status().members_ready == 5; }));
    Chains chains(*pool);
    REQUIRE(chains.put(2) == Chains::kAll);
    std::size_t serving = 5;
    for (const std::size_t victim : {3, 1, 4}) {
        CAPTURE(victim);
        const auto lost = cluster.of(victim, "blocks");
        const auto before = cluster.sum("repair_blocks");
        cluster.nodes[victim]->kill();
        CHECK(chains.get() == Chains::kAll);
        --serving;
        const auto begun = SteadyClock::now();
        REQUIRE(testing::comes_true([&] { return cluster.repaired(serving); }, 30s));
        const auto took =
            std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begun).count();
        MESSAGE("of ", lost, " lost blocks ", cluster.sum("repair_blocks") - before,
                " sent by those who are left; known and done after ", took, " ms");
        CHECK(chains.get() == Chains::kAll);
        CHECK(chains.match() == Chains::kAll);
    }
    CHECK(cluster.sum("repair_refused_blocks") == 0);
}

TEST_CASE("a node is drained under load: no error, and next to nothing is computed again") {
    const auto trace = testing::shared_data("traces/mooncake/conversation_head1000.jsonl");
    if (!trace) return;
    // So slow that a good part of the replay falls into the drain. One client: with two, what one finds
    // depends on how far the other has come.
    Cluster cluster(5, {"--repair-rate", "1M"});
    const auto uri = cluster.nodes.front()->uri();
    const auto before = cluster.sum("match_calls");
    Cli replay({"replay", *trace, "--pool", uri, "--block-bytes", "2KiB", "--speed", "80", "--clients", "1",
                "--json"});
    REQUIRE(testing::comes_true([&] { return cluster.sum("match_calls") >= before + 1000; }, 60s));
    const auto at_start = cluster.sum("match_calls");
    Cli drain({"node", "drain", "node-3", "--pool", uri, "--json"});
    const auto drained = drain.json();
    REQUIRE(drained.is_object());
    const auto at_end = cluster.sum("match_calls");
    CHECK(drained["state"] == "retired");
    CHECK(drained["refused_blocks"] == 0);
    CHECK(drained["moved_blocks"].get<std::uint64_t>() > 0);
    CHECK(cluster.nodes[3]->stop());
    const auto seen = replay.json();
    REQUIRE(seen.is_object());
    const auto ideal = static_cast<double>(testing::reusable_tokens(*trace, false));
    const double lost = (ideal - seen["hit_tokens"].get<double>()) / ideal;
    MESSAGE("lost ", 100 * lost, " % of what can be reused; ", at_end - at_start,
            " matches while it drained: ", drained.dump(), " ", seen.dump());
    CHECK(at_end > at_start);
    CHECK(seen["requests"] == 1000);
    CHECK(seen["errors"] == 0);
    CHECK(seen["verify_failures"] == 0);
    CHECK(seen["deadline_overruns"] == 0);
    CHECK(lost < 0.01);
}

TEST_CASE("a chain whose groups lie with several who drain is found whole, in mapped memory too") {
    Cluster cluster(5, {"--repair-rate", "4K"});  // nothing gets far
    const auto pool = testing::open_pool(cluster.nodes.front()->uri());
    REQUIRE(
        testing::comes_true([&] { return Cluster::knows(*pool, 5) && pool->status().shards_mapped == 5; }));
    Chains chains(*pool);
    REQUIRE(chains.put(1) == Chains::kAll);
    for (const char* leaving : {"node-1", "node-3"})
        REQUIRE(pool->change_member(leaving, {.state = model::MemberState::Draining}, ""));
    REQUIRE(testing::comes_true([&] { return Cluster::knows(*pool, 3); }));
    CHECK(chains.match() == Chains::kAll);
    CHECK(chains.get() == Chains::kAll);
}

TEST_CASE("a client that is cut off from two of five nodes waits once, and never again") {
    constexpr auto kDeadline = 200ms;
    std::array<testing::Proxy, 2> wires;
    Cluster cluster(3);
    for (auto& wire : wires) {
        cluster.add({"--advertise", wire.address()});
        wire.lead_to(cluster.nodes.back()->address());
    }
    REQUIRE(testing::comes_true([&] { return cluster.all_know(5); }));
    const auto pool = testing::open_pool(
        cluster.nodes.front()->uri(fmt::format("?transport=tcp&deadline_ms={}", kDeadline.count())));
    REQUIRE(
        testing::comes_true([&] { return Cluster::knows(*pool, 5) && pool->status().members_ready == 5; }));
    Chains chains(*pool);
    REQUIRE(chains.put(1) == Chains::kAll);
    REQUIRE(chains.get() == Chains::kAll);
    std::size_t there = 0;
    for (std::size_t node = 0; node < 3; ++node) there += cluster.of(node, "blocks");
    REQUIRE(there < Chains::kAll);

    for (auto& wire : wires) wire.cut(true);
    chains.took.clear();
    CHECK(chains.get() == there);
    const auto all_in_time = [&] {
        return std::ranges::all_of(chains.took, [&](auto took) { return took <= kDeadline + 50ms; });
    };
    CHECK(all_in_time());
    chains.took.clear();
    for (int round = 0; round < 10; ++round) {
        CHECK(chains.get() == there);
        CHECK(chains.put(1) == there);
        (void)chains.match();
    }
    CHECK(all_in_time());
    std::ranges::sort(chains.took);
    const auto ms = [](auto time) { return std::chrono::duration<double, std::milli>(time).count(); };
    const auto p99 = chains.took[chains.took.size() * 99 / 100];
    MESSAGE(chains.took.size(), " calls while cut off: p50 ", ms(chains.took[chains.took.size() / 2]),
            " ms, p99 ", ms(p99), " ms, longest ", ms(chains.took.back()), " ms");
    // Nobody waits for the two: no call takes what it would take to wait for them.
    CHECK(p99 < kDeadline / 2);
    // Only clients are cut off.
    CHECK(cluster.of(0, "members") == 5);

    for (auto& wire : wires) wire.cut(false);
    CHECK(testing::comes_true([&] { return chains.get() == Chains::kAll; }, 20s));
}
