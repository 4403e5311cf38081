#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>
#include <cmpool/model/view.h>
#include <cmpool/pool/directory.h>
#include <cmpool/pool/turns.h>
#include <cmpool/transport/fabric.h>
#include <cmpool/wire/messages.h>

namespace cmpool::pool {

inline constexpr std::uint64_t kCapacityMin = 1 * MiB;
/// Most clients of one shard, unless the configuration says otherwise; one more is refused.
inline constexpr std::size_t kClientsMaxDefault = 4096;
/// Lanes on which nobody has said Hello yet: when one more comes, the one that has been silent longest goes.
inline constexpr std::size_t kSilentMax = 1024;
/// Who has not said Hello for so long is dropped, unless the configuration says otherwise.
inline constexpr std::chrono::milliseconds kHelloWithinDefault{10'000};
/// Longest lease; a longer one is cut to it.
inline constexpr std::chrono::milliseconds kLeaseMax{60'000};
/// At most so much is sent to other members, unless the configuration says otherwise.
inline constexpr std::uint64_t kRepairRateDefault = 128 * MiB;
/// So many bytes a second are verified in the background, unless the configuration says otherwise.
inline constexpr std::uint64_t kScrubRateDefault = 32 * MiB;
/// A client that does not take its answers for so long is dropped, and what it held is freed.
inline constexpr std::chrono::seconds kSendDeadline{10};

struct ServerConfig {
    std::uint64_t capacity_bytes = 1 * GiB;
    std::uint64_t segment_bytes = 0;  ///< 0: an eighth of the capacity, from 1 MiB to 256 MiB
    bool prefault = true;             ///< touch all memory at the start
    /// Of the capacity, what copies of other members' blocks may take where nobody needs it; 0: there are
    /// none.
    std::uint64_t near_bytes = 0;
    std::string node_name = "local";
    std::uint64_t node_id = 0;  ///< as views name it
    std::string version = "0";
    std::string local_address;  ///< where same-host clients connect; told to every client
    std::uint32_t shard = 0;    ///< which of `shards` this is; `capacity_bytes` are its own
    std::uint32_t shards = 1;
    std::size_t clients_max = kClientsMaxDefault;
    std::chrono::milliseconds hello_within = kHelloWithinDefault;
    /// Where clients read this server's memory one-sided, as NAME://ADDRESS; told to every client.
    std::vector<std::string> planes;
    /// The fabric of those lanes, which knows the same memory; none: nobody reads one-sided. It outlives the
    /// server.
    transport::Fabric* one_sided = nullptr;
    /// How it reaches other members, to bring them the copies that they should have and do not; none: it does
    /// not. It outlives the server.
    transport::Fabric* network = nullptr;
    std::string cluster_key;  ///< what it shows them; empty: the cluster is open
    std::uint64_t repair_bytes_per_second = kRepairRateDefault;  ///< at most; 0: it sends nothing
    std::uint64_t scrub_bytes_per_second = kScrubRateDefault;    ///< verified in the background; 0: none
    /// Adds to the statistics what only the process knows, after all others; none: nothing to add.
    std::function<void(std::vector<wire::Stat>&)> add_host_stats;
};

/// A client on its way to the shard that it asked for: its lane, and the greeting that nobody has
/// answered yet.
struct Guest {
    std::unique_ptr<transport::Lane> lane;
    std::uint64_t request_id = 0;
    wire::Hello hello;
};

/// The logic of a pool server's shard: it answers the clients on its lanes. It owns no thread, socket or
/// clock, and shares nothing with other shards.
///
///   Lifetime  the fabric, clock, entropy, directory and watch outlive it
///   Threads   one
///   Limits    clients_max clients and kSilentMax lanes without one; per client one batch of model::kBatchMax
///   blocks being answered and
///             the lane's depth of answers; then it reads no more from that client
class Server {
public:
    using PeerId = std::uint64_t;

    /// `memory` makes the segments; when its lanes cannot expose them, nobody is given any.
    /// Errors: NoCapacity and Denied from the first segments; Invalid for a configuration.
    [[nodiscard]] static Result<std::unique_ptr<Server>> create(ServerConfig config, const Clock& clock,
                                                                Entropy& entropy, transport::Fabric& memory,
                                                                Directory& directory,
                                                                ProcessWatch& processes);
    virtual ~Server() = default;

    /// Takes over a lane that somebody opened. Above kSilentMax another one goes for it; above clients_max
    /// its Hello is refused.
    [[nodiscard]] virtual PeerId add(std::unique_ptr<transport::Lane> lane) = 0;

    /// Something may have happened on this peer's lane: reads, answers, sends. Returns false once the
    /// peer is gone and its id dead. `busy` says that more waits: call again soon, others first.
    /// Without `reads` it takes nothing more from this peer until an answer has gone out: that its lane
    /// is readable is then no reason to call.
    struct Served {
        bool alive = false;
        bool busy = false;
        bool reads = true;
        std::optional<std::uint32_t> moves_to;  ///< another shard, by give_away()
        // For its next turn:
        Work work = Work::Control;
        std::uint32_t tenant = 0;
    };
    /// `waited` is how long ago it became ready.
    virtual Served serve(PeerId peer, Nanos waited = Nanos{0}) = 0;
    /// Lanes to other members that it has opened since the last call: to be served like those that came in.
    [[nodiscard]] virtual std::vector<PeerId> opened() = 0;
    /// The peer's lane, for whoever waits on its event fd; null once it is gone.
    [[nodiscard]] virtual transport::Lane* lane_of(PeerId peer) noexcept = 0;
    virtual void drop(PeerId peer) = 0;

    /// Gives up a peer that serve() said moves; its id is dead.
    [[nodiscard]] virtual Guest give_away(PeerId peer) = 0;
    /// Takes one over and answers its greeting.
    [[nodiscard]] virtual PeerId welcome(Guest guest) = 0;

    /// The cluster is this from now on: clients whose requests show that they do not know yet are told
    /// before they are answered, the others soon. Older views are ignored.
    virtual void set_view(std::shared_ptr<const model::View> view) = 0;

    /// A namespace can count on something else from now on; members that have joined here are told.
    virtual void namespace_changed(const wire::NamespaceInfo& info) = 0;

    /// Ends what has run out (leases, stuck peers, pins of dead processes) and scrubs a little.
    /// Call it every kTickInterval.
    virtual void tick() = 0;

    [[nodiscard]] virtual std::vector<wire::Stat> stats() const = 0;
    /// Whether a block can be found here, in whichever domain: for tests.
    [[nodiscard]] virtual bool holds(const model::Digest& block) const = 0;
    /// Broken bookkeeping, empty when all is well: for tests, at every step.
    [[nodiscard]] virtual std::string check_invariants() const = 0;
};

inline constexpr std::chrono::milliseconds kTickInterval{20};

}  // namespace cmpool::pool
