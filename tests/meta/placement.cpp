#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/model/placement.h>

using namespace cmpool;
using namespace cmpool::model;

namespace {

constexpr std::uint32_t kSlots = std::uint32_t{1} << kSlotBits;

Member member_of(Rng& rng, std::size_t number, std::uint32_t weight) {
    return {.node_id = rng.next(),
            .name = "n" + std::to_string(number),
            .host = "h" + std::to_string(number / 2),
            .zone = "z" + std::to_string(number % 3),
            .weight = weight};
}

View view_of(std::size_t members, std::uint64_t seed, std::uint32_t weight_max = 4) {
    Rng rng(seed);
    View view{.epoch = 1, .members = {}};
    for (std::size_t index = 0; index < members; ++index)
        view.members.push_back(member_of(rng, index, static_cast<std::uint32_t>(1 + rng.below(weight_max))));
    return view;
}

std::vector<std::uint64_t> owners(Placement& placement, std::uint32_t slot) {
    std::vector<std::uint64_t> ids;
    for (const auto seat : placement.owners_of_slot(slot))
        ids.push_back(seat == Placement::kNobody ? 0 : placement.member(seat).node_id);
    return ids;
}

/// The definition, word for word and slowly.
std::vector<std::uint64_t> naive(const View& view, std::uint32_t slot, std::uint32_t replicas) {
    std::vector<const Member*> chosen;
    while (chosen.size() < replicas) {
        const Member* best = nullptr;
        std::pair<int, double> best_rank;
        for (const auto& member : view.members) {
            if (!member.owns()) continue;
            int away = 3;
            for (const Member* other : chosen) {
                if (other == &member) away = 0;
                if (other->zone == member.zone) away = std::min(away, other->host == member.host ? 1 : 2);
            }
            if (away == 0) continue;
            const std::uint64_t drawn = mix64(mix64(slot + std::uint64_t{1}) ^ mix64(member.node_id));
            const double uniform = (static_cast<double>(drawn >> 11) + 1) * 0x1p-53;
            const std::pair rank(away, std::log(uniform) / member.weight);
            if (best == nullptr || rank > best_rank) {
                best = &member;
                best_rank = rank;
            }
        }
        if (best == nullptr) break;
        chosen.push_back(best);
    }
    std::vector<std::uint64_t> ids;
    for (const Member* member : chosen) ids.push_back(member->node_id);
    ids.resize(replicas);
    return ids;
}

/// How far the worst member is from its share, as a part of it.
double worst_spread(Placement& placement, const View& view) {
    std::map<std::uint64_t, double> owned;
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) ++owned[owners(placement, slot).front()];
    double weights = 0;
    for (const auto& member : view.members) weights += member.weight;
    double worst = 0;
    for (const auto& member : view.members) {
        const double share = kSlots * member.weight / weights;
        worst = std::max(worst, std::abs(owned[member.node_id] - share) / share);
    }
    return worst;
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

TEST_CASE("a view without members, or without one that owns, owns nothing") {
    Placement placement(2);
    CHECK(owners(placement, 1) == std::vector<std::uint64_t>{0, 0});
    placement.follow({.epoch = 1,
                      .members = {{.node_id = 1, .weight = 0},
                                  {.node_id = 2, .state = MemberState::Draining},
                                  {.node_id = 3, .state = MemberState::Down}}});
    CHECK(owners(placement, 1) == std::vector<std::uint64_t>{0, 0});
}

TEST_CASE("owners are those of the definition, whatever views came before") {
    constexpr std::uint64_t kSeed = 20;
    CAPTURE(kSeed);
    Rng rng(kSeed);
    for (const std::uint32_t replicas : {1u, 2u, 3u}) {
        CAPTURE(replicas);
        Placement placement(replicas);
        View view;
        for (int change = 0; change < 60; ++change) {
            const std::size_t at = view.members.empty() ? 0 : rng.below(view.members.size());
            const auto what = rng.below(6);
            if (what < 3 || view.members.empty()) {
                view.members.push_back(
                    member_of(rng, rng.below(12), 1 + static_cast<std::uint32_t>(rng.below(3))));
            } else if (what == 3) {
                view.members.erase(view.members.begin() + static_cast<std::ptrdiff_t>(at));
            } else if (what == 4) {
                view.members[at].weight = static_cast<std::uint32_t>(rng.below(5));
            } else {
                view.members[at].state = static_cast<MemberState>(1 + rng.below(3));
            }
            if (rng.chance(0.3)) std::reverse(view.members.begin(), view.members.end());
            if (rng.chance(0.2)) continue;  // several changes at once
            ++view.epoch;
            placement.follow(view);
            // The same slots again and again, so that kept ones are among them.
            int wrong = 0;
            for (std::uint32_t slot = 0; slot < 300; ++slot)
                wrong += owners(placement, slot * 3001) != naive(view, slot * 3001, replicas) ? 1 : 0;
            REQUIRE(wrong == 0);
        }
        CHECK(placement.seats() <= view.members.size() + 20);
    }
}

TEST_CASE("replicas lie in different zones, else on different hosts, else on different members") {
    View view{.epoch = 1, .members = {}};
    for (std::uint64_t id = 1; id <= 6; ++id)
        view.members.push_back({.node_id = id, .host = "h" + std::to_string(id / 2), .zone = "z"});
    view.members.push_back({.node_id = 7, .host = "far", .zone = "other"});
    Placement placement(3);
    placement.follow(view);
    for (std::uint32_t slot = 0; slot < 2000; ++slot) {
        const auto seats = placement.owners_of_slot(slot);
        std::set<std::string> hosts;
        std::set<std::string> zones;
        for (const auto seat : seats) {
            hosts.insert(placement.member(seat).host);
            zones.insert(placement.member(seat).zone);
        }
        REQUIRE(hosts.size() == 3);
        REQUIRE(zones.size() == 2);
    }
    view.members.resize(1);
    view.members.push_back({.node_id = 9, .host = view.members[0].host, .zone = "z"});
    placement.follow(view);
    CHECK(std::ranges::count(owners(placement, 5), 0u) == 1);
}

TEST_CASE("200 members own slots by their weights, within 5 % of them") {
    auto view = view_of(200, 21, 1);
    Placement placement(1);
    placement.follow(view);
    const double equal = worst_spread(placement, view);
    MESSAGE("200 members of one weight: the worst is ", 100 * equal, " % from its share");
    CHECK(equal < 0.05);
    // With weights 8 to 11 the least member still has as many slots as chance needs to be that fair.
    for (std::size_t at = 0; at < view.members.size(); ++at)
        view.members[at].weight = 8 + static_cast<std::uint32_t>(at % 4);
    placement.follow(view);
    const double weighted = worst_spread(placement, view);
    MESSAGE("200 members of weights 8 to 11: the worst is ", 100 * weighted, " % from its share");
    CHECK(weighted < 0.05);
}

TEST_CASE("a sixth member takes a sixth of the slots and moves nothing else") {
    auto view = view_of(5, 22, 1);
    Placement before(1);
    before.follow(view);
    Placement after(1);
    Rng rng(4711);
    view.members.push_back(member_of(rng, 5, 1));
    after.follow(view);
    const auto newcomer = view.members.back().node_id;
    std::uint32_t moved = 0;
    std::uint32_t wrong = 0;
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
        const auto was = owners(before, slot);
        const auto is = owners(after, slot);
        moved += is != was ? 1 : 0;
        wrong += is != was && is.front() != newcomer ? 1 : 0;
    }
    CHECK(wrong == 0);
    const double part = static_cast<double>(moved) * 6 / kSlots;
    MESSAGE("a sixth member moves ", part, " of a sixth");
    CHECK(part == doctest::Approx(1).epsilon(0.05));
}

TEST_CASE("shards of a node share its groups evenly, and independently of who owns them") {
    constexpr std::uint64_t kSeed = 23;
    constexpr int kGroups = 200'000;
    constexpr std::uint32_t kShards = 12;
    CAPTURE(kSeed);
    const auto view = view_of(5, kSeed);
    Placement placement(1);
    placement.follow(view);
    Rng rng(kSeed + 1);
    std::vector<int> all(kShards);
    std::vector<int> of_first(kShards);
    int first = 0;
    for (int round = 0; round < kGroups; ++round) {
        const auto group = rng.next();
        const auto shard = shard_of(group, kShards);
        REQUIRE(shard < kShards);
        ++all[shard];
        if (placement.owners(group).front() != 0) continue;
        ++of_first[shard];
        ++first;
    }
    for (std::uint32_t shard = 0; shard < kShards; ++shard) {
        CHECK(all[shard] == doctest::Approx(double{kGroups} / kShards).epsilon(0.05));
        CHECK(of_first[shard] == doctest::Approx(static_cast<double>(first) / kShards).epsilon(0.15));
    }
    CHECK(shard_of(rng.next(), 1) == 0);
}
