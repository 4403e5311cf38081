#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/model/byte_range.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/namespace.h>
#include <cmpool/model/view.h>

// The messages as values. Spans in a decoded message look into the buffer it was decoded from.
namespace cmpool::wire {

/// Changed by whoever changes what the messages mean.
inline constexpr std::uint32_t kProtocolVersion = 6;
/// Most blocks that a Listed names.
inline constexpr std::uint32_t kListMax = 1024;
/// Most segments that an Attached grants; a client asks again for the rest.
inline constexpr std::size_t kGrantsMax = 512;
inline constexpr std::size_t kDescriptorBytesMax = 512;
inline constexpr std::size_t kTextBytesMax = 4096;
inline constexpr std::size_t kStatsMax = 1024;
/// Most shards that a server says it has.
inline constexpr std::uint32_t kShardsMax = 64;
/// Puts of one client that a shard reads from the client's memory at once; one more is answered with Again.
inline constexpr std::size_t kPutsPerClientMax = 16;
/// Most namespaces that a Namespaces names.
inline constexpr std::size_t kNamespacesListed = 256;
/// Most planes that a server says it has.
inline constexpr std::size_t kPlanesMax = 8;

struct Grant {
    std::uint32_t index = 0;
    std::uint64_t bytes = 0;
    std::uint64_t token = 0;
    std::vector<std::byte> descriptor;
};

struct Hello {
    std::uint32_t protocol = kProtocolVersion;
    std::string client;
    std::uint32_t shard = 0;
};
struct Welcome {
    std::uint32_t protocol = kProtocolVersion;
    std::uint64_t incarnation = 0;
    std::string node;
    std::string version;
    std::string local_address;
    std::uint32_t shards = 1;
    std::uint64_t node_id = 0;
    std::vector<std::string> planes;  ///< NAME://ADDRESS
    bool keeps_near = false;
};
struct OpenNamespace {
    model::NamespaceSpec spec;
    std::string tenant_key;
    model::Digest fingerprint;
    std::optional<std::string> cluster_key{};  ///< from a member of the cluster
};
struct NamespaceOpened {
    std::uint32_t namespace_id = 0;
    model::Digest secret;
    std::uint64_t lease_bytes_max = 0;
    std::uint32_t replicas = 1;
};
struct Attach {
    std::uint32_t namespace_id = 0;
    std::uint32_t known_segments = 0;
};
struct Attached {
    std::uint32_t bucket_bits = 0;
    std::uint64_t segment_bytes = 0;
    Grant index;
    Grant control;
    std::vector<Grant> segments;
};
struct Match {
    std::uint32_t namespace_id = 0;
    std::span<const model::Digest> chain;
    std::uint32_t lease_ms = 0;
    bool places = false;
};
struct Place {
    std::uint64_t tag_word = 0;
    std::uint64_t location_word = 0;
    std::uint32_t slot = 0;
    std::uint32_t length = 0;
};
struct Matched {
    std::uint32_t blocks = 0;
    std::uint64_t lease_id = 0;
    std::uint32_t lease_ms = 0;
    std::span<const Place> places;
};
struct Release {
    std::span<const std::uint64_t> lease_ids;
};
struct Exists {
    std::uint32_t namespace_id = 0;
    std::span<const model::Digest> digests;
};
struct Get {
    std::uint32_t namespace_id = 0;
    std::span<const model::Digest> digests;
    std::span<const std::uint32_t> bytes_max;
    bool verify = false;
    std::span<const model::ByteRange> ranges;  ///< none: whole blocks
};
struct Remove {
    std::uint32_t namespace_id = 0;
    std::span<const model::Digest> digests;
};

/// What became of one block of a request.
enum class Outcome : std::uint8_t {
    Miss = 0,      ///< Exists, Get, Remove: it is not here
    Ok = 1,        ///< present, read, stored or removed
    Present = 2,   ///< Put: it was here already
    TooSmall = 3,  ///< Get: the room is less than `lengths` says
    Refused = 4,   ///< Put: nothing evictable, or a checksum that does not fit
    Orphan = 5,    ///< Put: the block before it is not here, so nobody could find this one
    Later = 6,     ///< Get: the answer was full: ask again for this one
    NoPull = 7,    ///< Put: the window cannot be read: send the payload
    Outside = 8,   ///< Get: the range is none of the block, which has `lengths` bytes
};

struct Outcomes {
    std::span<const Outcome> outcomes;
    std::span<const std::uint32_t> lengths;
    std::span<const std::uint64_t> checksums;
};
struct PutItem {
    std::uint64_t checksum = 0;
    std::uint64_t group = 0;
    std::uint64_t window_offset = 0;
    std::uint32_t length = 0;
    std::uint32_t position = 0;
    std::uint32_t cost_us = 0;
    std::uint32_t reserved = 0;
    model::Digest digest;
    model::Digest parent;
};
struct Put {
    std::uint32_t namespace_id = 0;
    std::span<const PutItem> items;
    std::vector<Grant> window;  ///< none or one
    bool sums_follow = false;   ///< only with payloads behind it
    bool near = false;          ///< copies of what belongs to others
};
struct Sums {
    std::span<const std::uint64_t> checksums;
};
struct StatsRequest {};
/// What the shards of a server make of a statistic together.
enum class Adds : std::uint8_t { Sum, Most, Least };
struct Stat {
    std::string name;
    std::uint64_t value = 0;
    Adds adds = Adds::Sum;
};
struct Stats {
    std::vector<Stat> stats;
};
struct List {
    std::uint32_t namespace_id = 0;
    std::uint64_t cursor = 0;
    std::uint32_t limit = 0;
};
struct ListedBlock {
    std::uint32_t length = 0;
    std::uint32_t position = 0;
    std::uint64_t age_ms = 0;
    model::Digest digest;
};
struct Listed {
    std::span<const ListedBlock> blocks;
    std::uint64_t next_cursor = 0;
};
struct Failed {
    Errc code = Errc::Invalid;
    std::string detail;
};

struct Members {
    model::View view;
};
struct ViewRequest {};
struct Join {
    model::Member member;
    std::string cluster_key;
    std::uint64_t epoch = 0;
};
struct Renew {
    std::uint64_t node_id = 0;
    std::uint64_t incarnation = 0;
};
struct Leave {
    std::uint64_t node_id = 0;
    std::uint64_t incarnation = 0;
};
struct Lease {
    std::uint32_t lease_ms = 0;
};
struct Resolve {
    OpenNamespace open;
    std::optional<std::uint32_t> uid;
    std::string cluster_key;
};
struct Resolved {
    std::uint32_t namespace_id = 0;
    std::uint32_t domain_id = 0;
    model::Digest secret;
    std::uint32_t replicas = 1;
    model::Quota quota;
};
struct ListNamespaces {
    std::string tenant;
    std::string tenant_key;
    std::string after_model;
    std::string after_revision;
};
struct ChangeNamespace {
    std::string tenant;
    std::string tenant_key;
    std::string model;
    std::string revision;
    std::uint32_t replicas = 0;
    bool remove = false;
    model::QuotaChange quota{};
};
struct NamespaceInfo {
    std::uint32_t namespace_id = 0;
    std::string model;
    std::string revision;
    std::string described;
    std::uint32_t replicas = 1;
    model::Quota quota{};
};
struct Namespaces {
    std::vector<NamespaceInfo> namespaces;
};
struct ChangeMember {
    std::string member;
    std::string cluster_key;
    std::optional<std::uint32_t> weight;
    std::optional<model::MemberState> state;
    bool forget = false;
};
struct BrokenSeals {
    std::uint32_t blocks = 0;
};

using AnyBody = std::variant<Hello, Welcome, OpenNamespace, NamespaceOpened, Attach, Attached, Match, Matched,
                             Release, Exists, Get, Remove, Outcomes, Put, StatsRequest, Stats, List, Listed,
                             Failed, Members, ViewRequest, Join, Renew, Leave, Lease, Resolve, Resolved,
                             ListNamespaces, ChangeNamespace, Namespaces, ChangeMember, BrokenSeals, Sums>;

/// How many messages there are.
inline constexpr std::size_t kBodies = std::variant_size_v<AnyBody>;

/// One of all messages. A class and no mere name for the variant: what makes, moves and destroys so
/// many types is compiled once, and not in every file that names a message.
class Body : public AnyBody {
public:
    Body();
    template <class T>
    Body(T message);  // NOLINT(google-explicit-constructor): a message is a body
    Body(const Body& other);
    Body(Body&& other) noexcept;
    Body& operator=(const Body& other);
    Body& operator=(Body&& other) noexcept;
    ~Body();
};

struct Message {
    std::uint64_t request_id = 0;
    std::uint64_t epoch = 0;
    Body body;
    std::uint8_t load = 0;  ///< an answer's: see load_level.h
};

/// The message's name, for logs.
[[nodiscard]] std::string_view name_of(const Body& body) noexcept;

/// Writes a message into a buffer of its own that lives until the next encode().
///
///   Threads  one
class Encoder {
public:
    Encoder();
    ~Encoder();
    Encoder(Encoder&&) noexcept;
    Encoder& operator=(Encoder&&) noexcept;
    [[nodiscard]] Bytes encode(const Message& message);

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Verifies a buffer and shows it as a value, whose spans look into the buffer (or into the
/// decoder, where the buffer was not aligned) until the next decode().
///
///   Limits  lists up to model::kBatchMax and the bounds above
///   Errors  Invalid, with what was wrong: the buffer is hostile until it passed
class Decoder {
public:
    [[nodiscard]] Result<Message> decode(Bytes buffer);

private:
    std::vector<std::uint64_t> aligned_;
};

}  // namespace cmpool::wire
