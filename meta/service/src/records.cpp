#include "records.h"

#include "record.h"

#include <charconv>

namespace cmpool::meta {
namespace {

tl::unexpected<Error> damaged(std::string_view what, std::string_view bytes) {
    if (!bytes.empty() && bytes.front() != kRecordVersion) {
        return fail(Errc::Mismatch,
                    "expected a {} of version {}, saw {}: another version of cmpoold wrote it", what,
                    int{kRecordVersion}, int{bytes.front()});
    }
    return fail(Errc::Corrupt, "expected a {} in the store, saw {} bytes that are none", what, bytes.size());
}

}  // namespace

std::string tenant_key(std::string_view tenant) { return fmt::format("tenant/{}", tenant); }

std::string namespace_key(const model::NamespaceSpec& spec) {
    // Lengths first: "a/b" + "c" is another name than "a" + "b/c".
    return fmt::format("{}{}:{}/{}", tenant_prefix(spec.tenant), spec.model.size(), spec.model,
                       spec.revision);
}

std::string tenant_prefix(std::string_view tenant) {
    return fmt::format("{}{}:{}/", kNamespacePrefix, tenant.size(), tenant);
}

std::string alive_key(std::uint64_t node_id) { return fmt::format("{}{:016x}", kAlivePrefix, node_id); }

std::uint64_t node_of_alive_key(std::string_view key) noexcept {
    if (!key.starts_with(kAlivePrefix)) return 0;
    key.remove_prefix(kAlivePrefix.size());
    std::uint64_t node_id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), node_id, 16);
    return error == std::errc{} && end == key.data() + key.size() ? node_id : 0;
}

std::string encode_node(std::uint64_t node_id) { return RecordWriter().number(node_id).take(); }

Result<std::uint64_t> decode_node(std::string_view bytes) {
    RecordReader reader(bytes);
    const auto node_id = reader.number();
    if (!reader.complete()) return damaged("node id", bytes);
    return node_id;
}

std::string encode_counters(const CounterRecord& record) {
    return RecordWriter().number(record.namespaces).number(record.tenants).take();
}

Result<CounterRecord> decode_counters(std::string_view bytes) {
    RecordReader reader(bytes);
    CounterRecord record;
    record.namespaces = static_cast<std::uint32_t>(reader.number());
    record.tenants = static_cast<std::uint32_t>(reader.number());
    if (!reader.complete()) return damaged("pair of counters", bytes);
    return record;
}

std::string encode_tenant(const TenantRecord& record) {
    return RecordWriter()
        .number(record.domain_id)
        .number(static_cast<std::uint64_t>(record.binding))
        .number(record.uid)
        .text(as_text(record.key_digest.bytes))
        .take();
}

Result<TenantRecord> decode_tenant(std::string_view bytes) {
    RecordReader reader(bytes);
    TenantRecord record;
    record.domain_id = static_cast<std::uint32_t>(reader.number());
    const auto binding = reader.number();
    record.binding = static_cast<Binding>(binding);
    record.uid = static_cast<std::uint32_t>(reader.number());
    reader.fixed(record.key_digest.bytes);
    if (!reader.complete() || binding < 1 || binding > 3) return damaged("tenant", bytes);
    return record;
}

std::string encode_namespace(const model::NamespaceRecord& record) {
    const auto& spec = record.spec;
    return RecordWriter()
        .number(record.namespace_id)
        .number(record.domain_id)
        .text(as_text(record.secret))
        .text(spec.tenant)
        .text(spec.model)
        .text(spec.revision)
        .text(spec.dtype)
        .text(spec.layout)
        .text(spec.parallel)
        .text(spec.engine)
        .number(spec.block_tokens)
        .number(spec.group_blocks)
        .number(record.replicas)
        .number(record.quota.bytes)
        .number(record.quota.priority)
        .number(record.quota.ttl_s)
        .number(record.spec.sealed ? 1 : 0)
        .take();
}

Result<model::NamespaceRecord> decode_namespace(std::string_view bytes) {
    RecordReader reader(bytes);
    model::NamespaceRecord record;
    record.namespace_id = static_cast<std::uint32_t>(reader.number());
    record.domain_id = static_cast<std::uint32_t>(reader.number());
    reader.fixed(record.secret);
    for (auto* field : {&record.spec.tenant, &record.spec.model, &record.spec.revision, &record.spec.dtype,
                        &record.spec.layout, &record.spec.parallel, &record.spec.engine}) {
        *field = reader.text();
    }
    record.spec.block_tokens = static_cast<std::uint32_t>(reader.number());
    record.spec.group_blocks = static_cast<std::uint32_t>(reader.number());
    if (reader.more()) record.replicas = static_cast<std::uint32_t>(reader.number());
    if (reader.more()) {
        record.quota.bytes = reader.number();
        record.quota.priority = static_cast<std::uint32_t>(reader.number());
        record.quota.ttl_s = static_cast<std::uint32_t>(reader.number());
    }
    if (reader.more()) record.spec.sealed = reader.number() != 0;
    if (!reader.complete()) return damaged("namespace", bytes);
    return record;
}

std::string encode_view(const model::View& view) {
    RecordWriter writer;
    writer.number(view.epoch).number(view.members.size());
    for (const auto& member : view.members) {
        writer.number(member.node_id)
            .text(member.name)
            .text(member.address)
            .text(member.zone)
            .number(member.weight)
            .number(static_cast<std::uint64_t>(member.state));
    }
    for (const auto& member : view.members) writer.text(member.host).number(member.incarnation);
    return writer.take();
}

Result<model::View> decode_view(std::string_view bytes) {
    RecordReader reader(bytes);
    model::View view;
    view.epoch = reader.number();
    const auto members = reader.number();
    if (members > model::kMembersMax) return damaged("view", bytes);
    for (std::uint64_t index = 0; index < members; ++index) {
        model::Member member;
        member.node_id = reader.number();
        member.name = reader.text();
        member.address = reader.text();
        member.zone = reader.text();
        member.weight = static_cast<std::uint32_t>(reader.number());
        member.state = static_cast<model::MemberState>(reader.number());
        view.members.push_back(std::move(member));
    }
    for (std::size_t index = 0; index < view.members.size() && (index > 0 || reader.more()); ++index) {
        view.members[index].host = reader.text();
        view.members[index].incarnation = reader.number();
    }
    if (!reader.complete()) return damaged("view", bytes);
    return view;
}

}  // namespace cmpool::meta
