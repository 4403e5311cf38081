#pragma once

#include "verbs.h"

#include <cstdint>
#include <string>
#include <vector>

namespace cmpool::serve {

enum class Path : std::uint8_t { None, Shm, Tcp, Oracle };
inline constexpr Path kPaths[] = {Path::None, Path::Shm, Path::Tcp, Path::Oracle};
[[nodiscard]] const char* to_string(Path path) noexcept;

/// What one path gave at one reuse rate: medians.
struct ReuseRow {
    double reuse = 0;
    Path path = Path::None;
    double tokens_per_s = 0;  ///< prompt tokens, reused ones too, by the time that a row of prompts took
    double ttft_ms = 0;
    double of_other = 1;  ///< tokens_per_s: shm's of the oracle's, tcp's of shm's, by turns of one round
};

/// What the paper prints about its own pool (arXiv 2506.12708, sec. 5.4.3, over UB).
struct PaperPoints {
    static constexpr double kThroughputHalf = 1.42;  ///< reuse 50 % by 12.5 %
    static constexpr double kThroughputNine = 2.28;  ///< reuse 90 % by no pool
    static constexpr double kTtftHalf = 1 - 0.34;    ///< reuse 50 % by no pool
    static constexpr double kTtftNine = 1 - 0.59;    ///< reuse 90 % by no pool
};

[[nodiscard]] Findings print_reuse(const std::vector<ReuseRow>& rows);

}  // namespace cmpool::serve
