#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <cmpool/base/result.h>

namespace CLI {
class App;
}

namespace cmpool::serve {

struct ExperimentOptions {
    std::string model = "synthetic";
    std::string pool;  ///< empty: a cmpoold of its own, from the folder of this program
    std::uint32_t prompt_tokens = 1024;
    std::uint32_t prompts = 3;  ///< in a row, of each reuse rate and path, in each round
    std::uint32_t rounds = 3;
    std::uint32_t block_tokens = 16;
    std::uint32_t step_tokens = 128;
    bool json = false;
    std::string svg;  ///< a file for the picture; empty: none
};

enum class Path : std::uint8_t { None, Shm, Tcp, Oracle };
[[nodiscard]] const char* to_string(Path path) noexcept;

/// What one path gave at one reuse rate: medians.
struct ReuseRow {
    double reuse = 0;
    Path path = Path::None;
    double tokens_per_s = 0;  ///< prompt tokens, reused ones too, by the time that a row of prompts took
    double ttft_ms = 0;
};

/// What the paper prints about its own pool (arXiv 2506.12708, sec. 5.4.3, over UB).
struct PaperPoints {
    static constexpr double kThroughputHalf = 1.42;  ///< reuse 50 % by 12.5 %
    static constexpr double kThroughputNine = 2.28;  ///< reuse 90 % by no pool
    static constexpr double kTtftHalf = 1 - 0.34;    ///< reuse 50 % by no pool
    static constexpr double kTtftNine = 1 - 0.59;    ///< reuse 90 % by no pool
};

void add_experiment(CLI::App& app, ExperimentOptions& options, std::function<void()> chosen);
/// Prefill throughput and time to first token by reuse rate: without a pool, over shm, over tcp, and for an
/// oracle whose KV is in its pages already. Paths take turns in each round, so that a machine that gets
/// slower does so for all.
[[nodiscard]] Result<void> run_experiment(const ExperimentOptions& options);

[[nodiscard]] std::string to_table(const std::vector<ReuseRow>& rows);
[[nodiscard]] std::string to_json_lines(const std::vector<ReuseRow>& rows);
[[nodiscard]] std::string to_svg(const std::vector<ReuseRow>& rows);

}  // namespace cmpool::serve
