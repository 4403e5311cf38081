#include "runner.h"

#include "roles.h"

#include <algorithm>
#include <filesystem>

#include <cmpool/base/assert.h>
#include <cmpool/engine/context.h>
#include <cmpool/engine/engine.h>
#include <cmpool/engine/wake.h>

namespace cmpool::serve {

namespace {

constexpr Nanos kSettleLimit = std::chrono::seconds(30);
constexpr Nanos kPoolStopLimit = std::chrono::seconds(10);

class EngineRunner final : public Runner {
public:
    [[nodiscard]] static Result<std::unique_ptr<Runner>> open(const engine::Model& model,
                                                              const std::string& uri,
                                                              const RunnerOptions& options) {
        auto runner = std::unique_ptr<EngineRunner>(new EngineRunner);
        const std::uint32_t blocks = (options.prompt_tokens / options.block_tokens + 2) * options.prompts;
        auto kv = engine::PagedKv::create(model.config().block_shape(options.block_tokens), blocks);
        if (!kv) return fail(kv.error());
        runner->kv_ = std::make_unique<engine::PagedKv>(std::move(*kv));
        auto cache = engine::open_cache(uri, model, *runner->kv_,
                                        {.on_progress = [wake = &runner->wake_] { wake->notify(); },
                                         .patient = options.patient,
                                         .load_bytes_per_s = options.load_bytes_per_s});
        if (!cache) return fail(cache.error());
        runner->cache_ = std::move(*cache);
        runner->engine_ = std::make_unique<engine::Engine>(
            model, *runner->kv_, runner->cache_.get(), runner->clock_,
            engine::EngineOptions{.scheduler = {.step_tokens = options.step_tokens,
                                                .running_max = 1,
                                                .waiting_max = 1,
                                                .context = model.config().context},
                                  .threads = options.threads});
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
        reused_tokens_ = engine_->progress(id).reused_tokens;
        engine_->release(id);
        return took;
    }
    std::size_t reused_tokens() const override { return reused_tokens_; }
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
    std::size_t reused_tokens_ = 0;
};

class OracleRunner final : public Runner {
public:
    [[nodiscard]] static Result<std::unique_ptr<Runner>> open(const engine::Model& model,
                                                              const RunnerOptions& options) {
        auto runner = std::unique_ptr<OracleRunner>(new OracleRunner);
        const std::uint32_t blocks = options.prompt_tokens / options.block_tokens + 2;
        auto kv = engine::PagedKv::create(model.config().block_shape(options.block_tokens), blocks);
        if (!kv) return fail(kv.error());
        runner->kv_ = std::make_unique<engine::PagedKv>(std::move(*kv));
        runner->table_ = std::make_unique<engine::BlockTable>(*runner->kv_);
        if (auto reserved = runner->table_->reserve(options.prompt_tokens); !reserved)
            return fail(reserved.error());
        runner->forward_ =
            std::make_unique<engine::Forward>(model, *runner->kv_, options.step_tokens, options.threads);
        return runner;
    }

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

}  // namespace

RunnerOptions runner_options(const ExperimentOptions& options) {
    return {.prompt_tokens = options.prompt_tokens,
            .block_tokens = options.block_tokens,
            .step_tokens = options.step_tokens,
            .threads = options.threads,
            .prompts = options.prompts + 1};
}

Result<std::unique_ptr<Runner>> open_engine_runner(const engine::Model& model, const std::string& uri,
                                                   const RunnerOptions& options) {
    return EngineRunner::open(model, uri, options);
}

Result<std::unique_ptr<Runner>> open_oracle_runner(const engine::Model& model, const RunnerOptions& options) {
    return OracleRunner::open(model, options);
}

Tokens Prompts::fresh(std::size_t count) {
    Tokens tokens(count);
    for (auto& token : tokens) token = static_cast<std::uint32_t>(rng_.below(vocab_));
    return tokens;
}

Tokens Prompts::with_prefix(std::size_t known) {
    Tokens tokens = fresh(document_.size());
    std::copy_n(document_.begin(), known, tokens.begin());
    return tokens;
}

Result<std::unique_ptr<OwnPool>> OwnPool::start(std::uint64_t capacity_bytes) {
    auto folder = make_runtime_dir();
    if (!folder) return fail(folder.error());
    auto pool = std::unique_ptr<OwnPool>(new OwnPool(std::move(*folder), capacity_bytes));
    if (auto started = pool->child_.start(); !started) return fail(started.error());
    auto uri = pool->child_.ready();
    if (!uri) return fail(uri.error().code, "{}; is cmpoold beside this program?", uri.error().detail);
    pool->uri_ = std::move(*uri);
    return pool;
}

OwnPool::OwnPool(std::string folder, std::uint64_t capacity_bytes)
    : folder_(std::move(folder)),
      child_(program_beside("cmpoold"),
             {"cmpoold", "--listen", "127.0.0.1:0", "--capacity", fmt::format("{}", capacity_bytes),
              "--runtime-dir", folder_ + "/run", "--data-dir", folder_ + "/data", "--log-level", "warn"}) {}

OwnPool::~OwnPool() {
    child_.ask_to_stop();
    child_.stop(SystemClock().now() + kPoolStopLimit);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
}

std::string over(const std::string& uri, const char* transport) {
    const char joint = uri.find('?') == std::string::npos ? '?' : '&';
    return fmt::format("{}{}transport={}&deadline_ms=2000", uri, joint, transport);
}

double median(std::vector<double> values) {
    std::ranges::sort(values);
    const std::size_t middle = values.size() / 2;
    return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double milliseconds(Nanos time) { return std::chrono::duration<double, std::milli>(time).count(); }

}  // namespace cmpool::serve
