#include "experiment.h"

#include <CLI/CLI.hpp>

namespace cmpool::serve {

void add_experiment(CLI::App&, ExperimentOptions&, std::function<void()>) {}
Result<void> run_experiment(const ExperimentOptions&) { return {}; }

}  // namespace cmpool::serve
