#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/model/placement.h>

using namespace cmpool;
using namespace cmpool::model;

namespace {

View view_of(std::size_t members, std::uint64_t seed) {
    Rng rng(seed);
    View view{.epoch = 1, .members = {}};
    for (std::size_t index = 0; index < members; ++index) {
        view.members.push_back(
            {.node_id = rng.next(), .weight = static_cast<std::uint32_t>(1 + rng.below(4))});
    }
    return view;
}

}  // namespace

TEST_CASE("blocks of one group share a key, block 0 and the next group have their own") {
    std::vector<Digest> chain(20);
    for (std::size_t at = 0; at < chain.size(); ++at) chain[at].bytes[0] = static_cast<std::byte>(at);
    CHECK(group_key(chain, 0, 8) == chain[0].prefix());
    for (std::uint32_t at = 1; at <= 8; ++at) CHECK(group_key(chain, at, 8) == chain[1].prefix());
    for (std::uint32_t at = 9; at <= 16; ++at) CHECK(group_key(chain, at, 8) == chain[9].prefix());
    for (std::uint32_t at = 0; at < 20; ++at) CHECK(group_key(chain, at, 1) == chain[at].prefix());
}

TEST_CASE("a view without members, or with weights of zero only, owns nothing") {
    CHECK(owner_of({}, 1) == nullptr);
    const View idle{.epoch = 1, .members = {{.node_id = 1, .weight = 0}}};
    CHECK(owner_of(idle, 1) == nullptr);
}

TEST_CASE("members own groups in proportion to their weights") {
    constexpr std::uint64_t kSeed = 21;
    constexpr int kGroups = 100'000;
    CAPTURE(kSeed);
    const auto view = view_of(200, kSeed);
    std::map<std::uint32_t, double> weight_expected;
    std::map<std::uint32_t, double> weight_owned;
    std::uint64_t weights = 0;
    for (const auto& member : view.members) weights += member.weight;
    std::map<std::uint64_t, int> owned;
    Rng rng(kSeed + 1);
    for (int round = 0; round < kGroups; ++round) ++owned[owner_of(view, rng.next())->node_id];
    for (const auto& member : view.members) {
        const double expected = double{kGroups} * member.weight / static_cast<double>(weights);
        weight_expected[member.weight] += expected;
        weight_owned[member.weight] += owned[member.node_id];
        // Five standard deviations of chance.
        CHECK(std::abs(owned[member.node_id] - expected) < 5 * std::sqrt(expected));
    }
    for (const auto& [weight, expected] : weight_expected) {
        CAPTURE(weight);
        CHECK(weight_owned[weight] == doctest::Approx(expected).epsilon(0.03));
    }
}

TEST_CASE("a new member takes its share and moves nothing else, whatever the order of members") {
    constexpr std::uint64_t kSeed = 22;
    constexpr int kGroups = 100'000;
    CAPTURE(kSeed);
    const auto before = view_of(20, kSeed);
    auto after = before;
    after.epoch = 2;
    after.members.push_back({.node_id = 4711, .weight = 2});
    auto shuffled = after;
    std::reverse(shuffled.members.begin(), shuffled.members.end());
    std::rotate(shuffled.members.begin(), shuffled.members.begin() + 7, shuffled.members.end());

    std::uint64_t weights = 0;
    for (const auto& member : after.members) weights += member.weight;
    Rng rng(kSeed + 1);
    int moved = 0;
    int wrong = 0;
    for (int round = 0; round < kGroups; ++round) {
        const auto group = rng.next();
        const auto was = owner_of(before, group)->node_id;
        const auto is = owner_of(after, group)->node_id;
        if (is != was) ++moved;
        if (is != was && is != 4711) ++wrong;
        if (owner_of(shuffled, group)->node_id != is) ++wrong;
    }
    CHECK(wrong == 0);
    const double share = 2.0 / static_cast<double>(weights);
    CHECK(moved > kGroups * share * 0.9);
    CHECK(moved < kGroups * share * 1.1);
}

TEST_CASE("shards of a node share its groups evenly, and independently of who owns them") {
    constexpr std::uint64_t kSeed = 23;
    constexpr int kGroups = 200'000;
    constexpr std::uint32_t kShards = 12;
    CAPTURE(kSeed);
    const auto view = view_of(5, kSeed);
    Rng rng(kSeed + 1);
    std::vector<int> all(kShards);
    std::vector<int> of_first(kShards);
    int first = 0;
    for (int round = 0; round < kGroups; ++round) {
        const auto group = rng.next();
        const auto shard = shard_of(group, kShards);
        REQUIRE(shard < kShards);
        ++all[shard];
        if (owner_of(view, group) != &view.members.front()) continue;
        ++of_first[shard];
        ++first;
    }
    for (std::uint32_t shard = 0; shard < kShards; ++shard) {
        CHECK(all[shard] == doctest::Approx(kGroups / kShards).epsilon(0.05));
        CHECK(of_first[shard] == doctest::Approx(first / kShards).epsilon(0.15));
    }
    CHECK(shard_of(rng.next(), 1) == 0);
}
