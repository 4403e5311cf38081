#include "verbs.h"

#include <array>

#include <nlohmann/json.hpp>

namespace cmpool::serve {

namespace {

constexpr std::array kPools{"none", "shm", "tcp"};

/// What one way of storing costs those who wait for tokens.
struct ColdRow {
    const char* path = "";
    double ttft_ms = 0;  ///< median
    double of_none = 1;  ///< median of the ratios of each round
};

// Two prompts that nobody has seen follow each other: the first one's store goes on behind the second one's
// computing, whose time is what counts.
Result<std::vector<ColdRow>> measure(const Setup& setup) {
    std::vector<std::unique_ptr<Runner>> runners;
    for (const char* path : kPools) {
        auto options = runner_options(setup.options);
        options.prompts = 2;
        auto runner =
            open_engine_runner(setup.model, path == kPools[0] ? path : over(setup.pool, path), options);
        if (!runner) return fail(runner.error());
        runners.push_back(std::move(*runner));
    }
    Prompts prompts(setup.model.config().vocab, setup.options.prompt_tokens);
    std::array<std::vector<double>, kPools.size()> times, ratios;
    // The first round warms up.
    for (std::uint32_t round = 0; round <= setup.options.rounds; ++round) {
        std::array<double, kPools.size()> now{};
        for (std::size_t turn = 0; turn < kPools.size(); ++turn) {
            const std::size_t path = (turn + round) % kPools.size();
            (void)runners[path]->prefill(prompts.with_prefix(0), 0);
            now[path] = milliseconds(runners[path]->prefill(prompts.with_prefix(0), 0));
            runners[path]->settle();
        }
        for (std::size_t path = 0; round > 0 && path < kPools.size(); ++path) {
            times[path].push_back(now[path]);
            ratios[path].push_back(now[path] / now[0]);
        }
        setup.say(fmt::format("round {} of {}", round, setup.options.rounds));
    }
    std::vector<ColdRow> rows;
    for (std::size_t path = 0; path < kPools.size(); ++path)
        rows.push_back({kPools[path], median(times[path]), median(ratios[path])});
    return rows;
}

}  // namespace

Result<Findings> measure_cold(const Setup& setup) {
    const auto rows = measure(setup);
    if (!rows) return fail(rows.error());
    Findings out{.table =
                     fmt::format("{:>6} | {:>22} | {:>10}\n", "pool", "time to first token, ms", "of none")};
    for (const ColdRow& row : *rows) {
        out.table += fmt::format("{:>6} | {:>23.1f} | {:>10.3f}\n", row.path, row.ttft_ms, row.of_none);
        const nlohmann::ordered_json object{
            {"path", row.path}, {"ttft_ms", row.ttft_ms}, {"of_none", row.of_none}};
        out.json_lines += object.dump() + "\n";
    }
    return out;
}

}  // namespace cmpool::serve
