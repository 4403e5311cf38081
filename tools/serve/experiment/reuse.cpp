#include "reuse.h"

#include <array>
#include <map>

namespace cmpool::serve {

namespace {

constexpr std::array kRates{0.0, 0.125, 0.25, 0.5, 0.75, 0.9};
constexpr std::size_t kPathCount = std::size(kPaths);

struct Samples {
    std::vector<double> tokens_per_s, ttft_ms;
};

class ReuseExperiment {
public:
    explicit ReuseExperiment(const Setup& setup)
        : setup_(setup),
          options_(setup.options),
          prompts_(setup.model.config().vocab, options_.prompt_tokens) {}

    [[nodiscard]] Result<void> open() {
        for (const Path path : kPaths) {
            const std::string uri = path == Path::None ? "none" : over(setup_.pool, to_string(path));
            auto runner = path == Path::Oracle
                              ? open_oracle_runner(setup_.model, runner_options(options_))
                              : open_engine_runner(setup_.model, uri, runner_options(options_));
            if (!runner) return fail(runner.error());
            runners_.push_back(std::move(*runner));
        }
        return {};
    }

    std::vector<ReuseRow> run() {
        for (std::uint32_t round = 0; round < options_.rounds; ++round) {
            // What is to be reused is made known to all of them, and all caches are warm.
            for (auto& runner : runners_) {
                (void)runner->prefill(prompts_.document(), 0);
                runner->settle();
            }
            // From the longest prefix to the shortest: the oracle's pages are written behind the prefix only.
            for (std::size_t rate = kRates.size(); rate-- > 0;) {
                for (std::size_t turn = 0; turn < kPathCount; ++turn)
                    measure(rate, (turn + round) % kPathCount);
                setup_.say(fmt::format("round {} of {}: reuse {:g} %", round + 1, options_.rounds,
                                       kRates[rate] * 100));
            }
        }
        std::vector<ReuseRow> rows;
        for (std::size_t rate = 0; rate < kRates.size(); ++rate) {
            for (const Path path : kPaths) {
                const Samples& all = samples_[{rate, std::size_t(path)}];
                rows.push_back({kRates[rate], path, median(all.tokens_per_s), median(all.ttft_ms)});
                if (path == Path::Shm) rows.back().of_other = by_turns(rate, path, Path::Oracle);
                if (path == Path::Tcp) rows.back().of_other = by_turns(rate, path, Path::Shm);
            }
        }
        return rows;
    }

private:
    // Turns of one round are seconds apart: what slows the machine down for longer is in both.
    double by_turns(std::size_t rate, Path one, Path other) {
        const auto& above = samples_[{rate, std::size_t(one)}].tokens_per_s;
        const auto& below = samples_[{rate, std::size_t(other)}].tokens_per_s;
        std::vector<double> ratios;
        for (std::size_t round = 0; round < above.size(); ++round)
            ratios.push_back(above[round] / below[round]);
        return median(std::move(ratios));
    }
    void measure(std::size_t rate, std::size_t path) {
        const auto blocks =
            static_cast<std::size_t>(double(options_.prompt_tokens) * kRates[rate] / options_.block_tokens);
        const std::size_t known = blocks * options_.block_tokens;
        std::vector<Tokens> prompts;
        for (std::uint32_t index = 0; index < options_.prompts; ++index)
            prompts.push_back(prompts_.with_prefix(known));
        Samples& samples = samples_[{rate, path}];
        const SystemClock clock;
        const Instant begun = clock.now();
        for (const Tokens& prompt : prompts)
            samples.ttft_ms.push_back(milliseconds(runners_[path]->prefill(prompt, known)));
        const double seconds = milliseconds(clock.now() - begun) / 1e3;
        samples.tokens_per_s.push_back(double(options_.prompt_tokens) * double(prompts.size()) / seconds);
        runners_[path]->settle();
    }

    const Setup& setup_;
    const ExperimentOptions& options_;
    Prompts prompts_;
    std::vector<std::unique_ptr<Runner>> runners_;  // by kPaths
    std::map<std::pair<std::size_t, std::size_t>, Samples> samples_;
};

}  // namespace

const char* to_string(Path path) noexcept {
    constexpr const char* kNames[] = {"none", "shm", "tcp", "oracle"};
    return kNames[static_cast<std::size_t>(path)];
}

Result<Findings> measure_reuse(const Setup& setup) {
    ReuseExperiment experiment(setup);
    if (auto opened = experiment.open(); !opened) return fail(opened.error());
    return print_reuse(experiment.run());
}

}  // namespace cmpool::serve
