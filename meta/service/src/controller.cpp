#include "records.h"

#include <utility>

#include <cmpool/meta/controller.h>
#include <cmpool/model/view.h>

#include <sodium.h>

namespace cmpool::meta {

struct Controller::Tenant {
    TenantRecord record;
    std::uint64_t revision = 0;  ///< 0: it is new
};

struct Controller::Counters : CounterRecord {
    std::uint64_t revision = 0;
};

namespace {

// Says how, never whose.
tl::unexpected<Error> denied(const std::string& tenant) {
    return fail(
        Errc::Denied,
        "tenant \"{}\" needs a proof that it is yours: give the tenant key it was first opened with in "
        "the URI (?key=...), or, if it was opened without one, connect over shm on the pool's host as "
        "the user who opened it",
        tenant);
}

Result<TenantRecord> bind(const std::string& name, const model::Credential& credential) {
    TenantRecord record;
    if (name == model::kDefaultTenant) return record;
    if (!credential.tenant_key.empty()) {
        record.binding = Binding::Key;
        record.key_digest =
            model::plain_digest(model::DigestKind::Credential, as_bytes(credential.tenant_key));
    } else if (credential.uid) {
        record.binding = Binding::Uid;
        record.uid = *credential.uid;
    } else {
        return denied(name);
    }
    return record;
}

bool proves(const TenantRecord& record, const model::Credential& credential) {
    if (record.binding == Binding::Everybody) return true;
    if (record.binding == Binding::Uid) return credential.uid == record.uid;
    // Constant in time, though what is compared is a digest already.
    const auto shown = model::plain_digest(model::DigestKind::Credential, as_bytes(credential.tenant_key));
    return sodium_memcmp(shown.bytes.data(), record.key_digest.bytes.data(), shown.bytes.size()) == 0;
}

Result<void> same_fingerprint(const model::NamespaceSpec& spec, const model::Digest& shown) {
    const auto expected = spec.fingerprint();
    if (shown == expected) return {};
    return fail(Errc::Mismatch,
                "expected fingerprint {} for {}, saw {}: the client hashes a namespace in another way than "
                "this server",
                to_hex(expected.bytes), spec.describe(), to_hex(shown.bytes));
}

Result<void> same_spec(const model::NamespaceSpec& ours, const model::NamespaceSpec& theirs) {
    if (ours.fingerprint() == theirs.fingerprint()) return {};
    return fail(Errc::Mismatch,
                "namespace {}/{}/{} was opened with fingerprint {}, saw {}: {}; give it another revision, or "
                "make the two sides equal",
                ours.tenant, ours.model, ours.revision, to_hex(ours.fingerprint().bytes),
                to_hex(theirs.fingerprint().bytes), model::difference(ours, theirs));
}

// Somebody else has written between our reading and our writing: what they wrote decides now.
template <class Try>
auto without_races(Try attempt) {
    auto result = attempt();
    for (int races = 1; !result && result.error().code == Errc::Again && races < kRacesMax; ++races)
        result = attempt();
    return result;
}

}  // namespace

Result<Controller> Controller::open(Store& store, Entropy& entropy, ControllerLimits limits) {
    Controller controller(store, entropy, limits);
    const auto found = store.get(kNodeKey);
    if (!found) return fail(found.error());
    if (*found) {
        const auto node = decode_node(**found);
        if (!node) return fail(node.error());
        controller.node_id_ = *node;
        return controller;
    }
    // Zero stands for no node.
    while (controller.node_id_ == 0) controller.node_id_ = entropy.next_u64();
    const Entry entries[]{{std::string(kNodeKey), encode_node(controller.node_id_)},
                          {std::string(kCountersKey), encode_counters({})},
                          {std::string(kViewKey), encode_view({})}};
    if (auto written = store.apply(entries); !written) return fail(written.error());
    return controller;
}

Result<Controller::Counters> Controller::counters() {
    const auto found = store_->read(kCountersKey);
    if (!found) return fail(found.error());
    if (!*found) return Counters{};
    const auto decoded = decode_counters((*found)->value);
    if (!decoded) return fail(decoded.error());
    return Counters{*decoded, (*found)->revision};
}

Result<Controller::Tenant> Controller::tenant(const std::string& name, const model::Credential& credential) {
    const auto found = store_->read(tenant_key(name));
    if (!found) return fail(found.error());
    if (!*found) {
        const auto bound = bind(name, credential);
        if (!bound) return fail(bound.error());
        return Tenant{*bound};
    }
    const auto record = decode_tenant((*found)->value);
    if (!record) return fail(record.error());
    if (!proves(*record, credential)) return denied(name);
    return Tenant{*record, (*found)->revision};
}

Result<model::NamespaceRecord> Controller::open_namespace(const model::NamespaceSpec& spec,
                                                          const model::Digest& fingerprint,
                                                          const model::Credential& credential) {
    return without_races([&] { return open_once(spec, fingerprint, credential); });
}

Result<model::NamespaceRecord> Controller::open_once(const model::NamespaceSpec& spec,
                                                     const model::Digest& fingerprint,
                                                     const model::Credential& credential) {
    if (auto checked = spec.check(); !checked) return fail(checked.error());
    if (auto same = same_fingerprint(spec, fingerprint); !same) return fail(same.error());
    // Who may not know of a tenant learns nothing about its namespaces either: this comes first.
    const auto owner = tenant(spec.tenant, credential);
    if (!owner) return fail(owner.error());

    const auto found = store_->get(namespace_key(spec));
    if (!found) return fail(found.error());
    if (!*found) return create(spec, *owner);
    auto record = decode_namespace(**found);
    if (!record) return record;
    if (auto same = same_spec(record->spec, spec); !same) return fail(same.error());
    return record;
}

Result<model::NamespaceRecord> Controller::find_namespace(const model::NamespaceSpec& spec,
                                                          const model::Digest& fingerprint) {
    if (auto same = same_fingerprint(spec, fingerprint); !same) return fail(same.error());
    const auto found = store_->get(namespace_key(spec));
    if (!found) return fail(found.error());
    if (!*found) {
        return fail(Errc::Invalid, "expected a namespace that exists, saw {}/{}/{}", spec.tenant, spec.model,
                    spec.revision);
    }
    auto record = decode_namespace(**found);
    if (!record) return record;
    if (auto same = same_spec(record->spec, spec); !same) return fail(same.error());
    return record;
}

Result<model::NamespaceRecord> Controller::create(const model::NamespaceSpec& spec, const Tenant& tenant) {
    auto made = counters();
    if (!made) return fail(made.error());
    if (made->namespaces >= limits_.namespaces_max) {
        return fail(Errc::NoCapacity, "all {} namespaces are taken: open one that exists", made->namespaces);
    }
    const bool is_new = tenant.revision == 0;
    if (is_new && made->tenants >= limits_.tenants_max) {
        return fail(Errc::NoCapacity, "all {} tenants are taken: use one that exists", made->tenants);
    }
    TenantRecord owner = tenant.record;
    if (is_new) owner.domain_id = ++made->tenants;

    model::NamespaceRecord record{
        .namespace_id = ++made->namespaces, .domain_id = owner.domain_id, .secret = {}, .spec = spec};
    entropy_->fill(record.secret);
    const Entry entries[]{{std::string(kCountersKey), encode_counters(*made)},
                          {tenant_key(spec.tenant), encode_tenant(owner)},
                          {namespace_key(spec), encode_namespace(record)}};
    const Guard guards[]{{std::string(kCountersKey), made->revision},
                         {tenant_key(spec.tenant), tenant.revision},
                         {namespace_key(spec), 0}};
    if (auto written = store_->write(entries, guards); !written) return fail(written.error());
    return record;
}

namespace {

Result<std::vector<model::NamespaceRecord>> page(Store& store, std::string_view prefix,
                                                 const model::NamespaceSpec* after, std::size_t limit) {
    const auto entries = store.scan(prefix, after != nullptr ? namespace_key(*after) : std::string(), limit);
    if (!entries) return fail(entries.error());
    std::vector<model::NamespaceRecord> records;
    for (const auto& entry : *entries) {
        auto record = decode_namespace(entry.value);
        if (!record) return fail(record.error());
        records.push_back(std::move(*record));
    }
    return records;
}

}  // namespace

Result<std::vector<model::NamespaceRecord>> Controller::namespaces(const model::NamespaceSpec* after,
                                                                   std::size_t limit) {
    return page(*store_, kNamespacePrefix, after, limit);
}

Result<std::vector<model::NamespaceRecord>> Controller::namespaces_of(const std::string& name,
                                                                      const model::Credential& credential,
                                                                      const model::NamespaceSpec* after,
                                                                      std::size_t limit) {
    if (const auto owner = tenant(name, credential); !owner) return fail(owner.error());
    return page(*store_, tenant_prefix(name), after, limit);
}

Result<model::NamespaceRecord> Controller::change(const model::NamespaceSpec& name,
                                                  const model::Credential& credential, const Change& change) {
    return without_races([&] { return change_once(name, credential, change); });
}

Result<model::NamespaceRecord> Controller::change_once(const model::NamespaceSpec& name,
                                                       const model::Credential& credential,
                                                       const Change& change) {
    if (const auto owner = tenant(name.tenant, credential); !owner) return fail(owner.error());
    const auto found = store_->read(namespace_key(name));
    if (!found) return fail(found.error());
    if (!*found) {
        return fail(Errc::Invalid, "expected a namespace that exists, saw {}/{}/{}", name.tenant, name.model,
                    name.revision);
    }
    if (change.replicas > model::kReplicasMax) {
        return fail(Errc::Invalid, "expected 1 to {} replicas, saw {}", model::kReplicasMax, change.replicas);
    }
    if (auto checked = change.quota.check(); !checked) return fail(checked.error());
    auto record = decode_namespace((*found)->value);
    if (!record) return record;
    change.quota.apply(record->quota);
    if (change.replicas != 0) record->replicas = change.replicas;
    const Entry entries[]{
        {.key = namespace_key(name), .value = encode_namespace(*record), .erase = change.remove}};
    const Guard guards[]{{namespace_key(name), (*found)->revision}};
    if (auto written = store_->write(entries, guards); !written) return fail(written.error());
    return record;
}

}  // namespace cmpool::meta
