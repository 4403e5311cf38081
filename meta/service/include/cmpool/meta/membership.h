#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/meta/store.h>
#include <cmpool/model/view.h>

namespace cmpool::meta {

/// No cluster changes so often; whoever says so is wrong, and would leave no epoch to grow to.
inline constexpr std::uint64_t kEpochEnd = std::uint64_t{1} << 48;

struct LeaseTimes {
    /// How long a member may be silent.
    std::chrono::milliseconds lease{3000};
    /// How long, once the connection to it has broken: time enough to connect again for one that lives.
    std::chrono::milliseconds grace{500};
};

/// Who is in the cluster: members come by joining, stay by renewing, and are down when their lease has
/// ended. Each change is in the store before anybody is told, and makes the epoch grow by one. Leases are
/// not in the store: whoever was there before a restart of ours has a whole new one, and so has everybody
/// when we ourselves have not run for a while.
///
///   Lifetime  the store outlives it
///   Threads   one
///   Limits    model::kMembersMax members; for one more, one that is down is forgotten
///   Errors    whatever the store says, besides those at each call; after one nothing has changed
class Membership {
public:
    /// `self` is this very node, which has no lease.
    [[nodiscard]] static Result<Membership> open(Store& store, Instant now, std::uint64_t self,
                                                 LeaseTimes times = {});

    [[nodiscard]] const std::shared_ptr<const model::View>& view() const noexcept { return view_; }
    [[nodiscard]] LeaseTimes times() const noexcept { return times_; }

    /// A member begins to serve, or serves on with another address or weight. Whoever had its address is
    /// forgotten. `epoch` is the last that it knows. Errors: NoCapacity; Invalid without an address, or above
    /// kEpochEnd.
    [[nodiscard]] Result<void> join(model::Member member, std::uint64_t epoch, Instant now);
    /// Errors: LeaseLost where it is not a member, or was one in another run.
    [[nodiscard]] Result<void> renew(std::uint64_t node_id, std::uint64_t incarnation, Instant now);
    /// Its connection has broken.
    void suspect(std::uint64_t node_id, std::uint64_t incarnation, Instant now);
    /// It says that it goes. Unknown ones are gone already.
    [[nodiscard]] Result<void> leave(std::uint64_t node_id, std::uint64_t incarnation);

    struct Change {
        std::optional<std::uint32_t> weight;
        std::optional<model::MemberState> state;  ///< Serving, Draining or Retired, of one that is not down
        bool forget = false;                      ///< one that is down
    };
    /// `who` is a name, an address or an id in hex. Errors: Invalid for nobody, or for several.
    [[nodiscard]] Result<void> change(std::string_view who, const Change& change);

    /// Declares down whose lease has ended.
    [[nodiscard]] Result<void> expire(Instant now);
    [[nodiscard]] Instant next_expiry() const noexcept;

private:
    struct Lease {
        std::uint64_t incarnation;
        Instant ends;
    };

    Membership(Store& store, std::uint64_t self, LeaseTimes times) noexcept
        : store_(&store), self_(self), times_(times) {}
    void arm(const model::Member& member, Instant now);
    [[nodiscard]] Result<void> publish(model::View next);
    [[nodiscard]] Result<std::size_t> find(std::string_view who) const;

    Store* store_;
    std::uint64_t self_;
    LeaseTimes times_;
    std::shared_ptr<const model::View> view_;
    std::unordered_map<std::uint64_t, Lease> leases_;  ///< by node; of all that are not down, but ourselves
    Instant looked_{};
};

}  // namespace cmpool::meta
