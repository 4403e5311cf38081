#pragma once

#include "cluster_key.h"
#include "vigil.h"

#include <memory>
#include <optional>
#include <utility>

#include <cmpool/meta/controller.h>
#include <cmpool/meta/membership.h>
#include <cmpool/meta/office.h>

namespace cmpool::meta {

[[nodiscard]] inline wire::NamespaceInfo info_of(const model::NamespaceRecord& record) {
    return {record.namespace_id,    record.spec.model, record.spec.revision,
            record.spec.describe(), record.replicas,   record.quota};
}

/// A node that answers from the store itself.
class StoreOffice : public Office {
public:
    StoreOffice(const Clock& clock, Controller controller, Membership membership, OfficeConfig config)
        : clock_(clock),
          controller_(controller),
          membership_(std::move(membership)),
          config_(std::move(config)) {
        if (config_.network != nullptr)
            vigil_.emplace(clock_, *config_.network, "cmpoold " + config_.self.name, config_.times.lease);
    }

    [[nodiscard]] std::vector<transport::Lane*> lanes() const override {
        std::vector<transport::Lane*> all;
        if (vigil_) vigil_->lanes(all);
        return all;
    }
    [[nodiscard]] bool gone() const noexcept override { return true; }
    [[nodiscard]] std::uint64_t node_id() const noexcept override { return controller_.node_id(); }
    [[nodiscard]] std::shared_ptr<const model::View> view() const noexcept override {
        return membership_.view();
    }

protected:
    using Answer = Result<wire::Body>;
    using Uid = std::optional<std::uint32_t>;

    [[nodiscard]] Answer answer(const wire::Body& question, Uid uid);
    [[nodiscard]] Result<model::NamespaceRecord> open(const model::NamespaceSpec& spec,
                                                      const model::Digest& fingerprint,
                                                      const model::Credential& credential);
    /// What other members ask of the one that keeps meta: to join, to stay, to go, to open for them.
    [[nodiscard]] virtual Answer answer_member(const wire::Body& question);

    /// Watches so many neighbours, and whoever is late, if that is for us to judge.
    void keep_vigil(std::size_t neighbours, bool judges);
    [[nodiscard]] Instant next_vigil() const noexcept {
        return vigil_ ? vigil_->next_deadline() : Instant::never();
    }

    const Clock& clock_;
    Controller controller_;
    Membership membership_;
    OfficeConfig config_;

private:
    [[nodiscard]] Answer list(const wire::ListNamespaces& ask, Uid uid);
    [[nodiscard]] Answer change(const wire::ChangeNamespace& ask, Uid uid);
    [[nodiscard]] Answer change(const wire::ChangeMember& ask, Uid uid);

    std::optional<Vigil> vigil_;
    std::shared_ptr<const model::View> watched_view_;
    std::vector<model::Member> neighbours_;  ///< by that view
};

}  // namespace cmpool::meta
