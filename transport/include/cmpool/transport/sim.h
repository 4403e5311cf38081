#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/transport/fabric.h>

namespace cmpool::transport {

/// How unkind the simulated network is. Times in nanoseconds, probabilities per message or operation.
struct SimPlan {
    Nanos delay_min{5'000};
    Nanos delay_max{50'000};
    double lose_message = 0;
    double reorder_message = 0;  ///< a message may be overtaken by later ones of its lane
    double delay_long = 0;       ///< a message takes up to 100 times delay_max
    double break_lane = 0;       ///< the lane fails at both ends
    /// A Read or Write happens in pieces of `piece_bytes`, in any order, spread over its delay: so
    /// that a reader sees what a real fabric may show it.
    std::uint64_t piece_bytes = 64;
};

/// What a simulated fabric can do, after a real one.
enum class SimProfile : std::uint8_t {
    Mapped,    ///< like shm: segments can be mapped, process windows read
    Messages,  ///< like tcp: everything is executed by the target's lane
    OneSided,  ///< like verbs: reads and writes without the target, nothing mapped
};

/// A network, its hosts and their clock, in one thread, from one seed.
///
///   Lifetime  outlives every fabric, lane and segment made from it
///   Threads   one
class SimWorld {
public:
    explicit SimWorld(std::uint64_t seed, SimPlan plan = {});
    ~SimWorld();
    SimWorld(const SimWorld&) = delete;
    SimWorld& operator=(const SimWorld&) = delete;

    [[nodiscard]] const Clock& clock() const noexcept;
    [[nodiscard]] Rng& rng() noexcept;
    [[nodiscard]] SimPlan& plan() noexcept;  ///< may be changed while it runs

    /// A back end on `host`; two fabrics of one host share its fate. Addresses are free text.
    [[nodiscard]] std::unique_ptr<Fabric> open(std::string host, SimProfile profile);

    /// A host is one process: this is what PeerIdentity::pid shows of it on Mapped lanes.
    [[nodiscard]] std::int32_t pid(const std::string& host);

    /// Called, once an instant at most, after something happened on `host` that receive(), poll() or
    /// accept() would show.
    void on_wake(const std::string& host, std::function<void()> wake);
    void at(Instant when, std::function<void()> action);

    /// Runs what comes next; false when nothing is left to happen.
    bool step();
    /// Runs until `when`; the clock then shows `when`.
    void run_until(Instant when);

    void crash(const std::string& host);                ///< its lanes fail at the other end
    void freeze(const std::string& host, bool frozen);  ///< nothing wakes it; its lanes stay up
    void partition(const std::string& one, const std::string& other, bool cut);
    void jump(Nanos forward);  ///< the clock leaps, as after a suspended virtual machine

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace cmpool::transport
