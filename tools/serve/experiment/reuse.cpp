#include "experiment.h"

#include "child.h"
#include "roles.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include <cmpool/base/assert.h>
#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/engine/context.h>
#include <cmpool/engine/engine.h>
#include <cmpool/engine/wake.h>

#include <CLI/CLI.hpp>

namespace cmpool::serve {

namespace {

using Tokens = std::vector<std::uint32_t>;

constexpr std::array kRates{0.0, 0.125, 0.25, 0.5, 0.75, 0.9};
constexpr std::array kPaths{Path::None, Path::Shm, Path::Tcp, Path::Oracle};
constexpr std::uint64_t kOwnPoolBytesMin = 256 * MiB;
constexpr Nanos kSettleLimit = std::chrono::seconds(30);
constexpr Nanos kPoolStopLimit = std::chrono::seconds(10);

/// A cmpoold on a port of its own, and its folders, both gone afterwards.
class OwnPool {
public:
    [[nodiscard]] static Result<std::unique_ptr<OwnPool>> start(std::uint64_t capacity_bytes) {
        auto folder = make_runtime_dir();
        if (!folder) return fail(folder.error());
        auto pool = std::unique_ptr<OwnPool>(new OwnPool(std::move(*folder), capacity_bytes));
        if (auto started = pool->child_.start(); !started) return fail(started.error());
        auto uri = pool->child_.ready();
        if (!uri) return fail(uri.error().code, "{}; is cmpoold beside this program?", uri.error().detail);
        pool->uri_ = std::move(*uri);
        return pool;
    }
    ~OwnPool() {
        child_.ask_to_stop();
        child_.stop(SystemClock().now() + kPoolStopLimit);
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
    [[nodiscard]] const std::string& uri() const noexcept { return uri_; }

private:
    OwnPool(std::string folder, std::uint64_t capacity_bytes)
        : folder_(std::move(folder)),
          child_(
              program_beside("cmpoold"),
              {"cmpoold", "--listen", "127.0.0.1:0", "--capacity", fmt::format("{}", capacity_bytes),
               "--runtime-dir", folder_ + "/run", "--data-dir", folder_ + "/data", "--log-level", "warn"}) {}

    std::string folder_, uri_;
    Child child_;
};

/// One way to prefill.
class Runner {
public:
    virtual ~Runner() = default;
    /// Returns the time from the prompt's arrival to its first token, whose `known` first tokens are cached.
    virtual Nanos prefill(const Tokens& prompt, std::size_t known) = 0;
    /// Until nothing goes on in the background.
    virtual void settle() {}
};

/// The engine as it is, with or without a pool.
class EngineRunner final : public Runner {
public:
    [[nodiscard]] static Result<std::unique_ptr<Runner>> open(const engine::Model& model,
                                                              const std::string& pool,
                                                              const ExperimentOptions& options) {
        auto runner = std::unique_ptr<EngineRunner>(new EngineRunner);
        const std::uint32_t blocks =
            (options.prompt_tokens / options.block_tokens + 2) * (options.prompts + 1);
        auto kv = engine::PagedKv::create(model.config().block_shape(options.block_tokens), blocks);
        if (!kv) return fail(kv.error());
        runner->kv_ = std::make_unique<engine::PagedKv>(std::move(*kv));
        auto cache = engine::open_cache(pool, model, *runner->kv_,
                                        {.on_progress = [wake = &runner->wake_] { wake->notify(); }});
        if (!cache) return fail(cache.error());
        runner->cache_ = std::move(*cache);
        runner->engine_ = std::make_unique<engine::Engine>(
            model, *runner->kv_, runner->cache_.get(), runner->clock_,
            engine::EngineOptions{.scheduler = {.step_tokens = options.step_tokens,
                                                .running_max = 1,
                                                .waiting_max = 1,
                                                .context = model.config().context}});
        return runner;
    }

    Nanos prefill(const Tokens& prompt, std::size_t) override {
        const Instant begun = clock_.now();
        const auto id = next_++;
        CMPOOL_ASSERT(engine_->submit({.id = id, .prompt = prompt}, engine::Start::Here));
        while (true) {
            const auto turn = engine_->turn();
            if (!turn.emissions.empty()) break;
            if (!turn.computed && turn.look_again) wake_.wait(*turn.look_again);
        }
        const Nanos took = clock_.now() - begun;
        engine_->release(id);
        return took;
    }
    void settle() override {
        constexpr Nanos kLook = std::chrono::milliseconds(1);
        for (const Instant until = clock_.now() + kSettleLimit;
             engine_->closing() > 0 && clock_.now() < until;) {
            (void)engine_->turn();
            if (engine_->closing() > 0) wake_.wait(kLook);
        }
    }

private:
    SystemClock clock_;
    engine::Wake wake_;
    std::unique_ptr<engine::PagedKv> kv_;
    std::unique_ptr<client::ContextCache> cache_;
    std::unique_ptr<engine::Engine> engine_;
    engine::SequenceId next_ = 1;
};

/// Whatever is reused is in its pages already: nothing can be faster with the same arithmetic.
class OracleRunner final : public Runner {
public:
    [[nodiscard]] static Result<std::unique_ptr<Runner>> open(const engine::Model& model,
                                                              const ExperimentOptions& options) {
        auto runner = std::unique_ptr<OracleRunner>(new OracleRunner);
        const std::uint32_t blocks = options.prompt_tokens / options.block_tokens + 2;
        auto kv = engine::PagedKv::create(model.config().block_shape(options.block_tokens), blocks);
        if (!kv) return fail(kv.error());
        runner->kv_ = std::make_unique<engine::PagedKv>(std::move(*kv));
        runner->table_ = std::make_unique<engine::BlockTable>(*runner->kv_);
        if (auto reserved = runner->table_->reserve(options.prompt_tokens); !reserved)
            return fail(reserved.error());
        runner->forward_ = std::make_unique<engine::Forward>(model, *runner->kv_, options.step_tokens);
        return runner;
    }

    // A prompt writes behind its prefix only, so shorter prefixes follow longer ones.
    Nanos prefill(const Tokens& prompt, std::size_t known) override {
        const Instant begun = clock_.now();
        for (std::size_t start = known; start < prompt.size();) {
            const std::size_t count = std::min(forward_->rows_max(), prompt.size() - start);
            const engine::Slice slice{std::span(prompt).subspan(start, count), start, table_->blocks()};
            forward_->step({&slice, 1});
            start += count;
        }
        first_token_ = engine::argmax(forward_->logits(0));
        return clock_.now() - begun;
    }

private:
    SystemClock clock_;
    std::unique_ptr<engine::PagedKv> kv_;
    std::unique_ptr<engine::BlockTable> table_;
    std::unique_ptr<engine::Forward> forward_;
    std::uint32_t first_token_ = 0;
};

struct Samples {
    std::vector<double> tokens_per_s, ttft_ms;
};

double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

class Experiment {
public:
    Experiment(const engine::Model& model, const ExperimentOptions& options)
        : options_(options), vocab_(model.config().vocab), document_(fresh(options.prompt_tokens)) {}

    [[nodiscard]] Result<void> open(const engine::Model& model, const std::string& pool) {
        for (const Path path : kPaths) {
            const char joint = pool.find('?') == std::string::npos ? '?' : '&';
            const std::string uri = path == Path::None ? "none"
                                                       : fmt::format("{}{}transport={}&deadline_ms=2000",
                                                                     pool, joint, to_string(path));
            auto runner = path == Path::Oracle ? OracleRunner::open(model, options_)
                                               : EngineRunner::open(model, uri, options_);
            if (!runner) return fail(runner.error());
            runners_.push_back(std::move(*runner));
        }
        return {};
    }

    std::vector<ReuseRow> run() {
        for (std::uint32_t round = 0; round < options_.rounds; ++round) {
            // What is to be reused is made known to all of them, and all caches are warm.
            for (auto& runner : runners_) {
                (void)runner->prefill(document_, 0);
                runner->settle();
            }
            // From the longest prefix to the shortest: the oracle's pages are written behind the prefix only.
            for (std::size_t rate = kRates.size(); rate-- > 0;) {
                for (std::size_t turn = 0; turn < kPaths.size(); ++turn)
                    measure(rate, (turn + round) % kPaths.size());
                say(fmt::format("round {} of {}: reuse {:g} %", round + 1, options_.rounds,
                                kRates[rate] * 100));
            }
        }
        if (!options_.json) fmt::print(stderr, "\n");
        std::vector<ReuseRow> rows;
        for (std::size_t rate = 0; rate < kRates.size(); ++rate) {
            for (std::size_t path = 0; path < kPaths.size(); ++path) {
                const Samples& all = samples_[{rate, path}];
                rows.push_back({kRates[rate], kPaths[path], median(all.tokens_per_s), median(all.ttft_ms)});
            }
        }
        return rows;
    }

private:
    [[nodiscard]] Tokens fresh(std::size_t count) {
        Tokens tokens(count);
        for (auto& token : tokens) token = static_cast<std::uint32_t>(rng_.below(vocab_));
        return tokens;
    }
    void measure(std::size_t rate, std::size_t path) {
        const auto blocks =
            static_cast<std::size_t>(double(document_.size()) * kRates[rate] / options_.block_tokens);
        const std::size_t known = blocks * options_.block_tokens;
        std::vector<Tokens> prompts;
        for (std::uint32_t index = 0; index < options_.prompts; ++index) {
            prompts.push_back(fresh(document_.size()));
            std::copy_n(document_.begin(), known, prompts.back().begin());
        }
        Samples& samples = samples_[{rate, path}];
        const Instant begun = clock_.now();
        for (const Tokens& prompt : prompts)
            samples.ttft_ms.push_back(
                std::chrono::duration<double, std::milli>(runners_[path]->prefill(prompt, known)).count());
        const double seconds = std::chrono::duration<double>(clock_.now() - begun).count();
        samples.tokens_per_s.push_back(double(document_.size()) * double(prompts.size()) / seconds);
        runners_[path]->settle();
    }
    void say(const std::string& progress) const {
        if (!options_.json) fmt::print(stderr, "\r{:<40}", progress);
    }

    const ExperimentOptions& options_;
    SystemClock clock_;
    Rng rng_{1};
    std::uint32_t vocab_;
    Tokens document_;
    std::vector<std::unique_ptr<Runner>> runners_;  // by kPaths
    std::map<std::pair<std::size_t, std::size_t>, Samples> samples_;
};

}  // namespace

const char* to_string(Path path) noexcept {
    constexpr const char* kNames[] = {"none", "shm", "tcp", "oracle"};
    return kNames[static_cast<std::size_t>(path)];
}

void add_experiment(CLI::App& app, ExperimentOptions& options, std::function<void()> chosen) {
    auto* verb = app.add_subcommand("experiment", "Measures what a pool is worth to this engine");
    verb->require_subcommand(1);
    auto* reuse = verb->add_subcommand("reuse", "Prefill throughput and time to first token by reuse rate");
    reuse->add_option("--model", options.model, "A llama2.c file, synthetic, or synthetic:SIZE")
        ->capture_default_str();
    reuse->add_option("--pool", options.pool, "A pool on this host; default: a cmpoold of its own")
        ->type_name("URI");
    const auto count = [&](const char* name, std::uint32_t& value, const char* what) {
        reuse->add_option(name, value, what)->check(CLI::Range(1U, 1U << 20))->capture_default_str();
    };
    count("--prompt-tokens", options.prompt_tokens, "Tokens of each prompt");
    count("--prompts", options.prompts, "Prompts in a row");
    count("--rounds", options.rounds, "Times that everything is measured");
    count("--block-tokens", options.block_tokens, "Tokens to a KV block");
    count("--step-tokens", options.step_tokens, "Tokens that are computed together");
    reuse->add_flag("--json", options.json, "One JSON object a row");
    reuse->add_option("--svg", options.svg, "Draws a picture, too")->type_name("FILE");
    reuse->callback(std::move(chosen));
}

Result<void> run_experiment(const ExperimentOptions& options) {
    const auto model = engine::Model::open(options.model);
    if (!model) return fail(model.error());
    if (options.prompt_tokens > model->config().context) {
        return fail(Errc::Invalid, "expected prompts of at most {} tokens, the model's context, saw {}",
                    model->config().context, options.prompt_tokens);
    }
    const auto shape = model->config().block_shape(options.block_tokens);
    const std::uint64_t prompt_bytes = (options.prompt_tokens / options.block_tokens + 1) * shape.bytes();
    std::unique_ptr<OwnPool> own;
    if (options.pool.empty()) {
        // The document, and what two slices of prompts add; the rest may be evicted.
        auto started =
            OwnPool::start(std::max(kOwnPoolBytesMin, prompt_bytes * (2 * options.prompts + 2) * 2));
        if (!started) return fail(started.error());
        own = std::move(*started);
    }
    std::vector<ReuseRow> rows;
    {
        Experiment experiment(*model, options);
        if (auto opened = experiment.open(*model, own ? own->uri() : options.pool); !opened) return opened;
        rows = experiment.run();
    }
    const std::string text = options.json ? to_json_lines(rows) : to_table(rows);
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (options.svg.empty()) return {};
    std::ofstream file(options.svg);
    file << to_svg(rows);
    file.close();
    if (!file) return fail(Errc::Invalid, "cannot write the picture to \"{}\"", options.svg);
    return {};
}

}  // namespace cmpool::serve
