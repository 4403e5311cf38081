#pragma once

#include "domain_store.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include <cmpool/base/allowance.h>
#include <cmpool/base/clock.h>
#include <cmpool/base/units.h>
#include <cmpool/model/namespace.h>
#include <cmpool/model/placement.h>
#include <cmpool/model/view.h>
#include <cmpool/wire/messages.h>

namespace cmpool::pool {

/// Groups that a mover has in hand at once.
inline constexpr std::size_t kGroupsInHand = 8;
/// Groups that one step looks at.
inline constexpr std::size_t kLooksPerStep = 1024;
/// Blocks of one group that are looked after, its warmest: a group is some 64 blocks, unless many chains
/// part inside it.
inline constexpr std::size_t kGroupBlocksMax = model::kBatchMax;
/// Payload of one message to another member, unless a single block is larger.
inline constexpr std::uint64_t kMoveBytes = 256 * KiB;
/// What may be sent at once after a pause, as time at the bounded rate.
inline constexpr std::chrono::milliseconds kMoveBurst{100};
/// Groups that could not be brought where they belong are tried again after so long.
inline constexpr std::chrono::milliseconds kMoveAgain{200};

/// How a mover reaches other members. Each question is answered or lost, by Mover::answered() or lost(),
/// exactly once and never before ask() has returned.
class MoverLinks {
public:
    enum class Way : std::uint8_t {
        Open,     ///< ask
        Opening,  ///< look again after the next event
        Shut,     ///< not now: it does not answer, or does not let us in
    };
    virtual ~MoverLinks() = default;
    /// The way to the shard of a member that a group belongs to; begins to open it.
    [[nodiscard]] virtual Way way(const model::Member& to, std::uint64_t group,
                                  const model::NamespaceRecord& space) = 0;
    /// Sends a question where the way is open; the payload stays until its end. False: later.
    [[nodiscard]] virtual bool ask(const model::Member& to, std::uint64_t group, std::uint64_t id,
                                   wire::Body question, std::span<const Bytes> payload) = 0;
};

/// Brings blocks to members that should hold them and do not: after each new view it walks over all groups
/// that lie here, the warmest first, asks their owners what they have, and sends what is missing there, at a
/// bounded rate. Of those that hold a block the best-placed owner sends it; who owns it no more sends what
/// no owner has; and who drains sends all that he has, since he is about to go. Groups that lay as they
/// should and keep their owners are nobody's question. Copies of what belongs to others are sent only where
/// an owner has gone and no other has the block; those that belong here by the new view are kept.
///
///   Lifetime  links and stores outlive it
///   Threads   one
///   Limits    kGroupsInHand groups, each with one message on its way to each owner
///   Errors    none: an owner that does not answer or lets nothing in is tried again until a view says that
///             it is gone. What an owner has no room for counts as seen to
class Mover {
public:
    struct Counts {
        std::uint64_t blocks = 0;  ///< that others have taken
        std::uint64_t bytes = 0;   ///< of them
        std::uint64_t refused_blocks = 0;
        std::uint64_t failures = 0;  ///< groups put off, since an owner could not be reached
    };

    /// `bytes_per_second` at most; 0: it rests.
    Mover(std::uint64_t node_id, std::uint64_t bytes_per_second, MoverLinks& links)
        : node_id_(node_id),
          rests_(bytes_per_second == 0),
          links_(links),
          allowance_(bytes_per_second, kMoveBurst) {}
    ~Mover();
    Mover(const Mover&) = delete;
    Mover& operator=(const Mover&) = delete;

    /// Blocks of this namespace may lie in this store.
    void know(const model::NamespaceRecord& space, DomainStore& store);
    /// So many copies are wanted from now on.
    void set_replicas(std::uint32_t namespace_id, std::uint32_t replicas);
    void set_view(std::shared_ptr<const model::View> view);

    /// Goes on; to be called at each tick, and when something has come from another member.
    void step(Instant now);
    void answered(std::uint64_t id, const wire::Body& answer);
    void lost(std::uint64_t id);

    /// Whatever is put here now has to go elsewhere.
    [[nodiscard]] bool drains() const noexcept { return drains_; }
    /// Nothing is left to do, and nobody owes an answer.
    [[nodiscard]] bool idle() const noexcept { return pending() == 0 && tasks_.empty(); }
    /// Groups that have still to be looked at, or to be brought somewhere.
    [[nodiscard]] std::uint64_t pending() const noexcept;
    [[nodiscard]] const Counts& counts() const noexcept { return counts_; }
    /// Blocks that it keeps where they are, since they are on their way.
    [[nodiscard]] std::uint64_t holds() const noexcept;

private:
    /// An owner of a group.
    struct Target {
        enum class State : std::uint8_t { Unasked, Asked, Known, Sending, Done, Failed };
        model::Member member;
        std::uint32_t rank = 0;
        State state = State::Unasked;
        std::uint64_t request = 0;  ///< on its way; 0: none
        std::vector<bool> has;      ///< by block
        std::size_t next = 0;       ///< the first block that has not been looked at
        std::vector<std::size_t> sent;
        std::vector<ExtentId> held;
        std::uint64_t bytes_sent = 0;
    };
    struct Task {
        DomainStore* store = nullptr;
        GroupId group = kNoGroup;
        std::uint64_t key = 0;
        std::uint32_t namespace_id = 0;
        std::uint32_t own_rank = 0;  ///< as many as there are owners: it is none of them
        std::uint64_t seen = 0;      ///< blocks that had ever come when it was looked at
        std::vector<GroupBlock> blocks;
        std::vector<Target> targets;
        bool outdated = false;  ///< a view has come since
    };
    struct Walked {
        DomainStore* store;
        GroupWalk walk;
    };

    void take_up();
    [[nodiscard]] std::optional<Task> look_at(DomainStore& store, GroupId group);
    using Placements = std::array<std::unique_ptr<model::Placement>, model::kReplicasMax>;
    [[nodiscard]] static model::Placement& placement(Placements& placements, const model::View& view,
                                                     std::uint32_t replicas);
    /// Whether the owners of a group are the ones that had it before the last view, in the same runs.
    [[nodiscard]] bool same_owners(std::uint64_t key, std::uint32_t replicas);
    /// Whether one of the owners that it had before has gone, with what it had.
    [[nodiscard]] bool lost_owner(std::uint64_t key, std::uint32_t replicas);
    /// True when nothing more will come of it.
    [[nodiscard]] bool advance(Task& task);
    void advance(Task& task, Target& target);
    void ask(Task& task, Target& target);
    void send(Task& task, Target& target);
    [[nodiscard]] bool ours(const Task& task, std::size_t block) const;
    void taken(Task& task, Target& target, std::span<const wire::Outcome> outcomes);
    void conclude(Task& task);
    [[nodiscard]] std::pair<Task*, Target*> find(std::uint64_t id);
    static void let_go(const Task& task, Target& target);

    std::uint64_t node_id_;
    bool rests_;
    MoverLinks& links_;
    std::shared_ptr<const model::View> view_ = std::make_shared<const model::View>();
    bool drains_ = false;
    Placements placements_;  ///< while there is work
    /// The view before this one, if all that was settled by it was looked after.
    std::shared_ptr<const model::View> before_;
    Placements placements_before_;
    bool looks_after_ = false;
    std::unordered_map<std::uint32_t, model::NamespaceRecord> spaces_;
    std::vector<Walked> walks_;  ///< a store each
    std::vector<std::unique_ptr<Task>> tasks_;
    std::uint64_t next_id_ = 1;
    Allowance allowance_;
    Instant again_at_ = Instant::never();
    Counts counts_;
};

}  // namespace cmpool::pool
