#pragma once

#include <functional>

#include <cmpool/base/result.h>

namespace CLI {
class App;
}

namespace cmpool::cli {

inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1;
inline constexpr int kUsageError = 2;

/// What the command line chose: a process's exit code, or why there is nothing to show.
using Run = std::function<Result<int>()>;

/// Each adds its verb to the program; parsing fills `run`.
void add_stats(CLI::App& app, Run& run);
void add_put(CLI::App& app, Run& run);
void add_get(CLI::App& app, Run& run);
void add_ls(CLI::App& app, Run& run);
void add_rm(CLI::App& app, Run& run);
void add_exists(CLI::App& app, Run& run);
void add_doctor(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);
void add_node(CLI::App& app, Run& run);
void add_namespace(CLI::App& app, Run& run);
void add_replay(CLI::App& app, Run& run);
void add_metrics(CLI::App& app, Run& run);

}  // namespace cmpool::cli
