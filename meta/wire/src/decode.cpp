#include "layout.h"

#include <cstring>

#include <cmpool/model/index_layout.h>

namespace cmpool::wire {
namespace {

/// Eight fields of a namespace with their names.
constexpr std::size_t kDescribedBytesMax = 10 * model::kNameBytesMax;

// FlatBuffers' own verifier bounds every offset. What it does not look at: our limits, whether a
// union's table is there at all, and how the elements of a list are aligned. These throw nothing: what
// is wrong shows as `bad`, which ends in one refusal.
struct Checks {
    const char* bad = nullptr;

    template <class Fb, class T>
    std::span<const T> list(const flatbuffers::Vector<const Fb*>* values, std::size_t max) {
        if (values == nullptr) return {};
        return bounded(reinterpret_cast<const T*>(values->Data()), values->size(), max);
    }
    template <class T>
    std::span<const T> list(const flatbuffers::Vector<T>* values, std::size_t max) {
        if (values == nullptr) return {};
        return bounded(values->data(), values->size(), max);
    }
    std::span<const model::Digest> digests(const flatbuffers::Vector<const fb::Digest*>* values) {
        return list<fb::Digest, model::Digest>(values, model::kBatchMax);
    }
    std::string text(const flatbuffers::String* value, std::size_t max) {
        if (value == nullptr) return {};
        const auto span = bounded(value->data(), value->size(), max);
        return {span.data(), span.size()};
    }
    Grant grant(const fb::Grant* value) {
        if (value->index() >= model::kSegmentsMax)
            bad = "a segment's number is beyond what an index can show";
        const auto bytes = std::as_bytes(list(value->descriptor(), kDescriptorBytesMax));
        return {value->index(), value->bytes(), value->token(), {bytes.begin(), bytes.end()}};
    }
    void same_size(std::size_t one, std::size_t other) {
        if (one != other) bad = "lists of one message differ in length";
    }

private:
    template <class T>
    std::span<const T> bounded(const T* data, std::size_t size, std::size_t max) {
        if (size > max) {
            bad = "a list or text is longer than its limit";
            return {};
        }
        if (size == 0) return {};  // the builder does not align what has no elements
        if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0) {
            bad = "a list lies askew";
            return {};
        }
        return {data, size};
    }
};

model::Digest digest(const fb::Digest* value) {
    model::Digest out;
    std::memcpy(out.bytes.data(), value, sizeof out.bytes);
    return out;
}

Hello take(const fb::Hello& m, Checks& check) {
    return {m.protocol(), check.text(m.client(), kTextBytesMax), m.shard()};
}
Welcome take(const fb::Welcome& m, Checks& check) {
    if (m.shards() == 0 || m.shards() > kShardsMax) check.bad = "a server without shards, or with too many";
    Welcome welcome{m.protocol(),
                    m.incarnation(),
                    check.text(m.node(), kTextBytesMax),
                    check.text(m.version(), kTextBytesMax),
                    check.text(m.local_address(), kTextBytesMax),
                    m.shards(),
                    m.node_id(),
                    {},
                    m.keeps_near()};
    if (m.planes() != nullptr && m.planes()->size() > kPlanesMax) check.bad = "a server with too many planes";
    if (check.bad != nullptr || m.planes() == nullptr) return welcome;
    for (const auto* plane : *m.planes()) welcome.planes.push_back(check.text(plane, kTextBytesMax));
    return welcome;
}
OpenNamespace take(const fb::OpenNamespace& m, Checks& check) {
    const auto text = [&](const flatbuffers::String* value) {
        return check.text(value, model::kNameBytesMax);
    };
    OpenNamespace open;
    open.spec = {.tenant = text(m.tenant()),
                 .model = text(m.model()),
                 .revision = text(m.revision()),
                 .dtype = text(m.dtype()),
                 .layout = text(m.layout()),
                 .parallel = text(m.parallel()),
                 .engine = text(m.engine()),
                 .block_tokens = m.block_tokens(),
                 .group_blocks = m.group_blocks(),
                 .sealed = m.sealed()};
    open.tenant_key = text(m.tenant_key());
    open.fingerprint = digest(m.fingerprint());
    if (m.cluster_key() != nullptr) open.cluster_key = check.text(m.cluster_key(), kTextBytesMax);
    return open;
}
std::uint32_t replicas(std::uint32_t count, Checks& check) {
    if (count == 0 || count > model::kReplicasMax) check.bad = "a namespace with a wrong number of replicas";
    return count;
}
NamespaceOpened take(const fb::NamespaceOpened& m, Checks& check) {
    return {m.namespace_id(), digest(m.secret()), m.lease_bytes_max(), replicas(m.replicas(), check)};
}
Attach take(const fb::Attach& m, Checks&) { return {m.namespace_id(), m.known_segments()}; }
Attached take(const fb::Attached& m, Checks& check) {
    Attached attached{
        m.bucket_bits(), m.segment_bytes(), check.grant(m.index()), check.grant(m.control()), {}};
    if (m.segments()->size() > kGrantsMax) check.bad = "more segments than one answer may grant";
    if (check.bad != nullptr) return attached;
    for (const auto* segment : *m.segments()) attached.segments.push_back(check.grant(segment));
    return attached;
}
Match take(const fb::Match& m, Checks& check) {
    return {m.namespace_id(), check.digests(m.chain()), m.lease_ms(), m.places()};
}
Matched take(const fb::Matched& m, Checks& check) {
    const Matched matched{m.blocks(), m.lease_id(), m.lease_ms(),
                          check.list<fb::Place, Place>(m.places(), model::kBatchMax)};
    if (!matched.places.empty()) check.same_size(matched.places.size(), matched.blocks);
    return matched;
}
BrokenSeals take(const fb::BrokenSeals& m, Checks&) { return {m.blocks()}; }
Sums take(const fb::Sums& m, Checks& check) { return {check.list(m.checksums(), model::kBatchMax)}; }
Release take(const fb::Release& m, Checks& check) { return {check.list(m.lease_ids(), model::kBatchMax)}; }
Exists take(const fb::Exists& m, Checks& check) { return {m.namespace_id(), check.digests(m.digests())}; }
Get take(const fb::Get& m, Checks& check) {
    Get get{m.namespace_id(),
            check.digests(m.digests()),
            check.list(m.bytes_max(), model::kBatchMax),
            m.verify(),
            {}};
    if (m.ranges() != nullptr)
        get.ranges = check.list<fb::Range, model::ByteRange>(m.ranges(), model::kBatchMax);
    check.same_size(get.digests.size(), get.bytes_max.size());
    if (!get.ranges.empty()) check.same_size(get.digests.size(), get.ranges.size());
    return get;
}
Remove take(const fb::Remove& m, Checks& check) { return {m.namespace_id(), check.digests(m.digests())}; }
Outcomes take(const fb::Outcomes& m, Checks& check) {
    const auto raw = check.list(m.outcomes(), model::kBatchMax);
    // Whoever switches over an outcome need not expect one that has no name.
    for (const auto outcome : raw) {
        if (outcome > static_cast<std::uint8_t>(Outcome::Outside)) check.bad = "an outcome without a meaning";
    }
    const Outcomes out{{reinterpret_cast<const Outcome*>(raw.data()), raw.size()},
                       check.list(m.lengths(), model::kBatchMax),
                       check.list(m.checksums(), model::kBatchMax)};
    if (!out.lengths.empty()) check.same_size(out.lengths.size(), raw.size());
    if (!out.checksums.empty()) check.same_size(out.checksums.size(), raw.size());
    return out;
}
Put take(const fb::Put& m, Checks& check) {
    Put put{m.namespace_id(),
            check.list<fb::PutItem, PutItem>(m.items(), model::kBatchMax),
            {},
            m.sums_follow(),
            m.near()};
    if (m.window() != nullptr) put.window.push_back(check.grant(m.window()));
    return put;
}
StatsRequest take(const fb::StatsRequest&, Checks&) { return {}; }
Stats take(const fb::Stats& m, Checks& check) {
    Stats stats;
    if (m.stats()->size() > kStatsMax) check.bad = "more statistics than one answer may carry";
    if (check.bad != nullptr) return stats;
    for (const auto* stat : *m.stats()) {
        if (stat->adds() > static_cast<std::uint8_t>(Adds::Least))
            check.bad = "a statistic that adds up in no known way";
        stats.stats.push_back(
            {check.text(stat->name(), kTextBytesMax), stat->value(), static_cast<Adds>(stat->adds())});
    }
    return stats;
}
List take(const fb::List& m, Checks&) { return {m.namespace_id(), m.cursor(), m.limit()}; }
Listed take(const fb::Listed& m, Checks& check) {
    return {check.list<fb::ListedBlock, ListedBlock>(m.blocks(), kListMax), m.next_cursor()};
}
Failed take(const fb::Failed& m, Checks& check) {
    const auto code = static_cast<Errc>(m.code());
    if (to_string(code) == "Unknown") check.bad = "a failure without a meaning";
    return {code, check.text(m.detail(), kTextBytesMax)};
}

model::MemberState state(std::uint8_t value, Checks& check) {
    if (value < 1 || value > 4) check.bad = "a member in a state without a meaning";
    return static_cast<model::MemberState>(value);
}
model::Member member(const fb::Member& m, Checks& check) {
    if (m.node_id() == 0) check.bad = "a member without an id";
    return {.node_id = m.node_id(),
            .incarnation = m.incarnation(),
            .name = check.text(m.name(), model::kNameBytesMax),
            .address = check.text(m.address(), model::kNameBytesMax),
            .host = check.text(m.host(), model::kNameBytesMax),
            .zone = check.text(m.zone(), model::kNameBytesMax),
            .weight = m.weight(),
            .state = state(m.state(), check)};
}
Members take(const fb::Members& m, Checks& check) {
    Members members{{.epoch = m.epoch(), .members = {}}};
    if (m.members()->size() > model::kMembersMax) check.bad = "more members than a view may have";
    if (check.bad != nullptr) return members;
    for (const auto* each : *m.members()) members.view.members.push_back(member(*each, check));
    return members;
}
ViewRequest take(const fb::ViewRequest&, Checks&) { return {}; }
Join take(const fb::Join& m, Checks& check) {
    return {member(*m.member(), check), check.text(m.cluster_key(), kTextBytesMax), m.epoch()};
}
Renew take(const fb::Renew& m, Checks&) { return {m.node_id(), m.incarnation()}; }
Leave take(const fb::Leave& m, Checks&) { return {m.node_id(), m.incarnation()}; }
Lease take(const fb::Lease& m, Checks&) { return {m.lease_ms()}; }
Resolve take(const fb::Resolve& m, Checks& check) {
    Resolve resolve{take(*m.open(), check), std::nullopt, check.text(m.cluster_key(), kTextBytesMax)};
    if (m.has_uid()) resolve.uid = m.uid();
    return resolve;
}
model::Quota quota(const fb::Quota* value, Checks& check) {
    if (value->priority() > model::kPriorityMax) check.bad = "a namespace with too high a priority";
    if (value->ttl_s() > model::kTtlMax) check.bad = "a namespace whose blocks live too long";
    return {value->bytes(), value->priority(), value->ttl_s()};
}
Resolved take(const fb::Resolved& m, Checks& check) {
    return {m.namespace_id(), m.domain_id(), digest(m.secret()), replicas(m.replicas(), check),
            quota(m.quota(), check)};
}
ListNamespaces take(const fb::ListNamespaces& m, Checks& check) {
    return {check.text(m.tenant(), model::kNameBytesMax), check.text(m.tenant_key(), model::kNameBytesMax),
            check.text(m.after_model(), model::kNameBytesMax),
            check.text(m.after_revision(), model::kNameBytesMax)};
}
ChangeNamespace take(const fb::ChangeNamespace& m, Checks& check) {
    return {check.text(m.tenant(), model::kNameBytesMax),
            check.text(m.tenant_key(), model::kNameBytesMax),
            check.text(m.model(), model::kNameBytesMax),
            check.text(m.revision(), model::kNameBytesMax),
            m.replicas(),
            m.remove(),
            {m.quota_bytes(), m.priority(), m.ttl_s()}};
}
Namespaces take(const fb::Namespaces& m, Checks& check) {
    Namespaces all;
    if (m.namespaces()->size() > kNamespacesListed) check.bad = "more namespaces than one answer may name";
    if (check.bad != nullptr) return all;
    for (const auto* each : *m.namespaces()) {
        all.namespaces.push_back({each->namespace_id(), check.text(each->model(), model::kNameBytesMax),
                                  check.text(each->revision(), model::kNameBytesMax),
                                  check.text(each->described(), kDescribedBytesMax), each->replicas(),
                                  quota(each->quota(), check)});
    }
    return all;
}
ChangeMember take(const fb::ChangeMember& m, Checks& check) {
    ChangeMember change{.member = check.text(m.member(), model::kNameBytesMax),
                        .cluster_key = check.text(m.cluster_key(), kTextBytesMax),
                        .forget = m.forget()};
    if (m.has_weight()) change.weight = m.weight();
    if (m.state() != 0) change.state = state(m.state(), check);
    return change;
}

Body body_of(const fb::Message& message, Checks& check) {
    if (message.body() == nullptr) {
        check.bad = "a message without a body";
        return StatsRequest{};
    }
    switch (message.body_type()) {
        case fb::Body::Hello:
            return take(*message.body_as_Hello(), check);
        case fb::Body::Welcome:
            return take(*message.body_as_Welcome(), check);
        case fb::Body::OpenNamespace:
            return take(*message.body_as_OpenNamespace(), check);
        case fb::Body::NamespaceOpened:
            return take(*message.body_as_NamespaceOpened(), check);
        case fb::Body::Attach:
            return take(*message.body_as_Attach(), check);
        case fb::Body::Attached:
            return take(*message.body_as_Attached(), check);
        case fb::Body::Match:
            return take(*message.body_as_Match(), check);
        case fb::Body::Matched:
            return take(*message.body_as_Matched(), check);
        case fb::Body::Release:
            return take(*message.body_as_Release(), check);
        case fb::Body::Exists:
            return take(*message.body_as_Exists(), check);
        case fb::Body::Get:
            return take(*message.body_as_Get(), check);
        case fb::Body::Remove:
            return take(*message.body_as_Remove(), check);
        case fb::Body::Outcomes:
            return take(*message.body_as_Outcomes(), check);
        case fb::Body::Put:
            return take(*message.body_as_Put(), check);
        case fb::Body::StatsRequest:
            return take(*message.body_as_StatsRequest(), check);
        case fb::Body::Stats:
            return take(*message.body_as_Stats(), check);
        case fb::Body::List:
            return take(*message.body_as_List(), check);
        case fb::Body::Listed:
            return take(*message.body_as_Listed(), check);
        case fb::Body::Failed:
            return take(*message.body_as_Failed(), check);
        case fb::Body::Members:
            return take(*message.body_as_Members(), check);
        case fb::Body::ViewRequest:
            return take(*message.body_as_ViewRequest(), check);
        case fb::Body::Join:
            return take(*message.body_as_Join(), check);
        case fb::Body::Renew:
            return take(*message.body_as_Renew(), check);
        case fb::Body::Leave:
            return take(*message.body_as_Leave(), check);
        case fb::Body::Lease:
            return take(*message.body_as_Lease(), check);
        case fb::Body::Resolve:
            return take(*message.body_as_Resolve(), check);
        case fb::Body::Resolved:
            return take(*message.body_as_Resolved(), check);
        case fb::Body::ListNamespaces:
            return take(*message.body_as_ListNamespaces(), check);
        case fb::Body::ChangeNamespace:
            return take(*message.body_as_ChangeNamespace(), check);
        case fb::Body::Namespaces:
            return take(*message.body_as_Namespaces(), check);
        case fb::Body::ChangeMember:
            return take(*message.body_as_ChangeMember(), check);
        case fb::Body::BrokenSeals:
            return take(*message.body_as_BrokenSeals(), check);
        case fb::Body::Sums:
            return take(*message.body_as_Sums(), check);
        case fb::Body::NONE:
            break;
    }
    check.bad = "a message of a kind that this version does not know";
    return StatsRequest{};
}

}  // namespace

Result<Message> Decoder::decode(Bytes buffer) {
    if (reinterpret_cast<std::uintptr_t>(buffer.data()) % alignof(std::uint64_t) != 0) {
        aligned_.resize(buffer.size() / sizeof(std::uint64_t) + 1);
        std::memcpy(aligned_.data(), buffer.data(), buffer.size());
        buffer = std::as_bytes(std::span(aligned_)).first(buffer.size());
    }
    const auto* data = reinterpret_cast<const std::uint8_t*>(buffer.data());
    flatbuffers::Verifier verifier(data, buffer.size());
    if (!fb::VerifyMessageBuffer(verifier)) {
        return fail(Errc::Invalid, "expected a CMP1 message, saw {} bytes that are none", buffer.size());
    }
    const fb::Message& message = *fb::GetMessage(data);
    Checks check;
    Message out{message.request_id(), message.epoch(), body_of(message, check), message.load()};
    if (check.bad != nullptr) return fail(Errc::Invalid, "{}", check.bad);
    return out;
}

}  // namespace cmpool::wire
