#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include <cmpool/model/digest.h>
#include <cmpool/model/view.h>

namespace cmpool::model {

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

/// The shard of a node that owns a group; independent of which node that is.
[[nodiscard]] std::uint32_t shard_of(std::uint64_t group, std::uint32_t shards) noexcept;

/// Groups are spread over so many slots, and slots over members.
inline constexpr unsigned kSlotBits = 20;
[[nodiscard]] std::uint32_t slot_of(std::uint64_t group) noexcept;

/// Which members own which groups: weighted rendezvous hashing of 2^20 slots, each worked out when it is
/// first asked for and kept until a view changes it. Equal views give equal owners, whatever views came
/// before. The best owner is followed by others in zones of their own, then on hosts of their own, then
/// merely by other members, so that there are `replicas` owners wherever there are as many members.
///
///   Units    2 bytes a slot and replica
///   Threads  one
///   Source   weights: Schindelhauer and Schomaker, Weighted distributed hash tables, SPAA 2005
///            (logarithmic method)
class Placement {
public:
    /// A member's index; it keeps it as long as views name it.
    using Seat = std::uint16_t;
    static constexpr Seat kNobody = UINT16_MAX;
    static_assert(kMembersMax <= kNobody);

    /// `replicas` from 1 to kReplicasMax.
    explicit Placement(std::uint32_t replicas = 1);

    /// Takes over another view; only slots whose owners change are forgotten.
    void follow(const View& view);
    /// Works all slots out now.
    void fill();

    /// The owners of a group, best first; kNobody where there are no more members.
    [[nodiscard]] std::span<const Seat> owners(std::uint64_t group) noexcept {
        return owners_of_slot(slot_of(group));
    }
    [[nodiscard]] std::span<const Seat> owners_of_slot(std::uint32_t slot) noexcept {
        const std::size_t at = std::size_t{slot} * replicas_;
        if (table_[at] == kUnknown) work_out(slot);
        return {&table_[at], replicas_};
    }

    [[nodiscard]] std::uint32_t replicas() const noexcept { return replicas_; }
    /// By seat; one whose node_id is 0 is free.
    [[nodiscard]] const Member& member(Seat seat) const noexcept { return seats_[seat].member; }
    [[nodiscard]] std::size_t seats() const noexcept { return seats_.size(); }
    /// kNobody where no view names it.
    [[nodiscard]] Seat seat_of(std::uint64_t node_id) const noexcept;

private:
    static constexpr Seat kUnknown = kNobody - 1;

    struct Place {
        Member member;
        std::uint64_t seed = 0, host = 0, zone = 0;
        bool owns = false;
    };
    /// Owners of one weight, which the hash alone compares.
    struct Class {
        double weight;
        std::vector<Seat> seats;
        std::vector<std::uint64_t> seeds;
    };

    void work_out(std::uint32_t slot) noexcept;
    [[nodiscard]] Seat best(std::uint32_t slot, std::span<const Seat> before) const noexcept;
    [[nodiscard]] unsigned distance(const Place& place, std::span<const Seat> before) const noexcept;
    [[nodiscard]] bool enters(const Place& newcomer, std::uint32_t slot,
                              std::span<const Seat> owners) const noexcept;
    void forget_owned_by(const std::vector<bool>& gone);
    void let_in(Seat newcomer);
    void sort_by_weight();

    std::uint32_t replicas_;
    std::vector<Place> seats_;
    std::vector<Class> classes_;
    std::vector<Seat> table_;
    bool asked_ = false;  ///< some slot has been worked out
};

}  // namespace cmpool::model
