#pragma once

#include "mover.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/pool/server.h>
#include <cmpool/transport/fabric.h>
#include <cmpool/transport/lane.h>

namespace cmpool::pool {

/// Lanes to other members' shards; where there are more, those that nobody needs right now are closed.
inline constexpr std::size_t kMemberLanesMax = 256;
/// A member that does not answer for so long is given up for a while.
inline constexpr std::chrono::milliseconds kMemberDeadline{2000};
/// After a failure a member is left alone for so long, then ever longer.
inline constexpr std::chrono::milliseconds kMemberRetryMin{50};
inline constexpr std::chrono::milliseconds kMemberRetryMax{2000};

/// Whoever is told what becomes of questions to members.
class MemberNews {
public:
    virtual ~MemberNews() = default;
    virtual void answered(std::uint64_t id, const wire::Body& answer) = 0;
    virtual void lost(std::uint64_t id) = 0;
    /// A member knows of this epoch.
    virtual void heard_of(std::uint64_t epoch) = 0;
};

/// The lanes from this shard to those of other members, opened when they are needed. To them it is a client
/// that shows the cluster's key instead of a tenant's.
///
///   Lifetime  all that it was made from outlives it
///   Threads   one
///   Limits    kMemberLanesMax lanes, with kNamespacesPerPeerMax namespaces each
class MemberLanes final : public MoverLinks {
public:
    using PeerId = Server::PeerId;

    struct Config {
        std::string name;         ///< what members call us in their logs
        std::string cluster_key;  ///< empty: the cluster is open
    };
    /// Without a network all ways are shut. `new_id` makes numbers that no other peer of the server has.
    MemberLanes(Config config, const Clock& clock, transport::Fabric* network, MemberNews& news,
                std::function<PeerId()> new_id);
    ~MemberLanes() override;
    MemberLanes(const MemberLanes&) = delete;
    MemberLanes& operator=(const MemberLanes&) = delete;

    [[nodiscard]] Way way(const model::Member& to, std::uint64_t group,
                          const model::NamespaceRecord& space) override;
    [[nodiscard]] bool ask(const model::Member& to, std::uint64_t group, std::uint64_t id,
                           wire::Body question, std::span<const Bytes> payload) override;

    /// What our messages say that we know.
    void set_epoch(std::uint64_t epoch) noexcept { epoch_ = epoch; }
    /// Gives up whoever has not answered in time; what becomes of questions is told to `news`.
    void tick();
    void close_all();

    // ---- as the peers of a server ----
    [[nodiscard]] bool has(PeerId id) const noexcept { return lanes_.contains(id); }
    [[nodiscard]] Server::Served serve(PeerId id);
    [[nodiscard]] transport::Lane* lane_of(PeerId id) const noexcept;
    void drop(PeerId id);
    /// Those opened since the last call.
    [[nodiscard]] std::vector<PeerId> opened() { return std::exchange(opened_, {}); }

private:
    struct Space {
        enum class State : std::uint8_t { Asked, Open, Refused };
        State state = State::Asked;
        Instant again_at{};
    };
    struct Request {
        std::optional<std::uint64_t> asked_as;  ///< by the mover
        std::uint32_t opens = 0;                ///< or the namespace that it is about; 0: the greeting
        Instant until;
    };
    struct Link;
    /// What is known of a member's process.
    struct Node {
        std::uint64_t incarnation = 0;
        std::string address;
        std::uint32_t shards = 0;  ///< 0: it has not said yet
        Instant again_at{};
        std::chrono::milliseconds wait = kMemberRetryMin;
    };

    [[nodiscard]] Node& node_of(const model::Member& member);
    [[nodiscard]] Link* find(std::uint64_t node_id, std::uint32_t shard) const noexcept;
    [[nodiscard]] Link* connect(const model::Member& to, std::uint32_t shard);
    [[nodiscard]] bool make_room();
    [[nodiscard]] bool send(Link& link, const Request& request, wire::Body body,
                            std::span<const Bytes> payload);
    void message(Link& link, Bytes head);
    void opening_answered(Link& link, const Request& request, const wire::Body& body);
    void fail(Link& link, const std::string& why);
    void close(PeerId id, bool failed);

    Config config_;
    const Clock& clock_;
    transport::Fabric* network_;
    MemberNews& news_;
    std::function<PeerId()> new_id_;
    std::uint64_t epoch_ = 0;
    std::uint64_t next_request_ = 1;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
    std::unordered_map<std::uint64_t, Node> nodes_;
    std::map<PeerId, std::unique_ptr<Link>> lanes_;  ///< in the order of opening
    std::vector<PeerId> opened_;
};

}  // namespace cmpool::pool
