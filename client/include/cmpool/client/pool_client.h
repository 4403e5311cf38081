#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/client/pool_uri.h>
#include <cmpool/model/byte_range.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/namespace.h>
#include <cmpool/model/view.h>

namespace cmpool::client {

using model::ByteRange;
using model::Digest;
using model::NamespaceSpec;

/// Longest lease that a match asks for when it names none.
inline constexpr std::uint32_t kLeaseMsDefault = 2000;

/// Where a match has found its blocks, for whoever reads them one-sided; empty elsewhere. It never changes.
class Places;

struct CallOptions {
    std::optional<Nanos> deadline;  ///< from now; none: the URI's
    /// get: compare checksums here, after the bytes have landed. For a part of a block the whole block's is
    /// compared where it lies, and the part's own where it landed.
    bool verify = false;
    /// match: of how many parts a block consists, each under its model::part_digest(); it counts when all of
    /// them are there, and the lease is on all of them.
    std::uint32_t parts = 1;
    /// get: what a match of another client has found. What is not there any more is asked for.
    std::shared_ptr<const Places> places = nullptr;
};

/// A block to read, and where its bytes go, in order.
struct GetItem {
    Digest key;
    std::span<const MutableBytes> into;
    std::uint64_t group = 0;  ///< as it was put
    ByteRange range{};        ///< which of its bytes; they are as little wrong as the whole block would be
};

/// A block to write, and where its bytes lie, in order.
struct PutItem {
    Digest key;
    std::span<const Bytes> from;
    Digest parent = model::kNoParent;  ///< the block before it; none: it is in no chain, or begins one
    std::uint32_t position = 0;        ///< in its chain
    /// Where it is placed: model::group_key() of its chain. 0: the key's own, where it is in no chain or
    /// begins one.
    std::uint64_t group = 0;
    std::uint32_t cost_us = 0;  ///< what computing it again takes
};

enum class Outcome : std::uint8_t {
    Miss,      ///< get, exists, remove: not there, or the pool did not answer in time
    Hit,       ///< get: the buffers hold exactly what was put; exists, remove: it was there
    Stored,    ///< put: it can be found now
    Present,   ///< put: it could be found already
    Dropped,   ///< put: not stored; nothing is lost but the work of computing it again
    TooSmall,  ///< get: the buffers have less room than `bytes`
    Outside,   ///< get: the range is none of the block, which has `bytes`
};

struct BlockResult {
    Outcome outcome = Outcome::Miss;
    std::uint32_t bytes = 0;
    /// False: the pool may still use the buffer, until settled() of the call says otherwise.
    bool settled = true;
    std::uint32_t copies = 0;  ///< put: members that hold it now, of as many as the namespace asks for
};

/// What became of a batch. On anything but Hit a get's buffers hold nothing meaningful.
struct Report {
    std::vector<BlockResult> blocks;
    std::optional<Error> trouble;  ///< why blocks are missing, where there is more to say than "miss"

    [[nodiscard]] std::size_t count(Outcome outcome) const noexcept;
};

/// The longest run of present blocks from the start of a chain, and a lease on them: while it lives,
/// a get of these blocks hits. Moving hands it over; destroying it releases: what is mapped at once, what
/// the pool holds with the client's next call or progress(), or when the lease runs out.
///
///   Lifetime  may outlive the client
///   Threads   that of its client
class Match {
public:
    Match();
    ~Match();
    Match(Match&&) noexcept;
    Match& operator=(Match&&) noexcept;

    [[nodiscard]] std::size_t blocks() const noexcept;
    /// False where the pool gave no lease: a later miss is legal then.
    [[nodiscard]] bool leased() const noexcept;
    /// Why the run may be shorter than what the pool holds (deadline, no connection), if so.
    [[nodiscard]] const std::optional<Error>& trouble() const noexcept;
    /// The bytes of block `index` where they lie, without a copy, until release(); of one in parts, those
    /// of one part.
    /// Errors: Unsupported where they are not in this host's memory, or sealed; LeaseLost; Invalid.
    [[nodiscard]] Result<Bytes> view(std::size_t index, std::uint32_t part = 0) const;
    /// Lets another client read the same blocks one-sided, in any thread; null where nobody could.
    [[nodiscard]] std::shared_ptr<const Places> places() const;
    void release() noexcept;

    struct State;
    explicit Match(std::shared_ptr<State> state) noexcept;

private:
    std::shared_ptr<State> state_;
};

struct Statistic {
    std::string name;
    std::uint64_t value = 0;
};

struct ListedBlock {
    Digest key;
    std::uint32_t bytes = 0;
    std::uint32_t position = 0;
    std::uint64_t age_ms = 0;
};
struct Listing {
    std::vector<ListedBlock> blocks;
    std::uint64_t next_cursor = 0;  ///< 0: that was all
};

/// What one member says of itself.
struct MemberStatistics {
    model::Member member;
    std::vector<Statistic> statistics;
    std::optional<Error> trouble;  ///< why there are none
};

/// A namespace of this client's tenant.
struct NamespaceInfo {
    std::uint32_t namespace_id = 0;
    std::string model;
    std::string revision;
    std::string described;  ///< all that its fingerprint covers
    std::uint32_t replicas = 1;
    model::Quota quota{};
};
struct NamespaceChange {
    std::uint32_t replicas = 0;  ///< 0: as it is
    bool remove = false;         ///< what is put under its name from now on is another namespace
    model::QuotaChange quota{};
};
struct MemberChange {
    std::optional<std::uint32_t> weight;
    std::optional<model::MemberState> state;  ///< Serving, Draining or Retired
    bool forget = false;                      ///< one that is down
};

/// How things stand, for people.
struct Status {
    bool ready = false;
    std::string transport;  ///< "shm" or "tcp", once connected
    std::string node;
    std::string version;
    std::string plane;              ///< why this transport
    std::string kv;                 ///< what blocks are read over; `transport` where that carries them too
    std::string kv_plane;           ///< why
    std::uint64_t kv_requests = 0;  ///< one-sided reads, as the device was given them
    std::uint64_t kv_doorbells = 0;
    std::uint64_t kv_signalled = 0;  ///< of the requests, those that announce their end
    std::string local_address;       ///< where the pool says that its own host finds it; a path, or empty
    std::optional<std::uint32_t> pool_uid;  ///< the kernel's word, on the same host
    bool pulls = false;                     ///< the pool reads what is put from this process's memory
    std::uint32_t shards = 0;
    std::uint32_t shards_mapped = 0;  ///< whose memory is read without a message
    std::uint32_t protocol = 0;
    std::uint64_t incarnation = 0;
    std::uint64_t namespace_id = 0;
    std::uint8_t load_level = 0;       ///< as the pool's last answer said: wire/load_level.h
    std::uint64_t stores_delayed = 0;  ///< parts of puts that waited since the pool asked for that
    std::uint64_t stores_dropped = 0;  ///< that were not sent, since they would have waited too long
    std::uint64_t loads_delayed = 0;   ///< matches and gets that waited
    std::uint64_t epoch = 0;           ///< of the newest view that a server has told
    std::uint32_t members = 0;         ///< that own blocks, by that view
    std::uint32_t members_ready = 0;   ///< of them, whom we are connected to
    std::uint64_t broken_seals = 0;    ///< blocks of a sealed namespace that did not open: misses
    std::optional<Error> trouble;      ///< why it is not ready
};

struct Environment;

/// Memory that the fabric knows already, so that no call has to tell it: an engine registers its
/// paged KV cache once. Moving hands it over; destroying it ends the registration.
///
///   Lifetime  the memory outlives it; it may outlive the client
class Registration {
public:
    struct State;
    explicit Registration(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

private:
    std::shared_ptr<State> state_;
};

/// A call that is on its way. Dropping it does not cancel it.
template <class T>
class Pending {
public:
    struct State;
    explicit Pending(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
    [[nodiscard]] bool done() const noexcept;
    /// The result, once done(). Once.
    [[nodiscard]] T take();
    /// True when no buffer of the call can be touched any more.
    [[nodiscard]] bool settled() const noexcept;

private:
    friend class PoolClient;
    std::shared_ptr<State> state_;
};

/// A namespace of a pool, as an engine sees it. Every call has a deadline, and every failure of the
/// pool is a miss: an engine that ignores `trouble` is right, only blind.
///
/// A pool that is absent, frozen or gone costs at most one deadline: then calls miss at once, until
/// it answers again; that is found out on the side.
///
///   Limits   batches of model::kBatchMax blocks (a match: or parts) of at most model::kBlockBytesMax
///   Lifetime buffers belong to the caller again when the call is settled; shm and tcp settle at once
///   Threads  one at a time; several threads open several clients
class PoolClient {
public:
    /// Connects and opens the namespace, within the URI's deadline. A pool that does not answer is no
    /// error: the client is not ready, says why in status(), and keeps trying on the side.
    ///
    /// With a seal key, here or in the file that the URI names, the namespace is a sealed one: what is put is
    /// encrypted before it leaves this process, and a block that was not put with the same key, or that
    /// anybody has changed, is a miss. Sizes stay those of the plain bytes, up to 64 MiB less 32,768;
    /// checksums and `verify` add nothing there.
    ///
    /// Errors: Invalid for the URI or the specification, or a sealed one without a key; Denied and Mismatch
    /// when the pool refuses; those of read_seal_key().
    [[nodiscard]] static Result<std::unique_ptr<PoolClient>> open(
        std::string_view uri, const NamespaceSpec& spec, const std::optional<SealKey>& seal_key = {});
    /// The same over other clocks, chance and back ends: simulation and tests.
    [[nodiscard]] static Result<std::unique_ptr<PoolClient>> open_in(const Environment& environment,
                                                                     const PoolUri& uri,
                                                                     const NamespaceSpec& spec);
    ~PoolClient();

    /// Keys of a token sequence's full blocks, root first. Errors: PeerDown until the namespace has
    /// been opened once, since its secret is what keys are made with.
    [[nodiscard]] Result<std::vector<Digest>> chain(std::span<const std::uint32_t> tokens) const;
    /// The key for an engine's own key bytes. Errors: as chain().
    [[nodiscard]] Result<Digest> key(Bytes own_key) const;

    /// Optional: plain memory works too. On `shm` a put whose blocks lie in registered memory names it
    /// instead of a window of its own. Errors: those of the fabric.
    [[nodiscard]] Result<Registration> register_buffer(MutableBytes memory);

    // ---- blocking: each returns by its deadline ----
    [[nodiscard]] Match match(std::span<const Digest> chain, std::uint32_t lease_ms = kLeaseMsDefault,
                              const CallOptions& options = {});
    [[nodiscard]] Report get(std::span<const GetItem> items, const CallOptions& options = {});
    Report put(std::span<const PutItem> items, const CallOptions& options = {});
    [[nodiscard]] Report exists(std::span<const Digest> keys, const CallOptions& options = {});
    Report remove(std::span<const Digest> keys, const CallOptions& options = {});
    /// Errors: these are for people, so they say what went wrong.
    [[nodiscard]] Result<std::vector<Statistic>> stats(const CallOptions& options = {});
    [[nodiscard]] Result<Listing> list(std::uint64_t cursor, std::uint32_t limit,
                                       const CallOptions& options = {});

    /// The newest view that a server has told; its epoch is 0 until one has.
    [[nodiscard]] model::View view() const;
    /// Of each member that the view names, asked one after the other.
    [[nodiscard]] std::vector<MemberStatistics> member_stats(const CallOptions& options = {});
    [[nodiscard]] Result<std::vector<NamespaceInfo>> namespaces(const CallOptions& options = {});
    /// Errors besides: Denied; Invalid for a namespace that does not exist.
    [[nodiscard]] Result<NamespaceInfo> change_namespace(std::string_view model, std::string_view revision,
                                                         const NamespaceChange& change,
                                                         const CallOptions& options = {});
    /// `who` is a member's name, its address or its id in hex. For the pool's user on one of its hosts, and
    /// for whoever shows the cluster's key. Errors besides: Denied; Invalid.
    [[nodiscard]] Result<void> change_member(std::string_view who, const MemberChange& change,
                                             std::string_view cluster_key = {},
                                             const CallOptions& options = {});

    // ---- asynchronous: items and buffers live until the call is done and settled ----
    [[nodiscard]] Pending<Match> start_match(std::span<const Digest> chain,
                                             std::uint32_t lease_ms = kLeaseMsDefault,
                                             const CallOptions& options = {});
    [[nodiscard]] Pending<Report> start_get(std::span<const GetItem> items, const CallOptions& options = {});
    /// A pool on this host reads 15 messages of one client at once. Puts beyond wait for their turn, 1024 of
    /// them at most: one more is done at once, with Again. Their deadlines run meanwhile.
    [[nodiscard]] Pending<Report> start_put(std::span<const PutItem> items, const CallOptions& options = {});
    [[nodiscard]] Pending<Report> start_exists(std::span<const Digest> keys, const CallOptions& options = {});
    [[nodiscard]] Pending<Report> start_remove(std::span<const Digest> keys, const CallOptions& options = {});
    /// Returns when the call is done: by its deadline at the latest.
    void wait(const Pending<Match>& call);
    void wait(const Pending<Report>& call);
    /// Moves everything that is on its way; never waits.
    void progress();
    /// Readable when progress() has something to do, deadlines included. Made at the first call.
    [[nodiscard]] Result<int> event_fd();
    /// When progress() must be called although nothing came: the next deadline.
    [[nodiscard]] Instant next_deadline() const noexcept;

    [[nodiscard]] Status status() const;
    [[nodiscard]] const NamespaceSpec& spec() const noexcept;

private:
    struct Inside;
    explicit PoolClient(std::unique_ptr<Inside> inside);
    std::unique_ptr<Inside> inside_;
};

}  // namespace cmpool::client
