#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/result.h>
#include <cmpool/base/rng.h>
#include <cmpool/meta/store.h>
#include <cmpool/model/namespace.h>

namespace cmpool::meta {

inline constexpr std::uint32_t kNamespacesMax = 65'536;
inline constexpr std::uint32_t kTenantsMax = 4096;
static_assert(kNamespacesMax < model::kNamespaceIdEnd);

/// A change that loses so many races in a row against other nodes' fails with Again.
inline constexpr int kRacesMax = 16;

struct ControllerLimits {
    std::uint32_t namespaces_max = kNamespacesMax;
    std::uint32_t tenants_max = kTenantsMax;
};

/// The few facts that the whole cluster must agree on: tenants and namespaces; and this node's id.
/// It remembers nothing that the store does not hold, so a crash at any point loses nothing told.
///
///   Lifetime  store and entropy outlive it
///   Threads   one
///   Limits    ControllerLimits; what a peer can make us keep is bounded by them
///   Errors    whatever the store says, besides those at each call
class Controller {
public:
    /// Makes the node's id when the store is new. Errors: Mismatch for a store that another version wrote.
    [[nodiscard]] static Result<Controller> open(Store& store, Entropy& entropy,
                                                 ControllerLimits limits = {});

    /// Of a store that several nodes share, and which so knows no node of its own.
    [[nodiscard]] static Controller share(Store& store, Entropy& entropy, std::uint64_t node_id) noexcept {
        Controller controller(store, entropy, {});
        controller.node_id_ = node_id;
        return controller;
    }

    [[nodiscard]] std::uint64_t node_id() const noexcept { return node_id_; }

    /// A namespace's name is its tenant, model and revision; the first opening makes it and fixes the
    /// rest of the specification. A tenant belongs to whoever opened it first: to who holds the key
    /// shown then, or else to that uid; `default` belongs to everybody.
    /// Errors: Invalid; Denied says how a tenant is proven, never whose it is; Mismatch prints both
    /// sides; NoCapacity above the limits.
    [[nodiscard]] Result<model::NamespaceRecord> open_namespace(const model::NamespaceSpec& spec,
                                                                const model::Digest& fingerprint,
                                                                const model::Credential& credential);

    /// The same for a member of the cluster: nobody proves anything, and nothing is made. Errors besides:
    /// Invalid for one that does not exist.
    [[nodiscard]] Result<model::NamespaceRecord> find_namespace(const model::NamespaceSpec& spec,
                                                                const model::Digest& fingerprint);

    /// Up to `limit` namespaces that come behind `after`, in a fixed order. A page that is not full is
    /// the last.
    [[nodiscard]] Result<std::vector<model::NamespaceRecord>> namespaces(const model::NamespaceSpec* after,
                                                                         std::size_t limit);

    /// The same of one tenant, whose proof comes first. Errors: Denied.
    [[nodiscard]] Result<std::vector<model::NamespaceRecord>> namespaces_of(
        const std::string& tenant, const model::Credential& credential, const model::NamespaceSpec* after,
        std::size_t limit);

    struct Change {
        std::uint32_t replicas = 0;  ///< 0: as it is
        bool remove = false;  ///< the next opening makes another namespace, in which nothing is to be found
        model::QuotaChange quota{};
    };
    /// Changes the namespace of `name`'s tenant, model and revision. Errors: Denied; Invalid for one that
    /// does not exist, or for what cannot be.
    [[nodiscard]] Result<model::NamespaceRecord> change(const model::NamespaceSpec& name,
                                                        const model::Credential& credential,
                                                        const Change& change);

private:
    struct Tenant;
    struct Counters;

    Controller(Store& store, Entropy& entropy, ControllerLimits limits) noexcept
        : store_(&store), entropy_(&entropy), limits_(limits) {}

    [[nodiscard]] Result<Counters> counters();
    [[nodiscard]] Result<Tenant> tenant(const std::string& name, const model::Credential& credential);
    [[nodiscard]] Result<model::NamespaceRecord> open_once(const model::NamespaceSpec& spec,
                                                           const model::Digest& fingerprint,
                                                           const model::Credential& credential);
    [[nodiscard]] Result<model::NamespaceRecord> change_once(const model::NamespaceSpec& name,
                                                             const model::Credential& credential,
                                                             const Change& change);
    [[nodiscard]] Result<model::NamespaceRecord> create(const model::NamespaceSpec& spec,
                                                        const Tenant& tenant);

    Store* store_;
    Entropy* entropy_;
    ControllerLimits limits_;
    std::uint64_t node_id_ = 0;
};

}  // namespace cmpool::meta
