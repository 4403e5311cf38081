#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

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
    /// How late its lease may be at most, while it still answers where its clients ask.
    std::chrono::milliseconds busy{15'000};
};

/// Who is in the cluster: members come by joining, stay by renewing, and are down when their lease has
/// ended. Each change is in the store before anybody is told, and makes the epoch grow by one. Leases are
/// not in the store: whoever was there before a restart of ours has a whole new one, and so has everybody
/// when we ourselves have not run for a while. Of a store that several nodes share each of them has one: a
/// change that another has overtaken is made again, over what that one has written.
///
///   Lifetime  the store outlives it
///   Threads   one
///   Limits    model::kMembersMax members; for one more, one that is down is forgotten
///   Errors    whatever the store says, besides those at each call: Again after kRacesMax lost races; after
///             one nothing has changed, as far as we know
class Membership {
public:
    /// `self` is this very node, which has no lease. It knows of nobody before refresh() or adopt().
    Membership(Store& store, std::uint64_t self, LeaseTimes times) noexcept
        : store_(&store), self_(self), times_(times) {}
    /// The same, which has read the store.
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
    /// It has answered where its clients ask: it lives, and is merely late.
    void heard(std::uint64_t node_id, std::uint64_t incarnation, Instant now);
    /// Its host says that it is not there any more: its lease ends now.
    void ended(std::uint64_t node_id, std::uint64_t incarnation, Instant now);
    /// Whose lease has begun its second half, or has been cut short.
    [[nodiscard]] std::vector<model::Member> late(Instant now) const;
    /// It says that it goes. Unknown ones are gone already.
    [[nodiscard]] Result<void> leave(std::uint64_t node_id, std::uint64_t incarnation);

    struct Change {
        std::optional<std::uint32_t> weight;
        std::optional<model::MemberState> state;  ///< Serving, Draining or Retired, of one that is not down
        bool forget = false;                      ///< one that is down
    };
    /// `who` is a name, an address or an id in hex. Errors: Invalid for nobody, or for several.
    [[nodiscard]] Result<void> change(std::string_view who, const Change& change);

    /// Gives everybody a whole lease: nobody could have renewed it with us.
    void rearm(Instant now);
    /// What has to hold, and what to write besides, when a member is declared down.
    struct Terms {
        std::vector<Entry> batch;
        std::vector<Guard> guards;
    };
    using TermsOf = std::function<Terms(std::uint64_t node_id, bool ended)>;
    /// Declares down whose lease has ended.
    [[nodiscard]] Result<void> expire(Instant now, const TermsOf& terms_of = {});
    [[nodiscard]] Instant next_expiry() const noexcept;

    /// What the store holds, read again, or told by whoever watches it. A store that knows less than we do
    /// has been emptied, or put back to what it was: the next join() brings it up to date.
    [[nodiscard]] Result<void> refresh(Instant now);
    [[nodiscard]] Result<void> adopt(const std::optional<Found>& stored, Instant now);
    /// Whether the store knows of a lower epoch than ours.
    [[nodiscard]] bool store_is_behind() const noexcept { return stored_epoch_ < view_->epoch; }
    [[nodiscard]] const model::Member* find_member(std::uint64_t node_id) const noexcept;

private:
    struct Lease {
        std::uint64_t incarnation;
        Instant ends;
        Instant renewed;
        Instant heard{};
        bool gone = false;  ///< its host says so
    };
    [[nodiscard]] bool has_ended(const Lease& lease, Instant now) const noexcept;
    [[nodiscard]] Lease* find_lease(std::uint64_t node_id, std::uint64_t incarnation) noexcept;

    void arm(const model::Member& member, Instant now);
    /// Of those that are not there any more.
    void forget_leases();
    /// Changes the view as `edit` says, again and again until no other node comes in between. With terms
    /// once: which of them does not hold is for the caller to find out.
    using Edit = std::function<Result<void>(model::View&)>;
    [[nodiscard]] Result<void> update(const Edit& edit, const Terms& terms);
    [[nodiscard]] Result<void> publish(model::View next, const Terms& terms);
    [[nodiscard]] static Result<std::size_t> find(const model::View& view, std::string_view who);
    [[nodiscard]] static Result<void> enter(model::View& view, model::Member member, std::uint64_t epoch);

    Store* store_;
    std::uint64_t self_;
    LeaseTimes times_;
    std::shared_ptr<const model::View> view_ = std::make_shared<const model::View>();
    std::uint64_t revision_ = 0;  ///< of the view in the store
    std::uint64_t stored_epoch_ = 0;
    std::unordered_map<std::uint64_t, Lease> leases_;  ///< by node; of all that are not down, but ourselves
    Instant looked_{};
};

}  // namespace cmpool::meta
