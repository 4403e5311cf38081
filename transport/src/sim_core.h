#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/transport/sim.h>

namespace cmpool::transport {

class SimLane;
class SimListener;

/// Memory in the simulation. Shared by the segment that made it and by peers that mapped it, so that
/// nobody ever reads freed memory; what has been destroyed reads as zeros.
struct SimMemory {
    std::uint64_t id = 0;
    Token token;
    Access access = Access::None;
    std::string host;
    std::uint64_t incarnation = 0;  ///< of the host
    MutableBytes bytes;
    std::vector<std::uint64_t> storage;  ///< empty for registered memory
    bool window = false;                 ///< of a process: read directly, never mapped
    bool revoked = false;
    bool destroyed = false;
};

/// The event queue, and what all hosts share.
///
/// Order comes from (instant, number of the event) and from names; never from an address.
class SimCore {
public:
    struct Host {
        std::function<void()> wake;
        std::uint64_t incarnation = 1;
        bool crashed = false;
        bool frozen = false;
        bool wake_due = false;
        Instant woken{INT64_MIN};
        std::int32_t number = 0;  ///< in order of first use, from 1
    };

    SimCore(std::uint64_t seed, SimPlan unkindness) : rng(seed), plan(unkindness) {}

    [[nodiscard]] const Clock& clock() const noexcept { return clock_; }
    [[nodiscard]] Instant now() const noexcept { return clock_.now(); }
    [[nodiscard]] Host& host(const std::string& name);
    /// Of the process that a host is; another one after each crash.
    [[nodiscard]] std::int32_t pid(const std::string& name);

    void at(Instant when, std::function<void()> action);
    bool step();
    void run_until(Instant when);
    void jump(Nanos forward) { clock_.instant = clock_.instant + forward; }

    /// Something happened on the host: its wake() is called soon, once.
    void wake(const std::string& name);
    void freeze(const std::string& name, bool frozen);
    void cut(const std::string& one, const std::string& other, bool cut);
    [[nodiscard]] bool reachable(const std::string& one, const std::string& other) const;
    [[nodiscard]] Nanos draw_delay();

    Rng rng;
    SimPlan plan;
    std::map<std::uint64_t, std::shared_ptr<SimMemory>> memories;
    std::map<std::string, SimListener*> listeners;
    std::map<std::uint64_t, SimLane*> lanes;  ///< by order of creation
    std::uint64_t lanes_made = 0;

private:
    struct SimClock final : Clock {
        [[nodiscard]] Instant now() const noexcept override { return instant; }
        Instant instant{0};
    };

    SimClock clock_;
    std::map<std::pair<Instant, std::uint64_t>, std::function<void()>> events_;
    std::uint64_t events_made_ = 0;
    std::map<std::string, Host> hosts_;
    std::set<std::pair<std::string, std::string>> cuts_;
};

}  // namespace cmpool::transport
