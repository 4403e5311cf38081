#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <cmpool/model/digest.h>

namespace cmpool::model {

enum class MemberState : std::uint8_t { Serving = 1, Draining = 2 };

struct Member {
    std::uint64_t node_id = 0;  ///< random, made once, kept in the node's data folder
    std::string name;
    std::string address;  ///< HOST:PORT of its control lane
    std::string zone;
    std::uint32_t weight = 1;  ///< share of the blocks, relative to the others'
    MemberState state = MemberState::Serving;

    friend bool operator==(const Member&, const Member&) = default;
};

/// Which servers hold which groups. Values: a newer epoch replaces an older view as a whole.
struct View {
    std::uint64_t epoch = 0;
    std::vector<Member> members;

    friend bool operator==(const View&, const View&) = default;
};

/// Where in its chain the group of the block at `position` begins: block 0 is alone, then come
/// runs of `group_blocks`.
[[nodiscard]] constexpr std::uint32_t group_start(std::uint32_t position,
                                                  std::uint32_t group_blocks) noexcept {
    return position == 0 ? 0 : (position - 1) / group_blocks * group_blocks + 1;
}
static_assert(group_start(0, 64) == 0 && group_start(1, 64) == 1 && group_start(64, 64) == 1);
static_assert(group_start(65, 64) == 65 && group_start(7, 1) == 7);

/// The key that places a block: the first 64 bits of its group's first digest.
[[nodiscard]] std::uint64_t group_key(std::span<const Digest> chain, std::uint32_t position,
                                      std::uint32_t group_blocks) noexcept;

/// The member that owns a group: weighted rendezvous hashing. Null in a view without members.
/// Source: Schindelhauer and Schomaker, Weighted distributed hash tables, SPAA 2005 (logarithmic method).
[[nodiscard]] const Member* owner_of(const View& view, std::uint64_t group) noexcept;

/// The shard of a node that owns a group; independent of owner_of().
[[nodiscard]] std::uint32_t shard_of(std::uint64_t group, std::uint32_t shards) noexcept;

}  // namespace cmpool::model
