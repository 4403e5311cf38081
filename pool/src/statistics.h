#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <cmpool/model/index_layout.h>

namespace cmpool::pool {

/// A number that is counted, and the name by which people see it.
template <class Counts>
struct Statistic {
    std::string_view name;
    std::uint64_t Counts::*number;
};

inline constexpr Statistic<model::ReadCounts> kReadStatistics[]{
    {"match_calls", &model::ReadCounts::match_calls},
    {"match_blocks_asked", &model::ReadCounts::match_blocks_asked},
    {"match_blocks_hit", &model::ReadCounts::match_blocks_hit},
    {"get_hits", &model::ReadCounts::get_hits},
    {"get_misses", &model::ReadCounts::get_misses},
    {"get_bytes", &model::ReadCounts::get_bytes},
    {"stale_reads", &model::ReadCounts::stale_reads},
    {"broken_seals", &model::ReadCounts::broken_seals},
    {"near_hits", &model::ReadCounts::near_hits},
};

}  // namespace cmpool::pool
