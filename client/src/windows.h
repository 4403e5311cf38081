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
    MutableBytes memory;
    std::shared_ptr<transport::Fabric> fabric;
    std::unique_ptr<transport::Segment> segment;  ///< none where there is no local fabric
    /// What one-sided reads land in without a copy.
    std::vector<std::pair<std::shared_ptr<transport::Fabric>, std::unique_ptr<transport::Segment>>> landings;
};

/// Memory of ours that pools on this host may read: registered by the engine, or for one put.
///
///   Threads  one
class Windows {
public:
    explicit Windows(const Environment& environment)
        : local_(environment.local), network_(environment.network), planes_(environment.planes) {}

    [[nodiscard]] Result<Registration> register_buffer(MutableBytes memory);
    /// A segment that covers `memory`: registered before, or made now.
    [[nodiscard]] Result<std::shared_ptr<transport::Segment>> over(Bytes memory);
    /// Tells planes that have been opened meanwhile what is registered.
    void follow_planes();

private:
    static void land_in(Registration::State& state, const std::shared_ptr<transport::Fabric>& plane);

    std::shared_ptr<transport::Fabric> local_;
    std::shared_ptr<transport::Fabric> network_;
    std::shared_ptr<Planes> planes_;
    std::size_t planes_known_ = 0;
    std::vector<std::weak_ptr<Registration::State>> registrations_;
};

}  // namespace cmpool::client
