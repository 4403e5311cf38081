#include "sim_cluster.h"

#include <charconv>
#include <cstdlib>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

// Thousands of schedules: a real client, a real server and a real controller, in one thread, under
// everything that a network and a host can do to them. A seed that fails is printed, and
// `CMPOOL_SEED=n` replays it alone.

namespace cmpool::testing {
namespace {

constexpr std::uint64_t kSeeds = 10'000;
constexpr std::uint64_t kShards = 4;

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
    const char* text = std::getenv(variable);
    if (text == nullptr) return otherwise;
    std::uint64_t number = otherwise;
    const std::string_view whole(text);
    std::from_chars(whole.data(), whole.data() + whole.size(), number);
    return number;
}

void run(std::uint64_t seed) {
    SimCluster cluster(seed, Scene::draw(seed));
    const std::string wrong = cluster.run();
    if (wrong.empty()) return;
    FAIL_CHECK("seed ", seed, ": ", wrong, "; to replay it: CMPOOL_SEED=", seed,
               " test_cluster --test-case=\"random schedules*\"");
}

void run_shard(std::uint64_t shard) {
    if (std::getenv("CMPOOL_SEED") != nullptr) {
        if (shard == 0) run(number_from("CMPOOL_SEED", 1));
        return;
    }
    const std::uint64_t each = number_from("CMPOOL_SEEDS", kSeeds) / kShards;
    const std::uint64_t first = number_from("CMPOOL_FIRST_SEED", 1);
    for (std::uint64_t number = 0; number < each; ++number) run(first + number * kShards + shard);
}

TEST_CASE("random schedules of the first quarter") { run_shard(0); }
TEST_CASE("random schedules of the second quarter") { run_shard(1); }
TEST_CASE("random schedules of the third quarter") { run_shard(2); }
TEST_CASE("random schedules of the fourth quarter") { run_shard(3); }

}  // namespace
}  // namespace cmpool::testing
