#pragma once

#include "batch.h"

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/client/pool_client.h>

#include <cmpool.h>

namespace cmpool::c {

/// What a pool handle, its leases and its calls share, so that whichever goes last turns off the light.
///
///   Threads  whoever holds `turn`
struct Core {
    std::timed_mutex turn;
    std::unique_ptr<client::PoolClient> client;    ///< none once it is closed
    Nanos deadline{};                              ///< the URI's
    std::uint32_t group_blocks = 0;                ///< the namespace's
    std::size_t calls = 0;                         ///< started, and neither finished nor dropped
    std::vector<const cmpool_call*> puts_started;  ///< of them, at most CMPOOL_PUTS_MAX that are not done
    // Of blocking calls, so that their memory is asked for once.
    GetBatch gets;
    PutBatch puts;
};

}  // namespace cmpool::c

struct cmpool_pool {
    std::shared_ptr<cmpool::c::Core> core;
};

struct cmpool_lease {
    std::shared_ptr<cmpool::c::Core> core;
    cmpool::client::Match match;
};

struct cmpool_call {
    std::shared_ptr<cmpool::c::Core> core;
    std::size_t count = 0;
    cmpool::c::GetBatch gets;
    cmpool::c::PutBatch puts;
    std::vector<cmpool::model::Digest> keys;
    // One of them.
    std::optional<cmpool::client::Pending<cmpool::client::Report>> report;
    std::optional<cmpool::client::Pending<cmpool::client::Match>> match;

    [[nodiscard]] bool done() const noexcept { return report ? report->settled() : match->settled(); }
};

struct cmpool_memory {
    std::shared_ptr<cmpool::c::Core> core;
    std::optional<cmpool::client::Registration> registration;
};

struct cmpool_stats {
    std::vector<cmpool::client::Statistic> all;
};
