#include "cluster_key.h"

#include <utility>

#include <cmpool/meta/controller.h>
#include <cmpool/meta/membership.h>
#include <cmpool/meta/office.h>

namespace cmpool::meta {
namespace {

/// How often leases are looked at.
constexpr std::chrono::milliseconds kLook{50};

wire::NamespaceInfo info_of(const model::NamespaceRecord& record) {
    return {record.namespace_id,    record.spec.model, record.spec.revision,
            record.spec.describe(), record.replicas,   record.quota};
}

class HeadOffice final : public Office {
public:
    HeadOffice(const Clock& clock, Controller controller, Membership membership, OfficeConfig config)
        : clock_(clock),
          controller_(std::move(controller)),
          membership_(std::move(membership)),
          config_(std::move(config)) {}

    void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                        const model::Credential& credential, OpenDone done) override {
        done(open(spec, fingerprint, credential));
    }
    void ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) override {
        done(std::visit([&](const auto& each) { return answer(each, uid); }, question));
    }
    void lane_lost(std::uint64_t node_id, std::uint64_t incarnation) override {
        membership_.suspect(node_id, incarnation, clock_.now());
    }
    void behind(std::uint64_t) override {}

    void progress() override {
        const Instant now = clock_.now();
        if (now < next_) return;
        next_ = now + kLook;
        // A store that fails now may not fail the next time; nobody is told of what it does not hold.
        (void)membership_.expire(now);
    }
    [[nodiscard]] Instant next_deadline() const noexcept override { return next_; }
    [[nodiscard]] transport::Lane* lane() const noexcept override { return nullptr; }
    void leave() override {}
    [[nodiscard]] bool gone() const noexcept override { return true; }
    [[nodiscard]] std::uint64_t node_id() const noexcept override { return controller_.node_id(); }
    [[nodiscard]] std::shared_ptr<const model::View> view() const noexcept override {
        return membership_.view();
    }

private:
    using Answer = Result<wire::Body>;
    using Uid = std::optional<std::uint32_t>;

    [[nodiscard]] wire::Lease lease() const {
        return {static_cast<std::uint32_t>(membership_.times().lease.count())};
    }

    [[nodiscard]] Result<model::NamespaceRecord> open(const model::NamespaceSpec& spec,
                                                      const model::Digest& fingerprint,
                                                      const model::Credential& credential) {
        if (!credential.cluster_key) return controller_.open_namespace(spec, fingerprint, credential);
        if (auto fits = check_cluster_key(config_.cluster_key, *credential.cluster_key); !fits)
            return fail(fits.error());
        return controller_.find_namespace(spec, fingerprint);
    }

    template <class Other>
    Answer answer(const Other&, Uid) {
        return fail(Errc::Invalid, "expected a question to meta");
    }
    Answer answer(const wire::ViewRequest&, Uid) { return wire::Members{*membership_.view()}; }
    Answer answer(const wire::Join& ask, Uid) {
        if (auto fits = check_cluster_key(config_.cluster_key, ask.cluster_key); !fits)
            return fail(fits.error());
        if (auto joined = membership_.join(ask.member, ask.epoch, clock_.now()); !joined)
            return fail(joined.error());
        return lease();
    }
    Answer answer(const wire::Renew& ask, Uid) {
        if (auto renewed = membership_.renew(ask.node_id, ask.incarnation, clock_.now()); !renewed)
            return fail(renewed.error());
        return lease();
    }
    Answer answer(const wire::Leave& ask, Uid) {
        if (auto left = membership_.leave(ask.node_id, ask.incarnation); !left) return fail(left.error());
        return wire::Lease{};
    }
    Answer answer(const wire::Resolve& ask, Uid) {
        if (auto fits = check_cluster_key(config_.cluster_key, ask.cluster_key); !fits)
            return fail(fits.error());
        // In an open cluster anybody could claim to be anybody.
        model::Credential credential{.uid = config_.cluster_key.empty() ? std::nullopt : ask.uid,
                                     .tenant_key = ask.open.tenant_key};
        if (ask.open.cluster_key) credential.cluster_key = ask.cluster_key;
        const auto record = open(ask.open.spec, ask.open.fingerprint, credential);
        if (!record) return fail(record.error());
        return wire::Resolved{
            record->namespace_id, record->domain_id, {record->secret}, record->replicas, record->quota};
    }
    Answer answer(const wire::ListNamespaces& ask, Uid uid) {
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
    Answer answer(const wire::ChangeNamespace& ask, Uid uid) {
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
    Answer answer(const wire::ChangeMember& ask, Uid uid) {
        if (!is_admin(config_, uid)) {
            if (auto fits = check_cluster_key(config_.cluster_key, ask.cluster_key); !fits)
                return fail(fits.error());
        }
        const Membership::Change change{.weight = ask.weight, .state = ask.state, .forget = ask.forget};
        if (auto changed = membership_.change(ask.member, change); !changed) return fail(changed.error());
        return wire::Members{*membership_.view()};
    }

    const Clock& clock_;
    Controller controller_;
    Membership membership_;
    OfficeConfig config_;
    Instant next_{};
};

}  // namespace

Result<std::unique_ptr<Office>> open_head_office(Store& store, const Clock& clock, Entropy& entropy,
                                                 OfficeConfig config) {
    auto controller = Controller::open(store, entropy);
    if (!controller) return fail(controller.error());
    config.self.node_id = controller->node_id();
    auto membership = Membership::open(store, clock.now(), config.self.node_id, config.times);
    if (!membership) return fail(membership.error());
    if (auto joined = membership->join(config.self, 0, clock.now()); !joined) return fail(joined.error());
    return std::make_unique<HeadOffice>(clock, std::move(*controller), std::move(*membership),
                                        std::move(config));
}

}  // namespace cmpool::meta
