#pragma once

#include "server_host.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <cmpool/client/environment.h>
#include <cmpool/client/pool_client.h>

namespace cmpool::testing {

/// The simulated network's own, whatever the name.
class SimPlanes final : public client::Planes {
public:
    SimPlanes(SimWorld& world, std::string host) : world_(world), host_(std::move(host)) {}
    Result<std::shared_ptr<transport::Fabric>> open(std::string_view, Entropy&) override {
        if (opened_.empty()) opened_.push_back(world_.open(host_, transport::SimProfile::OneSided));
        return opened_.front();
    }

private:
    SimWorld& world_;
    std::string host_;
};

/// One process with one client in it. It maps the pool's memory, reads it one-sided, or has messages only.
///
///   Lifetime  world and server outlive it; a dead one keeps its memory, so that what it had pinned
///             stays pinned until the server has noticed its death
class ClientHost {
public:
    struct Options {
        bool mapped = true;
        bool one_host =
            false;  ///< where it maps: its first server's memory alone, since it runs on that host
        bool one_sided = false;  ///< where it does not map: reads blocks, and sends messages for the rest
        Nanos deadline = std::chrono::milliseconds(20);
        std::string tenant_key;
        std::vector<std::string> others;  ///< more nodes that its URI names
    };
    ClientHost(SimWorld& world, ServerHost& server, std::string name, const model::NamespaceSpec& spec,
               const Options& options);
    ~ClientHost();
    ClientHost(const ClientHost&) = delete;
    ClientHost& operator=(const ClientHost&) = delete;

    [[nodiscard]] client::PoolClient& pool() noexcept { return *client_; }
    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] Nanos deadline() const noexcept { return deadline_; }
    [[nodiscard]] bool mapped() const noexcept { return mapped_; }
    [[nodiscard]] bool alive() const noexcept { return alive_; }
    [[nodiscard]] bool frozen() const noexcept { return frozen_; }
    [[nodiscard]] bool acts() const noexcept { return alive_ && !frozen_; }
    /// Connected to everybody who owns blocks.
    [[nodiscard]] bool ready() const {
        const auto status = client_->status();
        return status.ready && status.members_ready == status.members;
    }
    /// Until when a call may be late: a process that did not run could not end it.
    [[nodiscard]] Instant excused_until() const noexcept { return excused_until_; }
    void excuse(Nanos leap = Nanos{0});

    void crash();
    void freeze(bool frozen);
    /// Calls progress() when the next deadline comes; to be called after each start of a call.
    void arm();

private:
    void progress();

    SimWorld& world_;
    ServerHost& server_;
    std::string name_;
    bool mapped_;
    Nanos deadline_;
    std::unique_ptr<client::PoolClient> client_;
    std::shared_ptr<bool> here_ = std::make_shared<bool>(true);
    Instant armed_ = Instant::never();
    Instant excused_until_{};
    bool alive_ = true;
    bool frozen_ = false;
};

}  // namespace cmpool::testing
