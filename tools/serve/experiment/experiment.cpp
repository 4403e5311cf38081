#include "experiment.h"

#include "verbs.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>

#include <cmpool/engine/forward.h>

#include <CLI/CLI.hpp>

namespace cmpool::serve {

namespace {

constexpr std::uint64_t kOwnPoolBytesMin = 256 * MiB;
constexpr std::uint32_t kCountMax = 1U << 20;
constexpr std::uint32_t kHandoffTokens = 4096;

struct Verb {
    Experiment what;
    const char* name;
    const char* about;
    bool draws, uses_pool;
    Result<Findings> (*measure)(const Setup& setup);
};

constexpr Verb kVerbs[] = {
    {Experiment::Reuse, "reuse", "Prefill throughput and time to first token by reuse rate", true, true,
     measure_reuse},
    {Experiment::Bandwidth, "bandwidth", "Time to first token by the rate of the way to the pool", true, true,
     measure_bandwidth},
    {Experiment::Cold, "cold", "Time to first token of new prompts, which are stored meanwhile", false, true,
     measure_cold},
    {Experiment::Handoff, "handoff", "Moving KV from prefill to decode, beside a plain copy", false, false,
     measure_handoff},
};

void add_options(CLI::App& verb, const Verb& about, ExperimentOptions& options) {
    verb.add_option("--model", options.model, "A llama2.c file, synthetic, or synthetic:SIZE")
        ->capture_default_str();
    const auto count = [&](const char* name, std::uint32_t& value, const char* what) {
        verb.add_option(name, value, what)->check(CLI::Range(1U, kCountMax))->capture_default_str();
    };
    count("--prompt-tokens", options.prompt_tokens, "Tokens of each prompt");
    count("--rounds", options.rounds, "Times that everything is measured");
    count("--block-tokens", options.block_tokens, "Tokens to a KV block");
    count("--step-tokens", options.step_tokens, "Tokens that are computed together");
    verb.add_option("--threads", options.threads, "Threads that compute a step together")
        ->check(CLI::Range(1U, std::uint32_t{engine::Forward::kThreadsMax}))
        ->capture_default_str();
    verb.add_flag("--json", options.json, "One JSON object a row");
    if (about.draws) verb.add_option("--svg", options.svg, "Draws a picture, too")->type_name("FILE");
    if (!about.uses_pool) return;
    verb.add_option("--pool", options.pool, "A pool on this host; default: a cmpoold of its own")
        ->type_name("URI");
    if (about.what == Experiment::Reuse) count("--prompts", options.prompts, "Prompts in a row");
}

}  // namespace

void Setup::say(const std::string& progress) const {
    if (!options.json) fmt::print(stderr, "\r{:<48}", progress);
}

void add_experiment(CLI::App& app, ExperimentOptions& options, const std::function<void()>& chosen) {
    auto* group = app.add_subcommand("experiment", "Measures what a pool is worth to this engine");
    group->require_subcommand(1);
    for (const Verb& about : kVerbs) {
        const auto own = std::make_shared<ExperimentOptions>();  // defaults differ
        own->what = about.what;
        if (about.what == Experiment::Handoff) own->prompt_tokens = kHandoffTokens;
        auto* verb = group->add_subcommand(about.name, about.about);
        add_options(*verb, about, *own);
        verb->callback([own, &options, chosen] {
            options = *own;
            chosen();
        });
    }
}

Result<void> run_experiment(const ExperimentOptions& options) {
    const auto model = engine::Model::open(options.model);
    if (!model) return fail(model.error());
    if (options.prompt_tokens > model->config().context) {
        return fail(Errc::Invalid, "expected prompts of at most {} tokens, the model's context, saw {}",
                    model->config().context, options.prompt_tokens);
    }
    const auto& verb = *std::ranges::find(kVerbs, options.what, &Verb::what);
    std::unique_ptr<OwnPool> own;
    if (verb.uses_pool && options.pool.empty()) {
        // The document, and what two slices of prompts add; the rest may be evicted.
        const auto shape = model->config().block_shape(options.block_tokens);
        const std::uint64_t prompt_bytes = (options.prompt_tokens / options.block_tokens + 1) * shape.bytes();
        auto started =
            OwnPool::start(std::max(kOwnPoolBytesMin, prompt_bytes * (2 * options.prompts + 2) * 2));
        if (!started) return fail(started.error());
        own = std::move(*started);
    }
    const auto found = verb.measure({options, *model, own ? own->uri() : options.pool});
    if (!options.json) fmt::print(stderr, "\n");
    if (!found) return fail(found.error());
    const std::string& text = options.json ? found->json_lines : found->table;
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (options.svg.empty()) return {};
    std::ofstream file(options.svg);
    file << found->svg;
    file.close();
    if (!file) return fail(Errc::Invalid, "cannot write the picture to \"{}\"", options.svg);
    return {};
}

}  // namespace cmpool::serve
