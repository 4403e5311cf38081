#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/transport/fabric.h>

namespace cmpool::client {

/// How a blocking call waits.
class Waiter {
public:
    virtual ~Waiter() = default;
    /// Returns when something may have happened on one of the lanes, or at `until`, or earlier.
    virtual void wait(std::span<transport::Lane* const> lanes, Instant until) = 0;
    /// Whether to look again at once instead, after so long; if so, others had the processor meanwhile.
    [[nodiscard]] virtual bool spin(Nanos) { return false; }
    /// What a call waited for came after so long.
    virtual void waited(Nanos) {}
};

/// The fabrics that read a pool's memory one-sided, each opened when somebody first has a use for it.
///
///   Threads  one
class Planes {
public:
    virtual ~Planes() = default;
    /// Errors: Unsupported where this host has none of that name.
    [[nodiscard]] virtual Result<std::shared_ptr<transport::Fabric>> open(std::string_view name,
                                                                          Entropy& entropy);
    [[nodiscard]] const std::vector<std::shared_ptr<transport::Fabric>>& opened() const noexcept {
        return opened_;
    }

protected:
    std::map<std::string, std::shared_ptr<transport::Fabric>, std::less<>> by_name_;
    std::vector<std::shared_ptr<transport::Fabric>> opened_;
};

/// What a client is given by whoever wires it: all that a test wants to own.
///
///   Lifetime  shared, so that a Match that outlives its client keeps its memory mapped
struct Environment {
    std::shared_ptr<const Clock> clock;
    std::shared_ptr<Entropy> entropy;
    std::shared_ptr<transport::Fabric> network;  ///< where URIs lead
    std::shared_ptr<transport::Fabric> local;    ///< where Welcome::local_address leads; may be null
    std::shared_ptr<Waiter> waiter;
    std::shared_ptr<Planes> planes;  ///< where Welcome::planes leads; may be null
};

/// The machine's own: tcp, shm, poll(2), and what planes it has.
[[nodiscard]] Environment system_environment();

}  // namespace cmpool::client
