#pragma once

#include <memory>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/client/environment.h>
#include <cmpool/client/pool_client.h>

namespace cmpool::client {

/// The segment of a registered buffer, and what keeps its fabric alive.
struct Registration::State {
    std::shared_ptr<transport::Fabric> fabric;
    std::unique_ptr<transport::Segment> segment;
};

/// Memory of ours that pools on this host may read: registered by the engine, or for one put.
///
///   Threads  one
class Windows {
public:
    explicit Windows(const Environment& environment)
        : local_(environment.local), network_(environment.network) {}

    [[nodiscard]] Result<Registration> register_buffer(MutableBytes memory);
    /// A segment that covers `memory`: registered before, or made now.
    [[nodiscard]] Result<std::shared_ptr<transport::Segment>> over(Bytes memory);

private:
    std::shared_ptr<transport::Fabric> local_;
    std::shared_ptr<transport::Fabric> network_;
    std::vector<std::weak_ptr<Registration::State>> registrations_;
};

}  // namespace cmpool::client
