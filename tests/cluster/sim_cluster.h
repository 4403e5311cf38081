#pragma once

#include "client_host.h"
#include "history.h"
#include "server_host.h"
#include "universe.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/transport/sim.h>

namespace cmpool::testing {

/// What a seed is made of; drawn from it, or given.
struct Scene {
    transport::SimPlan plan;
    ServerOptions server;
    UniverseOptions universe;
    Expectations expectations;
    std::size_t clients = 4;
    std::size_t spaces = 3;   ///< the first two belong to one tenant, the others to another
    std::size_t members = 1;  ///< servers; the first keeps meta
    std::uint32_t replicas = 1;
    bool spread = false;     ///< those that map memory map one member's only: they run on its host
    std::size_t faults = 0;  ///< deaths, freezes, partitions, crashes, jumps
    Nanos length = std::chrono::milliseconds(300);
    bool removes = true;

    [[nodiscard]] static Scene draw(std::uint64_t seed);
    /// As drawn, but without any fault.
    [[nodiscard]] static Scene kind(std::uint64_t seed);
};

/// Servers, clients and what they do, in one thread, from one seed. After each step of the world
/// everything is checked; at the end faults stop, everybody lets go, and nothing may be left over.
class SimCluster {
public:
    SimCluster(std::uint64_t seed, Scene scene);
    ~SimCluster();

    /// What went wrong and at which step; empty when nothing did.
    [[nodiscard]] std::string run();
    [[nodiscard]] const History& history() const noexcept { return history_; }
    [[nodiscard]] std::uint64_t steps() const noexcept { return steps_; }
    [[nodiscard]] SimWorld& world() noexcept { return world_; }
    [[nodiscard]] ServerHost& server() noexcept { return *servers_.front(); }

private:
    struct Engine;  // a client and the space it works in

    bool step();
    bool run_until(Instant when);
    void settle();
    void gather();
    void check_agreement();
    void check_left_over();
    void prove_life();

    Engine& hire();
    void act(std::size_t engine);
    void call(Engine& engine);
    [[nodiscard]] std::vector<std::size_t> draw_blocks(const Space& space);

    void plan_faults();
    void fault();
    void heal();
    void set_state(const std::string& host, model::MemberState state);
    [[nodiscard]] Engine* somebody();
    [[nodiscard]] ServerHost& any_server() { return *servers_[rng_.below(servers_.size())]; }
    void after(Nanos delay, std::function<void()> action);
    [[nodiscard]] Nanos draw(Nanos most);
    [[nodiscard]] Nanos long_or(Nanos lasts);

    std::uint64_t seed_;
    Scene scene_;
    Rng rng_;
    SimWorld world_;
    std::vector<std::unique_ptr<ServerHost>> servers_;
    std::vector<Space> spaces_;
    History history_;
    std::vector<std::unique_ptr<Engine>> engines_;
    std::uint64_t steps_ = 0;
    bool over_ = false;
};

}  // namespace cmpool::testing
