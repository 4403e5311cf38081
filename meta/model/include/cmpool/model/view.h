#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cmpool::model {

/// Most members of one cluster, those that are down included.
inline constexpr std::size_t kMembersMax = 4096;
/// Most equal copies of a block.
inline constexpr std::uint32_t kReplicasMax = 3;

/// Serving: owns its share. Draining: owns nothing any more, and is asked for what its successors do not have
/// yet. Down: has fallen silent. Retired: is asked for nothing any more.
enum class MemberState : std::uint8_t { Serving = 1, Draining = 2, Down = 3, Retired = 4 };

struct Member {
    std::uint64_t node_id = 0;      ///< random, made once, kept in the node's data folder
    std::uint64_t incarnation = 0;  ///< of its last run: another one has lost what the one before held
    std::string name;
    std::string address;       ///< HOST:PORT where clients and other members reach it
    std::string host;          ///< what fails together; replicas lie on different ones where they can
    std::string zone;          ///< the same, one size larger
    std::uint32_t weight = 1;  ///< share of the blocks, relative to the others'; 0: none
    MemberState state = MemberState::Serving;

    [[nodiscard]] bool owns() const noexcept { return state == MemberState::Serving && weight > 0; }
    [[nodiscard]] bool drains() const noexcept { return state == MemberState::Draining && weight > 0; }

    friend bool operator==(const Member&, const Member&) = default;
};

/// Which servers there are. Values: a newer epoch replaces an older view as a whole.
struct View {
    std::uint64_t epoch = 0;
    std::vector<Member> members;

    friend bool operator==(const View&, const View&) = default;
};

}  // namespace cmpool::model
