#pragma once

#include "member_lanes.h"
#include "memory.h"
#include "mover.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <cmpool/base/rarely.h>
#include <cmpool/pool/pressure.h>
#include <cmpool/pool/server.h>
#include <cmpool/transport/lane.h>
#include <cmpool/wire/messages.h>

namespace cmpool::pool {

/// Most puts of one client that wait for their bytes at once; one more is answered with Again.
inline constexpr std::size_t kPutsPerPeerMax = wire::kPutsPerClientMax;
/// Bytes that are read from a client at once: what fits a core's own cache is summed up there.
inline constexpr std::uint64_t kPullBytes = 256 * KiB;
/// Payload of one answer; blocks beyond it are answered with Later.
inline constexpr std::uint64_t kAnswerBytesMax = 64 * MiB;
/// Namespaces that one client has open at once.
inline constexpr std::size_t kNamespacesPerPeerMax = 64;
/// Work of one serve(), before others have their turn: receive() calls, the time after which no other one
/// begins, and bytes that are read from a client's memory.
inline constexpr int kReceivesPerServe = 4;
inline constexpr std::chrono::microseconds kServeTime{25};
inline constexpr std::uint64_t kPullBytesPerServe = kPullBytes;
/// Questions of one client that are on their way to meta.
inline constexpr std::size_t kAsksPerPeerMax = 64;
/// Clients that are told of a new view at each tick, though they have not asked anything.
inline constexpr std::size_t kToldPerTick = 64;
/// Who still does not know after so long is told again: what was said may have been lost.
inline constexpr std::chrono::milliseconds kTellAgain{20};
/// Blocks whose lease has run out keep their bytes for so long when they may be read one-sided, so that a
/// reader who is a little late need not ask again; of the capacity so much at most.
inline constexpr std::chrono::milliseconds kCooling{200};
inline constexpr std::uint64_t kCoolingShare = 16;
/// What may be verified in the background at once after a pause, as time at the bounded rate.
inline constexpr std::chrono::milliseconds kScrubBurst{100};

/// Records looked at for blocks that are older than they get, at each tick.
inline constexpr std::size_t kExpireRecordsPerTick = 8192;
/// Namespaces that the statistics show, those with most bytes first.
inline constexpr std::size_t kSpacesShown = 64;
/// Longest lease on what is lent, while somebody has a quota; after it the blocks may have to cool.
inline constexpr std::chrono::milliseconds kLentLeaseMax = kLentBackWithin - kCooling;

/// An extent that keeps its bytes for somebody.
struct Held {
    DomainStore* store;
    ExtentId extent;
};

/// A batch of blocks whose bytes are on their way.
struct IncomingPut {
    struct Item {
        std::size_t index;  ///< in the request
        ExtentId extent;
        std::uint64_t checksum;
        std::uint64_t window_offset;
        MutableBytes payload;
        std::uint64_t begins = 0;           ///< where its bytes begin among those that come
        std::optional<std::uint64_t> seen;  ///< the checksum of what came
    };
    /// Sums up what has come so far, while it is still in the processor's cache.
    void sum_up(std::uint64_t bytes);

    std::uint64_t request_id = 0;
    std::uint64_t cookie = 0;  ///< of its import and its reads
    bool sums_follow = false;
    bool near = false;  ///< copies of what belongs to others
    DomainStore* store = nullptr;
    std::vector<wire::Outcome> outcomes;
    std::vector<Item> items;
    std::size_t summing = 0;  ///< the item that is being summed up
    std::uint64_t summed = 0;
    std::unique_ptr<model::ChecksumStream> sum;

    // Pulled:
    std::unique_ptr<transport::RemoteSegment> window;
    std::size_t reading = 0;  ///< the item that is read next, from `read` on
    std::uint64_t read = 0;
    std::uint64_t bytes_posted = 0;
    std::size_t reads_posted = 0;
    std::size_t reads_done = 0;
    bool failed = false;
};

struct Outgoing {
    std::vector<std::byte> head;
    std::vector<Bytes> gather;
    std::vector<Held> held;
};

/// What the lane still reads from.
struct Sending {
    std::uint64_t cookie;
    std::vector<Held> held;
};

struct OpenedNamespace {
    NamespaceRecord record;
    DomainStore* store;
    bool by_member = false;    ///< which asks what is there, and puts; nothing else
    model::Digest last_put{};  ///< by a member: of the group that came last
};

class ServerImpl;

/// One client: its lane, what it has opened, and what is on its way to and from it.
struct Peer final : transport::Receiver {
    Peer(ServerImpl& owner, Server::PeerId peer_id, std::unique_ptr<transport::Lane> its_lane)
        : server(owner), id(peer_id), lane(std::move(its_lane)) {}
    void place(transport::Lane&, Bytes head, std::uint64_t payload_bytes,
               std::vector<MutableBytes>& into) override;
    void landed(transport::Lane&, std::uint64_t bytes) override;
    void message(transport::Lane&, Bytes head, std::uint64_t payload_bytes) override;

    ServerImpl& server;
    Server::PeerId id;
    std::unique_ptr<transport::Lane> lane;
    std::string name = "?";
    bool greeted = false;
    bool broken = false;
    std::optional<Guest> leaving;  ///< for another shard, without its lane yet
    std::vector<OpenedNamespace> namespaces;
    std::size_t opening = 0;
    std::size_t asking = 0;
    std::uint64_t epoch = 0;       ///< the last that it knows, or was told of
    std::uint64_t said_epoch = 0;  ///< by its last message
    Instant told_at{};
    std::shared_ptr<ProcessWatch::Handle> process;
    std::map<DomainStore*, PinBoard::PageId> pages;
    std::unique_ptr<IncomingPut> landing;            ///< between place() and message()
    std::unique_ptr<IncomingPut> unsummed;           ///< has landed; the next message should be its Sums
    std::vector<std::unique_ptr<IncomingPut>> puts;  ///< pulled ones
    std::deque<Outgoing> outbox;
    std::deque<Sending> sending;  ///< a lane sends in order, so the next to end is in front
    Instant stuck_since = Instant::never();
    std::uint64_t leased_bytes = 0;
    std::uint32_t tenant = 0;          ///< whose domain it asked for last; 0: none yet
    bool stores = false;               ///< its last message was a put
    bool member = false;               ///< a member of the cluster has joined on it
    std::uint64_t pulled_in_turn = 0;  ///< bytes
};

/// How long one tenant's messages wait here, and what it is told about that.
struct Service {
    WaitHistogram loads;
    WaitHistogram stores;
    Pressure pressure;
};

struct Lease {
    Server::PeerId peer;
    Instant ends;
    DomainStore* store;
    Space* space;
    std::vector<ExtentId> extents;
    std::uint64_t bytes;
    bool one_sided = false;  ///< its holder knows where the blocks lie
    bool cools = false;      ///< has run out, and keeps its bytes a little longer
};

class ServerImpl final : public Server, private MemberNews {
public:
    ServerImpl(ServerConfig config, const Clock& clock, Directory& directory, ProcessWatch& processes,
               std::unique_ptr<Memory> memory, std::uint64_t incarnation);
    ~ServerImpl() override;

    PeerId add(std::unique_ptr<transport::Lane> lane) override;
    Served serve(PeerId peer, Nanos waited) override;
    std::vector<PeerId> opened() override { return members_.opened(); }
    transport::Lane* lane_of(PeerId peer) noexcept override;
    void drop(PeerId peer) override;
    Guest give_away(PeerId peer) override;
    PeerId welcome(Guest guest) override;
    void set_view(std::shared_ptr<const model::View> view) override;
    void tick() override;
    void namespace_changed(const wire::NamespaceInfo& info) override;
    std::vector<wire::Stat> stats() const override;
    bool holds(const model::Digest& block) const override;
    std::string check_invariants() const override;

    void place(Peer& peer, Bytes head, std::uint64_t payload_bytes, std::vector<MutableBytes>& into);
    void message(Peer& peer, Bytes head);

private:
    /// What one Get finds; kept, since each would otherwise allocate it anew.
    struct Got {
        std::vector<ExtentId> found;
        std::vector<wire::Outcome> outcomes;
        std::vector<std::uint32_t> lengths;
        std::vector<std::uint64_t> checksums;
        std::vector<Bytes> gather;
    };
    struct Counts {
        std::array<std::uint64_t, wire::kBodies> messages{};
        model::ReadCounts reads;  ///< by messages
        std::uint64_t near_stored = 0, near_refused = 0;
        std::uint64_t put_stored = 0, put_present = 0, put_refused = 0, put_orphan = 0, put_bytes = 0;
        std::uint64_t leases_given = 0, leases_expired = 0, leases_refused = 0;
        std::uint64_t meta_questions = 0;
        std::uint64_t slowed_answers = 0;
        std::uint64_t peers_refused = 0, peers_silent = 0, peers_broken = 0, peers_stuck = 0;
    };

    // What the messages ask for; each sends exactly one answer, at once or later.
    void handle(Peer& peer, std::uint64_t id, const wire::Hello& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::OpenNamespace& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::Attach& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::Match& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::Release& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::Sums& ask);
    void refuse_unsummed(Peer& peer, IncomingPut& put);
    void handle(Peer&, std::uint64_t, const wire::BrokenSeals& ask) {
        counts_.reads.broken_seals += ask.blocks;
    }
    void handle(Peer& peer, std::uint64_t id, const wire::Exists& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::Get& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::Remove& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::Put& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::StatsRequest& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::List& ask);
    void handle(Peer& peer, std::uint64_t id, const wire::ViewRequest& ask) { ask_meta(peer, id, ask); }
    void handle(Peer& peer, std::uint64_t id, const wire::Join& ask) { ask_meta(peer, id, ask); }
    void handle(Peer& peer, std::uint64_t id, const wire::Renew& ask) { ask_meta(peer, id, ask); }
    void handle(Peer& peer, std::uint64_t id, const wire::Leave& ask) { ask_meta(peer, id, ask); }
    void handle(Peer& peer, std::uint64_t id, const wire::Resolve& ask) { ask_meta(peer, id, ask); }
    void handle(Peer& peer, std::uint64_t id, const wire::ListNamespaces& ask) { ask_meta(peer, id, ask); }
    void handle(Peer& peer, std::uint64_t id, const wire::ChangeNamespace& ask) { ask_meta(peer, id, ask); }
    void handle(Peer& peer, std::uint64_t id, const wire::ChangeMember& ask) { ask_meta(peer, id, ask); }
    template <class Other>
    void handle(Peer& peer, std::uint64_t id, const Other&);

    void add_tenant_stats(std::vector<wire::Stat>& stats) const;
    void waited(Peer& peer, std::uint32_t namespace_id, bool stores);
    [[nodiscard]] Service& service(std::uint32_t tenant);
    enum class Right : std::uint8_t { Everything, ToPut };
    /// Null, and answered, where the peer may not do this there.
    [[nodiscard]] OpenedNamespace* opened(Peer& peer, std::uint64_t id, std::uint32_t namespace_id,
                                          Right needed = Right::Everything);
    void ask_meta(Peer& peer, std::uint64_t id, wire::Body question);
    void meta_answered(PeerId peer_id, std::uint64_t id, std::pair<std::uint64_t, std::uint64_t> joining,
                       Result<wire::Body> answer);
    void learn(Peer& peer, std::uint64_t epoch);
    void tell(Peer& peer);
    void tell_some();
    void drop_silent(PeerId peer, std::string_view why);
    void open_done(PeerId peer_id, std::uint64_t id, bool by_member, Result<NamespaceRecord> record);

    // MemberNews
    void answered(std::uint64_t id, const wire::Body& answer) override { mover_.answered(id, answer); }
    void lost(std::uint64_t id) override { mover_.lost(id); }
    void heard_of(std::uint64_t epoch) override { epoch_heard_of_ = std::max(epoch_heard_of_, epoch); }

    [[nodiscard]] Result<wire::Grant> control_page(Peer& peer, DomainStore& store);

    [[nodiscard]] std::unique_ptr<IncomingPut> begin_put(Peer& peer, std::uint64_t id, const wire::Put& ask);
    void begin_pull(Peer& peer, std::unique_ptr<IncomingPut> put, const wire::Grant& window);
    void post_reads(Peer& peer, IncomingPut& put);
    static void put_completion(Peer& peer, const transport::Completion& done);
    void advance_puts(Peer& peer);
    void finish_put(Peer& peer, IncomingPut& put);
    void count_put(Peer& peer, const IncomingPut& put);
    static void abort_put(IncomingPut& put);

    [[nodiscard]] static std::vector<wire::Place> places_of(const DomainStore& store,
                                                            std::span<const model::Digest> chain,
                                                            std::span<const ExtentId> run);
    void give_lease(Peer& peer, const OpenedNamespace& space, std::vector<ExtentId> extents,
                    const wire::Match& ask, wire::Matched& answer);
    void expire_leases();
    void end_lease(std::unordered_map<std::uint64_t, Lease>::iterator lease);

    void send(Peer& peer, std::uint64_t id, wire::Body body, std::span<const Bytes> gather = {},
              std::vector<Held> held = {});
    void refuse(Peer& peer, std::uint64_t id, const Error& error);
    [[nodiscard]] bool post(Peer& peer, Bytes head, std::span<const Bytes> gather, std::vector<Held>& held);
    void flush(Peer& peer);
    void poll(Peer& peer);
    static void release(const std::vector<Held>& held);
    [[nodiscard]] Peer* find(PeerId peer) noexcept;

    ServerConfig config_;
    const Clock& clock_;
    Directory& directory_;
    ProcessWatch& processes_;
    std::unique_ptr<Memory> memory_;
    std::uint64_t incarnation_;
    std::uint64_t lease_bytes_max_;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
    std::unordered_map<PeerId, std::unique_ptr<Peer>> peers_;
    std::map<PeerId, Instant> silent_;  ///< since when lanes wait for their Hello; in the order of coming
    std::unordered_map<std::uint64_t, Lease> leases_;
    std::uint64_t cooling_bytes_ = 0;
    PeerId next_peer_ = 1;
    std::uint64_t next_cookie_ = 1;
    std::array<transport::Completion, 64> done_;  ///< scratch of poll()
    Got got_;
    std::uint64_t next_lease_;  ///< a lease of an earlier incarnation must not name one of ours
    std::shared_ptr<const model::View> view_ = std::make_shared<const model::View>();
    bool all_told_ = true;
    std::uint64_t epoch_heard_of_ = 0;  ///< from clients
    /// On which lane a member has joined, by node; with its incarnation.
    std::unordered_map<std::uint64_t, std::pair<PeerId, std::uint64_t>> joined_;
    Counts counts_;
    Rarely refused_said_, silent_said_, broken_said_, stuck_said_;
    MemberLanes members_;
    Mover mover_;
    Allowance scrub_;
    std::map<std::uint32_t, std::unique_ptr<Service>> services_;  ///< by tenant
    Instant turn_began_{};
    Nanos turn_waited_{0};
    /// Answers of the directory that come after our end find it gone.
    std::shared_ptr<ServerImpl*> self_ = std::make_shared<ServerImpl*>(this);
};

}  // namespace cmpool::pool
