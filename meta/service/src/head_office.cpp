#include "store_office.h"

#include <algorithm>

namespace cmpool::meta {
namespace {

/// How often leases are looked at.
constexpr std::chrono::milliseconds kLook{50};

class HeadOffice final : public StoreOffice {
public:
    using StoreOffice::StoreOffice;

    void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                        const model::Credential& credential, OpenDone done) override {
        done(open(spec, fingerprint, credential));
    }
    void ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) override {
        done(answer(question, uid));
    }
    void lane_lost(std::uint64_t node_id, std::uint64_t incarnation) override {
        membership_.suspect(node_id, incarnation, clock_.now());
    }
    void behind(std::uint64_t) override {}

    void progress() override {
        keep_vigil(0, true);
        const Instant now = clock_.now();
        if (now < next_) return;
        next_ = now + kLook;
        // A store that fails now may not fail the next time; nobody is told of what it does not hold.
        (void)membership_.expire(now);
    }
    [[nodiscard]] Instant next_deadline() const noexcept override { return std::min(next_, next_vigil()); }
    void leave() override {}

private:
    [[nodiscard]] wire::Lease lease() const {
        return {static_cast<std::uint32_t>(membership_.times().lease.count())};
    }

    Answer answer_member(const wire::Body& question) override {
        return std::visit([&](const auto& each) { return member(each); }, question);
    }
    template <class Other>
    Answer member(const Other& other) {
        return StoreOffice::answer_member(other);
    }
    Answer member(const wire::Join& ask) {
        if (auto fits = check_cluster_key(config_.cluster_key, ask.cluster_key); !fits)
            return fail(fits.error());
        if (auto joined = membership_.join(ask.member, ask.epoch, clock_.now()); !joined)
            return fail(joined.error());
        return lease();
    }
    Answer member(const wire::Renew& ask) {
        if (auto renewed = membership_.renew(ask.node_id, ask.incarnation, clock_.now()); !renewed)
            return fail(renewed.error());
        return lease();
    }
    Answer member(const wire::Leave& ask) {
        if (auto left = membership_.leave(ask.node_id, ask.incarnation); !left) return fail(left.error());
        return wire::Lease{};
    }
    Answer member(const wire::Resolve& ask) {
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
    return std::make_unique<HeadOffice>(clock, *controller, std::move(*membership), std::move(config));
}

}  // namespace cmpool::meta
