#include <cmath>
#include <limits>

#include <cmpool/model/placement.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace cmpool::model {
namespace {

constexpr std::uint64_t kShardSeed = 0x73686172640a;

std::uint64_t mix(std::uint64_t word, std::uint64_t seed) noexcept {
    return XXH3_64bits_withSeed(&word, sizeof word, seed);
}

// A uniform number in (0, 1] from the upper 53 bits.
double unit_interval(std::uint64_t word) noexcept { return (static_cast<double>(word >> 11) + 1) * 0x1p-53; }

}  // namespace

std::uint64_t group_key(std::span<const Digest> chain, std::uint32_t position,
                        std::uint32_t group_blocks) noexcept {
    return chain[group_start(position, group_blocks)].prefix();
}

const Member* owner_of(const View& view, std::uint64_t group) noexcept {
    const Member* owner = nullptr;
    double best = -std::numeric_limits<double>::infinity();
    for (const auto& member : view.members) {
        if (member.weight == 0) continue;
        const double score = std::log(unit_interval(mix(group, member.node_id))) / member.weight;
        if (score > best || (score == best && member.node_id < owner->node_id)) {
            best = score;
            owner = &member;
        }
    }
    return owner;
}

std::uint32_t shard_of(std::uint64_t group, std::uint32_t shards) noexcept {
    return static_cast<std::uint32_t>((mix(group, kShardSeed) >> 32) * shards >> 32);
}

}  // namespace cmpool::model
