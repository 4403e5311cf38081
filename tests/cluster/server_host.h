#pragma once

#include "sim_store.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/meta/controller.h>
#include <cmpool/meta/memory_store.h>
#include <cmpool/meta/office.h>
#include <cmpool/pool/server.h>
#include <cmpool/transport/sim.h>

namespace cmpool::testing {

using transport::SimWorld;

inline constexpr const char* kPoolHost = "pool";

class SimProcesses;

struct ServerOptions {
    std::string host = kPoolHost;
    std::string meta;            ///< the host of the node that keeps meta; empty: this one
    SimStore* shared = nullptr;  ///< where all members keep meta, instead of one of them
    std::string zone;
    std::string cluster_key{};  ///< empty: whoever reaches it may join
    meta::LeaseTimes times;
    std::shared_ptr<SimProcesses> processes;  ///< none: its own
    std::uint64_t capacity_bytes = 2 * MiB;   ///< of each shard
    std::uint32_t shards = 1;
    std::uint64_t near_bytes = 0;  ///< of each shard
    std::uint64_t repair_bytes_per_second = 64 * MiB;
    double slow_directory = 0;  ///< how often the controller takes its time
    Nanos directory_delay{0};   ///< at most so much
    /// Test-only seam: stands between the server and its memory.
    std::function<std::unique_ptr<transport::Fabric>(std::unique_ptr<transport::Fabric>)> wrap_memory;
    bool lies_about_deaths = false;   ///< test-only seam: takes every process for dead
    bool one_domain_for_all = false;  ///< test-only seam: tenants share memory
};

/// Which simulated processes run, as the kernel would tell the server.
class SimProcesses final : public pool::ProcessWatch {
public:
    explicit SimProcesses(bool lies) : lies_(lies) {}
    void born(std::int32_t pid) { alive_->insert(pid); }
    void died(std::int32_t pid) { alive_->erase(pid); }
    [[nodiscard]] std::unique_ptr<Handle> watch(std::int32_t pid) override;

private:
    std::shared_ptr<std::set<std::int32_t>> alive_ = std::make_shared<std::set<std::int32_t>>();
    bool lies_;
};

/// The pool's host: the real server and the real controller on simulated lanes, with a disk that
/// outlives crashes.
///
///   Lifetime  the world outlives it
class ServerHost {
public:
    ServerHost(SimWorld& world, ServerOptions options, std::uint64_t seed);
    ~ServerHost();
    ServerHost(const ServerHost&) = delete;
    ServerHost& operator=(const ServerHost&) = delete;

    void crash();
    void restart();
    void restart(std::uint32_t shards);
    /// As after SIGTERM.
    void stop();
    void freeze(bool frozen);
    /// Its thread for meta gets no time from now on, and all others do.
    void starve_meta(bool starved) noexcept { meta_starves_ = starved; }
    /// From now on it is as if each client had waited so long for its turn.
    void press(Nanos wait) noexcept { wait_ = wait; }
    [[nodiscard]] bool running() const noexcept { return !shards_.empty(); }
    [[nodiscard]] bool frozen() const noexcept { return frozen_; }

    [[nodiscard]] const std::string& host() const noexcept { return options_.host; }
    [[nodiscard]] std::string address() const { return address_of(options_.host); }
    [[nodiscard]] static std::string address_of(const std::string& host) { return host + ":7411"; }
    [[nodiscard]] std::string socket() const { return options_.host + ".sock"; }
    /// Where its memory is read one-sided.
    [[nodiscard]] std::string plane_address() const { return options_.host + ":7412"; }
    /// What it knows of the cluster; of one that does not run what it knew.
    [[nodiscard]] const model::View& view() const noexcept { return *told_; }
    [[nodiscard]] meta::Office& office() noexcept { return *office_; }

    [[nodiscard]] SimProcesses& processes() noexcept { return *options_.processes; }
    [[nodiscard]] meta::Controller& controller() noexcept { return *controller_; }
    [[nodiscard]] std::uint32_t shards() const noexcept { return options_.shards; }
    [[nodiscard]] std::string check_invariants() const;
    /// Whether a block lies on any of its shards.
    [[nodiscard]] bool holds(const model::Digest& block) const;
    /// Summed over the shards.
    [[nodiscard]] std::uint64_t stat(std::string_view name) const;

private:
    class Directory;
    struct Shard {
        std::unique_ptr<pool::Server> server;
        std::vector<pool::Server::PeerId> peers;
    };

    void start();
    void wake();
    void publish();
    [[nodiscard]] bool serve(Shard& shard);
    void tick(std::uint64_t run);
    void answered(std::uint64_t run, const pool::Directory::OpenDone& done,
                  Result<model::NamespaceRecord> record);

    SimWorld& world_;
    Nanos wait_{0};
    ServerOptions options_;
    SeededEntropy entropy_;
    meta::MemoryStore store_;
    std::unique_ptr<meta::SharedStore> shared_;
    std::unique_ptr<meta::Controller> controller_;
    std::unique_ptr<meta::Office> office_;
    std::shared_ptr<const model::View> told_ = std::make_shared<const model::View>();
    std::unique_ptr<Directory> directory_;
    std::unique_ptr<transport::Fabric> memory_;
    std::unique_ptr<transport::Fabric> network_;
    std::unique_ptr<transport::Fabric> one_sided_;
    std::vector<std::unique_ptr<transport::Listener>> listeners_;
    std::vector<Shard> shards_;
    std::uint64_t run_ = 0;
    bool frozen_ = false;
    bool meta_starves_ = false;
};

}  // namespace cmpool::testing
