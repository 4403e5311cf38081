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
    std::string pool;  ///< empty: a cmpoold of its own, beside this program
    std::uint32_t prompt_tokens = 1024;
    std::uint32_t prompts = 4;  ///< of each reuse rate and path; each has tokens of its own
    std::uint32_t block_tokens = 16;
    std::uint32_t step_tokens = 128;
    bool json = false;
    std::string svg;  ///< a file for the picture; empty: none
};

void add_experiment(CLI::App& app, ExperimentOptions& options, std::function<void()> chosen);
/// Prefill throughput and time to first token by reuse rate, without a pool, over shm, over tcp, and for an
/// oracle whose KV is in its pages already: the paper's context caching experiment.
[[nodiscard]] Result<void> run_experiment(const ExperimentOptions& options);

}  // namespace cmpool::serve
