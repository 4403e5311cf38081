// How long placement takes among many members: a lookup, and the table after one of them has come or gone.
// Not a test: build/release/bin/bench_placement [MEMBERS] prints a table.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <cmpool/base/rng.h>
#include <cmpool/model/placement.h>

using namespace cmpool;
using namespace cmpool::model;

namespace {

constexpr std::uint32_t kSlots = std::uint32_t{1} << kSlotBits;
constexpr std::uint32_t kWeightMax = 4;
constexpr int kRounds = 5;

Member member_of(Rng& rng, std::size_t number) {
    return {.node_id = rng.next(),
            .name = "n" + std::to_string(number),
            .host = "h" + std::to_string(number / 2),
            .zone = "z" + std::to_string(number % 3),
            .weight = static_cast<std::uint32_t>(1 + rng.below(kWeightMax))};
}

template <class Work>
double best_seconds(const Work& work) {
    double best = 1e9;
    for (int round = 0; round < kRounds; ++round) {
        const auto begin = std::chrono::steady_clock::now();
        work();
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        best = std::min(best, took.count());
    }
    return best;
}

}  // namespace

int main(int count, char** words) {
    const std::size_t members = count > 1 ? std::strtoull(words[1], nullptr, 10) : 1000;
    if (members == 0 || members >= kMembersMax)
        return std::fprintf(stderr, "expected 1 to %zu members\n", std::size_t{kMembersMax} - 1), 2;
    Rng rng(1);
    View view{.epoch = 1, .members = {}};
    while (view.members.size() < members) view.members.push_back(member_of(rng, view.members.size()));
    const Member newest = member_of(rng, members);
    Placement placement(1);
    const auto follow = [&] {
        placement.follow(view);
        placement.fill();
    };
    follow();
    std::uint64_t sum = 0;
    const double lookups = best_seconds([&] {
        for (std::uint64_t group = 1; group <= kSlots; ++group)
            sum += placement.owners(group * 0x9e3779b97f4a7c15).front();
    });
    const double changes = best_seconds([&] {
        view.members.push_back(newest);
        follow();
        view.members.pop_back();
        follow();
    });
    std::printf("%zu members: a lookup %.1f ns, one change %.1f ms (%llu)\n", members, lookups / kSlots * 1e9,
                changes / 2 * 1e3, static_cast<unsigned long long>(sum % 10));
}
