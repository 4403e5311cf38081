#include "store_office.h"

#include <algorithm>

namespace cmpool::meta {

StoreOffice::Answer StoreOffice::answer(const wire::Body& question, Uid uid) {
    if (std::holds_alternative<wire::ViewRequest>(question)) return wire::Members{*membership_.view()};
    if (const auto* ask = std::get_if<wire::ListNamespaces>(&question)) return list(*ask, uid);
    if (const auto* ask = std::get_if<wire::ChangeNamespace>(&question)) return change(*ask, uid);
    if (const auto* ask = std::get_if<wire::ChangeMember>(&question)) return change(*ask, uid);
    return answer_member(question);
}

StoreOffice::Answer StoreOffice::answer_member(const wire::Body&) {
    return fail(Errc::Invalid, "expected a question to meta");
}

Result<model::NamespaceRecord> StoreOffice::open(const model::NamespaceSpec& spec,
                                                 const model::Digest& fingerprint,
                                                 const model::Credential& credential) {
    if (!credential.cluster_key) return controller_.open_namespace(spec, fingerprint, credential);
    if (auto fits = check_cluster_key(config_.cluster_key, *credential.cluster_key); !fits)
        return fail(fits.error());
    return controller_.find_namespace(spec, fingerprint);
}

void StoreOffice::keep_vigil(std::size_t neighbours, bool judges) {
    if (!vigil_) return;
    if (neighbours > 0 && watched_view_ != membership_.view()) {
        watched_view_ = membership_.view();
        neighbours_ = neighbours_of(*watched_view_, node_id(), neighbours);
    }
    auto members = judges ? membership_.late(clock_.now()) : std::vector<model::Member>{};
    for (const auto& each : neighbours_) {
        const bool there =
            std::ranges::any_of(members, [&](const auto& member) { return member.node_id == each.node_id; });
        if (!there) members.push_back(each);
    }
    vigil_->watch(members);
    vigil_->progress(membership_);
}

StoreOffice::Answer StoreOffice::list(const wire::ListNamespaces& ask, Uid uid) {
    const model::NamespaceSpec after{
        .tenant = ask.tenant, .model = ask.after_model, .revision = ask.after_revision};
    const auto records =
        controller_.namespaces_of(ask.tenant, {.uid = uid, .tenant_key = ask.tenant_key},
                                  ask.after_model.empty() ? nullptr : &after, wire::kNamespacesListed);
    if (!records) return fail(records.error());
    wire::Namespaces all;
    for (const auto& record : *records) all.namespaces.push_back(info_of(record));
    return all;
}

StoreOffice::Answer StoreOffice::change(const wire::ChangeNamespace& ask, Uid uid) {
    const auto record =
        controller_.change({.tenant = ask.tenant, .model = ask.model, .revision = ask.revision},
                           {.uid = uid, .tenant_key = ask.tenant_key},
                           {.replicas = ask.replicas, .remove = ask.remove, .quota = ask.quota});
    if (!record) return fail(record.error());
    auto info = info_of(*record);
    // What nobody finds any more need not be kept from anybody.
    if (ask.remove) info.quota = {};
    changed(info);
    return wire::Namespaces{{std::move(info)}};
}

StoreOffice::Answer StoreOffice::change(const wire::ChangeMember& ask, Uid uid) {
    if (!is_admin(config_, uid)) {
        if (auto fits = check_cluster_key(config_.cluster_key, ask.cluster_key); !fits)
            return fail(fits.error());
    }
    const Membership::Change wanted{.weight = ask.weight, .state = ask.state, .forget = ask.forget};
    if (auto done = membership_.change(ask.member, wanted); !done) return fail(done.error());
    return wire::Members{*membership_.view()};
}

}  // namespace cmpool::meta
