#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <cmpool/client/pool_client.h>

namespace cmpool::cli {

enum class Health : std::uint8_t { Ok, Warn, Fail };

/// One thing that was looked at.
struct Check {
    std::string name;
    Health health = Health::Ok;
    std::string detail;  ///< what was seen, a sentence
    std::string advice;  ///< what to do about it, or what it costs; may be empty
};
using Checks = std::vector<Check>;

/// This host, whether or not a pool answers: the clock.
void check_host(Checks& checks);
/// Memory of a pool that is on this host, its folder included.
void check_local_memory(Checks& checks, const client::Status& status);
/// Versions, transport, trust, and what the pool has counted.
void check_pool(Checks& checks, client::PoolClient& pool, const client::PoolUri& uri);
/// A block goes in, is found, comes back and is removed, with the time that each took.
void check_round_trip(Checks& checks, client::PoolClient& pool);

}  // namespace cmpool::cli
