// A client beside one of three cmpoold: what it reads from the other two it finds on its host the next time,
// also when one of them is dead.
#include "nodes.h"

using namespace cmpool;
using namespace std::chrono_literals;
using client::Outcome;

namespace {

constexpr std::size_t kChains = 30;
constexpr std::size_t kBytes = 100'000;

/// The roots of so many chains, each placed by itself.
std::vector<client::Digest> roots_of(const client::PoolClient& pool) {
    std::vector<client::Digest> roots;
    for (std::uint32_t chain = 0; chain < kChains; ++chain)
        roots.push_back(testing::chain_of(pool, 1, chain).front());
    return roots;
}

std::size_t hits(client::PoolClient& pool, std::span<const client::Digest> keys) {
    std::vector<std::byte> bytes(kBytes);
    std::size_t found = 0;
    for (std::size_t at = 0; at < keys.size(); ++at) {
        std::ranges::fill(bytes, std::byte{0});
        const auto got = testing::get_one(pool, keys[at], bytes);
        if (got.outcome != Outcome::Hit) continue;
        ++found;
        CHECK(bytes == testing::pattern(kBytes, at));
    }
    return found;
}

}  // namespace

TEST_CASE(
    "what a client has read from other nodes is found in its own host's memory, and outlives their death") {
    testing::Cluster cluster(3, {"--near-cache", "25%"});
    // From now on their memory cannot be reached from here, as if they were on other hosts.
    for (const std::size_t node : {1, 2}) std::filesystem::remove(cluster.nodes[node]->socket());
    const auto pool = testing::open_pool(cluster.nodes[0]->uri("?deadline_ms=2000"));
    REQUIRE(testing::comes_true([&] {
        pool->progress();
        return pool->status().members_ready == 3;
    }));
    REQUIRE(pool->status().shards_mapped == 1);
    const auto roots = roots_of(*pool);
    for (std::size_t at = 0; at < roots.size(); ++at)
        REQUIRE(testing::put_one(*pool, roots[at], testing::pattern(kBytes, at)) == Outcome::Stored);

    const auto own = cluster.of(0, "blocks");
    REQUIRE(own < kChains);
    CHECK(hits(*pool, roots) == kChains);
    CHECK(testing::comes_true([&] {
        pool->progress();
        // What came while another copy was on its way was dropped.
        return hits(*pool, roots) == kChains && cluster.of(0, "near_blocks") == kChains - own;
    }));
    CHECK(cluster.of(0, "near_bytes") >= (kChains - own) * kBytes);
    CHECK(cluster.of(1, "near_blocks") + cluster.of(2, "near_blocks") == 0);

    const auto asked = [&] { return cluster.sum("messages_Get") + cluster.sum("messages_Match"); };
    const auto before = asked();
    const auto seen = cluster.of(0, "near_hits");
    CHECK(hits(*pool, roots) == kChains);
    for (const auto& root : roots) CHECK(pool->match({&root, 1}).blocks() == 1);
    CHECK(asked() == before);
    CHECK(cluster.of(0, "near_hits") == seen + kChains - own);

    cluster.nodes[2]->kill();
    CHECK(hits(*pool, roots) == kChains);
    CHECK(testing::comes_true([&] { return cluster.repaired(2); }));
    // Another client, of another host, finds them where they belong now.
    const auto other = testing::open_pool(cluster.nodes[0]->uri("?transport=tcp&deadline_ms=2000"));
    CHECK(hits(*other, roots) == kChains);
}
