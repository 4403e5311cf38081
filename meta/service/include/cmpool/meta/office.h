#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/base/rng.h>
#include <cmpool/meta/membership.h>
#include <cmpool/meta/shared_store.h>
#include <cmpool/model/namespace.h>
#include <cmpool/model/view.h>
#include <cmpool/transport/fabric.h>
#include <cmpool/wire/messages.h>

namespace cmpool::meta {

/// A question of ours to meta that takes longer has no answer; what is remembered is told instead.
inline constexpr std::chrono::milliseconds kAskLimit{500};
/// Questions of one node that are on their way to meta; one more is answered with Again.
inline constexpr std::size_t kAsksMax = 1024;
/// Openings that a node remembers, so that it can answer them without meta.
inline constexpr std::size_t kRememberedMax = 4096;

/// How a node knows what the cluster has agreed on: it keeps the store itself (the head office), asks whoever
/// does (a branch), or writes to one that all nodes share, like each of them (a peer). It has no thread and
/// no socket of its own; nothing of it is on the data path.
///
///   Lifetime  what it was made from outlives it; with it go all callbacks that it still owes
///   Threads   one
class Office {
public:
    using OpenDone = std::function<void(Result<model::NamespaceRecord>)>;
    using AskDone = std::function<void(Result<wire::Body>)>;
    virtual ~Office() = default;

    /// As Controller::open_namespace(). A branch that meta does not answer tells what it was told before,
    /// to whoever proves the same.
    virtual void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                                const model::Credential& credential, OpenDone done) = 0;
    /// Everything else that meta is asked by message; `uid` is the kernel's word on who asks.
    /// Errors: Denied; PeerDown and Deadline from a branch without meta; those of each question.
    virtual void ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) = 0;
    /// The connection on which a member had joined has ended.
    virtual void lane_lost(std::uint64_t node_id, std::uint64_t incarnation) = 0;
    /// Somebody knows of a later epoch.
    virtual void behind(std::uint64_t epoch) = 0;

    /// To be called at next_deadline(), and when something has happened on the lane.
    virtual void progress() = 0;
    [[nodiscard]] virtual Instant next_deadline() const noexcept = 0;
    /// Whether what the nodes agree on lies elsewhere, in a store or at another node, and has not answered
    /// when it was asked last.
    [[nodiscard]] virtual bool meta_silent() const noexcept { return false; }
    /// Those that it waits on.
    [[nodiscard]] virtual std::vector<transport::Lane*> lanes() const = 0;
    /// Readable when there is something to progress(); -1 where there is none.
    [[nodiscard]] virtual int event_fd() const noexcept { return -1; }
    /// Says good-bye. A branch that is gone() has nothing more to wait for.
    virtual void leave() = 0;
    [[nodiscard]] virtual bool gone() const noexcept = 0;

    [[nodiscard]] virtual std::uint64_t node_id() const noexcept = 0;
    /// Another one after each change; never null.
    [[nodiscard]] virtual std::shared_ptr<const model::View> view() const noexcept = 0;
    /// Namespaces that can count on something else since the last call, as far as this node has heard of it;
    /// up to kChangesMax. What is lost is told at the namespace's next opening.
    [[nodiscard]] std::vector<wire::NamespaceInfo> take_changes() { return std::exchange(changes_, {}); }

protected:
    /// Changes that wait for take_changes(); further ones are dropped.
    static constexpr std::size_t kChangesMax = 1024;
    void changed(const wire::NamespaceInfo& info) {
        if (changes_.size() < kChangesMax) changes_.push_back(info);
    }

private:
    std::vector<wire::NamespaceInfo> changes_;
};

struct OfficeConfig {
    model::Member self;       ///< with its address; the id is the controller's
    std::string cluster_key;  ///< who does not show it joins nothing; empty: the cluster is open
    std::optional<std::uint32_t> admin_uid;  ///< who may change members on this host, besides root
    LeaseTimes times;
    /// By which members are asked whether they live; null: nobody is.
    transport::Fabric* network = nullptr;
};

/// Joins as the only member that has no lease. Errors: those of the store.
[[nodiscard]] Result<std::unique_ptr<Office>> open_head_office(Store& store, const Clock& clock,
                                                               Entropy& entropy, OfficeConfig config);
/// `meta` is the address of the head office's node. Its node id is kept in `store`.
[[nodiscard]] Result<std::unique_ptr<Office>> open_branch(Store& store, const Clock& clock, Entropy& entropy,
                                                          transport::Fabric& network, std::string meta,
                                                          OfficeConfig config);
/// Every node is equal; calls of it wait for `store`. Its node id is kept in `own`.
[[nodiscard]] Result<std::unique_ptr<Office>> open_peer_office(Store& own, SharedStore& store,
                                                               const Clock& clock, Entropy& entropy,
                                                               OfficeConfig config);

}  // namespace cmpool::meta
