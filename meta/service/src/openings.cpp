#include "openings.h"

#include <fmt/format.h>

namespace cmpool::meta {

std::string Openings::key_of(const model::NamespaceSpec& spec, const model::Credential& credential) {
    const std::string name = fmt::format("{}:{} {}", spec.tenant.size(), spec.tenant, spec.describe());
    if (credential.cluster_key) return name + " member";
    const auto shown = model::plain_digest(model::DigestKind::Credential, as_bytes(credential.tenant_key));
    return fmt::format("{} {} {}", name, credential.uid ? std::to_string(*credential.uid) : "-",
                       to_hex(shown.bytes));
}

void Openings::remember(const model::NamespaceSpec& spec, const model::Credential& credential,
                        const model::NamespaceRecord& record) {
    remember(key_of(spec, credential), record);
    if (!credential.cluster_key) remember(key_of(spec, {.cluster_key = std::string()}), record);
}

void Openings::remember(const std::string& key, const model::NamespaceRecord& record) {
    if (const auto known = by_key_.find(key); known != by_key_.end()) {
        memory_.erase(known->second);
        by_key_.erase(known);
    }
    memory_.push_front({key, record});
    by_key_.emplace(key, memory_.begin());
    if (memory_.size() <= kRememberedMax) return;
    by_key_.erase(memory_.back().key);
    memory_.pop_back();
}

void Openings::take(const wire::NamespaceInfo& info) {
    for (auto& known : memory_) {
        if (known.record.namespace_id != info.namespace_id) continue;
        known.record.quota = info.quota;
        known.record.replicas = info.replicas;
    }
}

Result<model::NamespaceRecord> Openings::recall(const std::string& key, const Error& why) {
    const auto known = by_key_.find(key);
    if (known == by_key_.end()) return fail(why);
    memory_.splice(memory_.begin(), memory_, known->second);
    return known->second->record;
}

}  // namespace cmpool::meta
