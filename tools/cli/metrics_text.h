#pragma once

#include <string>
#include <vector>

#include <cmpool/client/pool_client.h>

namespace cmpool::cli {

/// What members count, for Prometheus: a sample for each statistic and member, as
/// cmpool_NAME{member="NODE"}; those of one namespace, domain or kind of message share a name and carry what
/// they are about as a label. cmpool_up says who answered.
///
///   Source  Prometheus text format 0.0.4. Statistics say no type, so no sample has one.
[[nodiscard]] std::string metrics_text(const std::vector<client::MemberStatistics>& members,
                                       std::uint64_t epoch);

}  // namespace cmpool::cli
