#include "layout.h"

// Each string and list is written by a statement of its own: compilers order the arguments of a call
// as they like, and the same message shall be the same bytes everywhere.
namespace cmpool::wire {
namespace {

using Builder = flatbuffers::FlatBufferBuilder;
using Encoded = std::pair<fb::Body, flatbuffers::Offset<void>>;

template <class Fb, class T>
auto structs(Builder& builder, std::span<const T> values) {
    return builder.CreateVectorOfStructs(reinterpret_cast<const Fb*>(values.data()), values.size());
}

auto digests(Builder& builder, std::span<const model::Digest> values) {
    return structs<fb::Digest>(builder, values);
}

const fb::Digest* digest(const model::Digest& value) { return reinterpret_cast<const fb::Digest*>(&value); }

auto grant(Builder& builder, const Grant& value) {
    const auto bytes = builder.CreateVector(reinterpret_cast<const std::uint8_t*>(value.descriptor.data()),
                                            value.descriptor.size());
    return fb::CreateGrant(builder, value.index, value.bytes, value.token, bytes);
}

template <class T>
Encoded done(fb::Body type, flatbuffers::Offset<T> offset) {
    return {type, offset.Union()};
}

Encoded put(Builder& b, const Hello& m) {
    const auto client = b.CreateString(m.client);
    return done(fb::Body::Hello, fb::CreateHello(b, m.protocol, client, m.shard));
}
Encoded put(Builder& b, const Welcome& m) {
    const auto node = b.CreateString(m.node);
    const auto version = b.CreateString(m.version);
    const auto local_address = b.CreateString(m.local_address);
    const auto planes = m.planes.empty() ? 0 : b.CreateVectorOfStrings(m.planes);
    return done(fb::Body::Welcome,
                fb::CreateWelcome(b, m.protocol, m.incarnation, node, version, local_address, m.shards,
                                  m.node_id, planes, m.keeps_near));
}
flatbuffers::Offset<fb::OpenNamespace> open(Builder& b, const OpenNamespace& m) {
    const auto tenant = b.CreateString(m.spec.tenant);
    const auto tenant_key = b.CreateString(m.tenant_key);
    const auto model = b.CreateString(m.spec.model);
    const auto revision = b.CreateString(m.spec.revision);
    const auto dtype = b.CreateString(m.spec.dtype);
    const auto layout = b.CreateString(m.spec.layout);
    const auto parallel = b.CreateString(m.spec.parallel);
    const auto engine = b.CreateString(m.spec.engine);
    const auto cluster_key = m.cluster_key ? b.CreateString(*m.cluster_key) : 0;
    return fb::CreateOpenNamespace(b, tenant, tenant_key, model, revision, dtype, layout, parallel, engine,
                                   m.spec.block_tokens, m.spec.group_blocks, digest(m.fingerprint),
                                   cluster_key, m.spec.sealed);
}
Encoded put(Builder& b, const OpenNamespace& m) { return done(fb::Body::OpenNamespace, open(b, m)); }
Encoded put(Builder& b, const NamespaceOpened& m) {
    return done(fb::Body::NamespaceOpened, fb::CreateNamespaceOpened(b, m.namespace_id, digest(m.secret),
                                                                     m.lease_bytes_max, m.replicas));
}
Encoded put(Builder& b, const Attach& m) {
    return done(fb::Body::Attach, fb::CreateAttach(b, m.namespace_id, m.known_segments));
}
Encoded put(Builder& b, const Attached& m) {
    std::vector<flatbuffers::Offset<fb::Grant>> grants;
    grants.reserve(m.segments.size());
    for (const auto& segment : m.segments) grants.push_back(grant(b, segment));
    const auto index = grant(b, m.index);
    const auto control = grant(b, m.control);
    const auto segments = b.CreateVector(grants);
    return done(fb::Body::Attached,
                fb::CreateAttached(b, m.bucket_bits, m.segment_bytes, index, control, segments));
}
Encoded put(Builder& b, const Match& m) {
    return done(fb::Body::Match,
                fb::CreateMatch(b, m.namespace_id, digests(b, m.chain), m.lease_ms, m.places));
}
Encoded put(Builder& b, const Matched& m) {
    const auto places = m.places.empty() ? 0 : structs<fb::Place>(b, m.places);
    return done(fb::Body::Matched, fb::CreateMatched(b, m.blocks, m.lease_id, m.lease_ms, places));
}
Encoded put(Builder& b, const Sums& m) {
    return done(fb::Body::Sums, fb::CreateSums(b, b.CreateVector(m.checksums.data(), m.checksums.size())));
}
Encoded put(Builder& b, const BrokenSeals& m) {
    return done(fb::Body::BrokenSeals, fb::CreateBrokenSeals(b, m.blocks));
}
Encoded put(Builder& b, const Release& m) {
    return done(fb::Body::Release,
                fb::CreateRelease(b, b.CreateVector(m.lease_ids.data(), m.lease_ids.size())));
}
Encoded put(Builder& b, const Exists& m) {
    return done(fb::Body::Exists, fb::CreateExists(b, m.namespace_id, digests(b, m.digests)));
}
Encoded put(Builder& b, const Get& m) {
    const auto keys = digests(b, m.digests);
    const auto rooms = b.CreateVector(m.bytes_max.data(), m.bytes_max.size());
    const auto ranges = m.ranges.empty() ? 0 : structs<fb::Range>(b, m.ranges);
    return done(fb::Body::Get, fb::CreateGet(b, m.namespace_id, keys, rooms, m.verify, ranges));
}
Encoded put(Builder& b, const Remove& m) {
    return done(fb::Body::Remove, fb::CreateRemove(b, m.namespace_id, digests(b, m.digests)));
}
Encoded put(Builder& b, const Outcomes& m) {
    const auto outcomes =
        b.CreateVector(reinterpret_cast<const std::uint8_t*>(m.outcomes.data()), m.outcomes.size());
    const auto lengths = m.lengths.empty() ? 0 : b.CreateVector(m.lengths.data(), m.lengths.size());
    const auto checksums = m.checksums.empty() ? 0 : b.CreateVector(m.checksums.data(), m.checksums.size());
    return done(fb::Body::Outcomes, fb::CreateOutcomes(b, outcomes, lengths, checksums));
}
Encoded put(Builder& b, const Put& m) {
    const auto items = structs<fb::PutItem>(b, m.items);
    const auto window = m.window.empty() ? 0 : grant(b, m.window.front());
    return done(fb::Body::Put, fb::CreatePut(b, m.namespace_id, items, window, m.sums_follow, m.near));
}
Encoded put(Builder& b, const StatsRequest&) {
    return done(fb::Body::StatsRequest, fb::CreateStatsRequest(b));
}
Encoded put(Builder& b, const Stats& m) {
    std::vector<flatbuffers::Offset<fb::Stat>> stats;
    stats.reserve(m.stats.size());
    for (const auto& [name, value, adds] : m.stats)
        stats.push_back(fb::CreateStat(b, b.CreateString(name), value, static_cast<std::uint8_t>(adds)));
    return done(fb::Body::Stats, fb::CreateStats(b, b.CreateVector(stats)));
}
Encoded put(Builder& b, const List& m) {
    return done(fb::Body::List, fb::CreateList(b, m.namespace_id, m.cursor, m.limit));
}
Encoded put(Builder& b, const Listed& m) {
    return done(fb::Body::Listed, fb::CreateListed(b, structs<fb::ListedBlock>(b, m.blocks), m.next_cursor));
}
Encoded put(Builder& b, const Failed& m) {
    const std::string_view detail = std::string_view(m.detail).substr(0, kTextBytesMax);
    return done(fb::Body::Failed, fb::CreateFailed(b, static_cast<std::uint16_t>(m.code),
                                                   b.CreateString(detail.data(), detail.size())));
}

flatbuffers::Offset<fb::Member> member(Builder& b, const model::Member& m) {
    const auto name = b.CreateString(m.name);
    const auto address = b.CreateString(m.address);
    const auto host = b.CreateString(m.host);
    const auto zone = b.CreateString(m.zone);
    return fb::CreateMember(b, m.node_id, m.incarnation, name, address, host, zone, m.weight,
                            static_cast<std::uint8_t>(m.state));
}
Encoded put(Builder& b, const Members& m) {
    std::vector<flatbuffers::Offset<fb::Member>> members;
    members.reserve(m.view.members.size());
    for (const auto& each : m.view.members) members.push_back(member(b, each));
    const auto list = b.CreateVector(members);
    return done(fb::Body::Members, fb::CreateMembers(b, m.view.epoch, list));
}
Encoded put(Builder& b, const ViewRequest&) { return done(fb::Body::ViewRequest, fb::CreateViewRequest(b)); }
Encoded put(Builder& b, const Join& m) {
    const auto self = member(b, m.member);
    const auto key = b.CreateString(m.cluster_key);
    return done(fb::Body::Join, fb::CreateJoin(b, self, key, m.epoch));
}
Encoded put(Builder& b, const Renew& m) {
    return done(fb::Body::Renew, fb::CreateRenew(b, m.node_id, m.incarnation));
}
Encoded put(Builder& b, const Leave& m) {
    return done(fb::Body::Leave, fb::CreateLeave(b, m.node_id, m.incarnation));
}
Encoded put(Builder& b, const Lease& m) { return done(fb::Body::Lease, fb::CreateLease(b, m.lease_ms)); }
Encoded put(Builder& b, const Resolve& m) {
    const auto opened = open(b, m.open);
    const auto key = b.CreateString(m.cluster_key);
    return done(fb::Body::Resolve, fb::CreateResolve(b, opened, m.uid.has_value(), m.uid.value_or(0), key));
}
fb::Quota quota(const model::Quota& quota) { return {quota.bytes, quota.priority, quota.ttl_s}; }
Encoded put(Builder& b, const Resolved& m) {
    const auto room = quota(m.quota);
    return done(fb::Body::Resolved,
                fb::CreateResolved(b, m.namespace_id, m.domain_id, digest(m.secret), m.replicas, &room));
}
Encoded put(Builder& b, const ListNamespaces& m) {
    const auto tenant = b.CreateString(m.tenant);
    const auto key = b.CreateString(m.tenant_key);
    const auto after_model = b.CreateString(m.after_model);
    const auto after_revision = b.CreateString(m.after_revision);
    return done(fb::Body::ListNamespaces,
                fb::CreateListNamespaces(b, tenant, key, after_model, after_revision));
}
Encoded put(Builder& b, const ChangeNamespace& m) {
    const auto tenant = b.CreateString(m.tenant);
    const auto key = b.CreateString(m.tenant_key);
    const auto model = b.CreateString(m.model);
    const auto revision = b.CreateString(m.revision);
    return done(fb::Body::ChangeNamespace,
                fb::CreateChangeNamespace(b, tenant, key, model, revision, m.replicas, m.remove,
                                          m.quota.bytes, m.quota.priority, m.quota.ttl_s));
}
Encoded put(Builder& b, const Namespaces& m) {
    std::vector<flatbuffers::Offset<fb::NamespaceInfo>> all;
    for (const auto& each : m.namespaces) {
        const auto model = b.CreateString(each.model);
        const auto revision = b.CreateString(each.revision);
        const auto described = b.CreateString(each.described);
        const auto room = quota(each.quota);
        all.push_back(
            fb::CreateNamespaceInfo(b, each.namespace_id, model, revision, described, each.replicas, &room));
    }
    return done(fb::Body::Namespaces, fb::CreateNamespaces(b, b.CreateVector(all)));
}
Encoded put(Builder& b, const ChangeMember& m) {
    const auto name = b.CreateString(m.member);
    const auto key = b.CreateString(m.cluster_key);
    const auto state = m.state ? static_cast<std::uint8_t>(*m.state) : std::uint8_t{0};
    return done(fb::Body::ChangeMember, fb::CreateChangeMember(b, name, key, m.weight.has_value(),
                                                               m.weight.value_or(0), state, m.forget));
}

}  // namespace

struct Encoder::State {
    Builder builder{4096};
};

Encoder::Encoder() : state_(std::make_unique<State>()) {}
Encoder::~Encoder() = default;
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;

Bytes Encoder::encode(const Message& message) {
    auto& builder = state_->builder;
    builder.Clear();
    const auto [type, body] = std::visit([&](const auto& m) { return put(builder, m); }, message.body);
    fb::FinishMessageBuffer(
        builder, fb::CreateMessage(builder, message.request_id, message.epoch, type, body, message.load));
    return std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
}

std::string_view name_of(const Body& body) noexcept {
    static constexpr std::string_view kNames[] = {"Hello",
                                                  "Welcome",
                                                  "OpenNamespace",
                                                  "NamespaceOpened",
                                                  "Attach",
                                                  "Attached",
                                                  "Match",
                                                  "Matched",
                                                  "Release",
                                                  "Exists",
                                                  "Get",
                                                  "Remove",
                                                  "Outcomes",
                                                  "Put",
                                                  "StatsRequest",
                                                  "Stats",
                                                  "List",
                                                  "Listed",
                                                  "Failed",
                                                  "Members",
                                                  "ViewRequest",
                                                  "Join",
                                                  "Renew",
                                                  "Leave",
                                                  "Lease",
                                                  "Resolve",
                                                  "Resolved",
                                                  "ListNamespaces",
                                                  "ChangeNamespace",
                                                  "Namespaces",
                                                  "ChangeMember",
                                                  "BrokenSeals",
                                                  "Sums"};
    static_assert(std::size(kNames) == kBodies);
    return kNames[body.index()];
}

}  // namespace cmpool::wire
