#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <cmpool/base/result.h>

namespace CLI {
class App;
}

namespace cmpool::serve {

/// What is measured, each by a verb of that name.
enum class Experiment : std::uint8_t { Reuse, Bandwidth, Cold, Handoff };

struct ExperimentOptions {
    Experiment what = Experiment::Reuse;
    std::string model = "synthetic";
    std::string pool;  ///< empty: a cmpoold of its own, from the folder of this program
    std::uint32_t prompt_tokens = 1024;
    std::uint32_t prompts = 2;  ///< in a row, of whatever takes turns
    std::uint32_t rounds = 7;
    std::uint32_t block_tokens = 16;
    std::uint32_t step_tokens = 128;
    std::uint32_t threads = 1;  ///< that compute
    bool json = false;
    std::string svg;  ///< a file for the picture; empty: none
};

/// Errors: Invalid for a prompt that the model has no room for.
void add_experiment(CLI::App& app, ExperimentOptions& options, const std::function<void()>& chosen);
[[nodiscard]] Result<void> run_experiment(const ExperimentOptions& options);

}  // namespace cmpool::serve
