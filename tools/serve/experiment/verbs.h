#pragma once

#include "experiment.h"
#include "runner.h"

#include <string>

#include <cmpool/base/result.h>
#include <cmpool/engine/model.h>

namespace cmpool::serve {

/// What an experiment found: for people, for programs, and as a picture, which not all have.
struct Findings {
    std::string table, json_lines, svg;
};

/// What every experiment is given. `pool` is the URI of a pool; empty where the experiment needs none.
struct Setup {
    const ExperimentOptions& options;
    const engine::Model& model;
    std::string pool;

    /// To a person who waits.
    void say(const std::string& progress) const;
};

/// Prefill throughput and time to first token by reuse rate: without a pool, over shm, over tcp, and for an
/// oracle whose KV is in its pages already. Paths take turns in each round, so that a machine that gets
/// slower does so for all.
[[nodiscard]] Result<Findings> measure_reuse(const Setup& setup);
/// Time to first token of a prompt that is in the pool but for its end, by the rate of the way to the pool:
/// computing all of it, loading all that is there, and meeting in the middle.
[[nodiscard]] Result<Findings> measure_bandwidth(const Setup& setup);
/// Time to first token of a prompt that nobody has seen, while the one before it is still being stored.
[[nodiscard]] Result<Findings> measure_cold(const Setup& setup);
/// What moving a prompt's KV pages from a prefill to a decode process takes, beside a plain copy of as many
/// bytes between such pages.
[[nodiscard]] Result<Findings> measure_handoff(const Setup& setup);

}  // namespace cmpool::serve
