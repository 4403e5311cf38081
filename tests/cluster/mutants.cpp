#include "sim_cluster.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <cmpool/model/index_layout.h>

#include <doctest/doctest.h>

// A checker that never fails proves nothing: here something is wrong on purpose, through seams that
// only tests have, and it must be noticed within a few seeds.

namespace cmpool::testing {
namespace {

using namespace transport;

constexpr std::uint64_t kSeedsMax = 60;

/// Segments as they are, and what a broken machine would do to their bytes now and then.
class BrokenFabric final : public Fabric {
public:
    using Breaking = std::function<void(const SegmentSpec&, MutableBytes)>;
    BrokenFabric(std::unique_ptr<Fabric> inner, Breaking breaking)
        : inner_(std::move(inner)), breaking_(std::move(breaking)) {}

    [[nodiscard]] const Caps& caps() const noexcept override { return inner_->caps(); }
    [[nodiscard]] Result<std::unique_ptr<Segment>> allocate(const SegmentSpec& spec) override {
        auto segment = inner_->allocate(spec);
        if (segment) breaking_(spec, (*segment)->bytes());
        return segment;
    }
    [[nodiscard]] Result<std::unique_ptr<Segment>> register_memory(MutableBytes memory,
                                                                   Access access) override {
        return inner_->register_memory(memory, access);
    }
    [[nodiscard]] Result<std::unique_ptr<Listener>> listen(std::string_view address) override {
        return inner_->listen(address);
    }
    [[nodiscard]] Result<std::unique_ptr<Lane>> connect(std::string_view address) override {
        return inner_->connect(address);
    }

private:
    std::unique_ptr<Fabric> inner_;
    Breaking breaking_;
};

/// The first complaint within kSeedsMax seeds.
std::string first_complaint(const std::function<void(Scene&)>& spoil,
                            const std::function<void(SimCluster&)>& prepare = {}) {
    for (std::uint64_t seed = 1; seed <= kSeedsMax; ++seed) {
        Scene scene = Scene::kind(seed);
        scene.expectations = {};
        spoil(scene);
        SimCluster cluster(seed, std::move(scene));
        if (prepare) prepare(cluster);
        if (auto wrong = cluster.run(); !wrong.empty()) return wrong;
    }
    return {};
}

bool mentions(const std::string& complaint, const char* words) {
    CAPTURE(complaint);
    return complaint.find(words) != std::string::npos;
}

/// Keeps flipping bits in the memory of a cluster's pool.
///
///   Lifetime  outlives the clusters whose scenes it spoils
class Flips {
public:
    // Within one tenant no segment is ever given up, and nothing crashes here: the bytes stay there.
    void spoil(Scene& scene) {
        memory_.clear();
        scene.spaces = 2;
        scene.server.wrap_memory = [this](std::unique_ptr<Fabric> inner) -> std::unique_ptr<Fabric> {
            return std::make_unique<BrokenFabric>(std::move(inner),
                                                  [this](const SegmentSpec& spec, MutableBytes bytes) {
                                                      if (spec.name == "data") memory_.push_back(bytes);
                                                  });
        };
    }
    void begin(SimCluster& cluster) {
        for (int number = 1; number <= 100; ++number) {
            cluster.world().at(Instant{number * 3'000'000}, [this, &cluster] {
                const auto bytes = memory_[cluster.world().rng().below(memory_.size())];
                const auto place = cluster.world().rng().below(bytes.size() / 4);
                // Many places at once, so that some of them are somebody's.
                for (std::size_t at = place; at < bytes.size(); at += 4096) bytes[at] ^= std::byte{1};
            });
        }
    }

private:
    std::vector<MutableBytes> memory_;
};

TEST_CASE("the checker notices a flipped bit in the pool's memory") {
    Flips flips;
    const auto wrong = first_complaint([&](Scene& scene) { flips.spoil(scene); },
                                       [&](SimCluster& cluster) { flips.begin(cluster); });
    CHECK_FALSE(wrong.empty());
}

// The same memory, and nobody is given a wrong byte: at most a wrong length, which only its header knows.
TEST_CASE("a flipped bit in a sealed block is a miss, and is counted") {
    std::uint64_t broken = 0;
    std::uint64_t hits = 0;
    for (std::uint64_t seed = 1; seed <= kSeedsMax; ++seed) {
        CAPTURE(seed);
        Flips flips;
        Scene scene = Scene::kind(seed);
        scene.expectations = {};
        scene.universe.sealed = true;
        flips.spoil(scene);
        SimCluster cluster(seed, std::move(scene));
        flips.begin(cluster);
        CHECK_FALSE(mentions(cluster.run(), "other bytes"));
        broken += cluster.server().stat("broken_seals");
        hits += cluster.history().seen().hits;
    }
    MESSAGE("hits ", hits, ", seals that did not open ", broken);
    CHECK(broken >= 100);
    CHECK(hits >= 1000);
}

TEST_CASE("the checker notices a server that takes living processes for dead") {
    const auto wrong = first_complaint([](Scene& scene) {
        scene.server.lies_about_deaths = true;
        scene.server.capacity_bytes = 2 * MiB;
        scene.plan.break_lane = 0.02;
    });
    CHECK(mentions(wrong, "has changed"));
}

TEST_CASE("the checker notices pins that the server does not see") {
    std::vector<MutableBytes> pages;
    const auto wrong = first_complaint(
        [&](Scene& scene) {
            pages.clear();
            scene.server.capacity_bytes = 2 * MiB;
            scene.server.wrap_memory = [&](std::unique_ptr<Fabric> inner) -> std::unique_ptr<Fabric> {
                return std::make_unique<BrokenFabric>(std::move(inner),
                                                      [&](const SegmentSpec& spec, MutableBytes bytes) {
                                                          if (spec.name == "control") pages.push_back(bytes);
                                                      });
            };
        },
        [&](SimCluster& cluster) {
            for (int number = 1; number <= 400; ++number) {
                cluster.world().at(Instant{number * 1'000'000}, [&pages] {
                    for (const auto page : pages)
                        reinterpret_cast<model::ControlPage*>(page.data())->pins_end = 0;
                });
            }
        });
    CHECK_FALSE(wrong.empty());
}

TEST_CASE("the checker notices a buffer that is written after its call is done") {
    const auto wrong = first_complaint([](Scene& scene) { scene.expectations.overwrites_after_done = true; });
    CHECK(mentions(wrong, "written after it was done"));
}

TEST_CASE("the checker notices a tenant that is given another's memory") {
    const auto wrong = first_complaint([](Scene& scene) { scene.server.one_domain_for_all = true; });
    CHECK(mentions(wrong, "another tenant"));
}

TEST_CASE("random scenes reach what they are meant to reach") {
    History::Seen sum;
    std::uint64_t evicted = 0;
    std::uint64_t refused = 0;
    for (std::uint64_t seed = 1; seed <= kSeedsMax; ++seed) {
        SimCluster cluster(seed, Scene::draw(seed));
        CHECK(cluster.run().empty());
        const auto& seen = cluster.history().seen();
        sum.hits += seen.hits;
        sum.misses += seen.misses;
        sum.stored += seen.stored;
        sum.present += seen.present;
        sum.dropped += seen.dropped;
        sum.leased += seen.leased;
        sum.views += seen.views;
        sum.late += seen.late;
        sum.too_small += seen.too_small;
        sum.parts += seen.parts;
        sum.outside += seen.outside;
        evicted += cluster.server().stat("evicted_blocks");
        refused += cluster.server().stat("leases_refused");
    }
    MESSAGE("hits ", sum.hits, " misses ", sum.misses, " stored ", sum.stored, " present ", sum.present,
            " dropped ", sum.dropped, " leased ", sum.leased, " views ", sum.views, " late ", sum.late,
            " too small ", sum.too_small, " parts ", sum.parts, " outside ", sum.outside, " evicted ",
            evicted, " leases refused ", refused);
    for (const auto count : {sum.hits, sum.misses, sum.stored, sum.present, sum.dropped, sum.leased,
                             sum.views, sum.late, sum.too_small, sum.parts, sum.outside, evicted}) {
        CHECK(count >= 100);
    }
}

}  // namespace
}  // namespace cmpool::testing
