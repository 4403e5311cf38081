#include "chart.h"
#include "verbs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include <nlohmann/json.hpp>

namespace cmpool::serve {

namespace {

// Of the rate at which loading a block takes as long as computing it; infinite: as fast as it goes.
constexpr double kLineRate = INFINITY;
constexpr std::array kFactors{0.0, 1.0 / 16, 1.0 / 4, 1.0, 4.0, 16.0, 64.0, kLineRate};
constexpr double kReuse = 0.9;
// Loading alone is measured where it takes no longer than so many times computing alone.
constexpr double kLoadMax = 5;
constexpr double kMet = 1.05;

/// One rate: medians. Without a rate it is the line's own; without load_ms, loading alone took too long.
struct BandwidthRow {
    std::optional<std::uint64_t> bytes_per_s;
    double compute_ms = 0, meeting_ms = 0;
    std::optional<double> load_ms;
    double of_best = 0;  ///< meeting by the better of the others, turn by turn: a noisy round is all three's
    double loaded = 0;   ///< of what was there, by the meeting
};

class BandwidthExperiment {
public:
    explicit BandwidthExperiment(const Setup& setup)
        : setup_(setup),
          options_(setup.options),
          known_blocks_(static_cast<std::size_t>(options_.prompt_tokens * kReuse / options_.block_tokens)),
          block_bytes_(setup.model.config().block_shape(options_.block_tokens).bytes()),
          prompts_(setup.model.config().vocab, options_.prompt_tokens) {}

    [[nodiscard]] Result<void> open() {
        auto compute = open_runner("none", std::nullopt, false);
        if (!compute) return fail(compute.error());
        compute_ = std::move(*compute);
        // The first time is that of cold caches.
        for (int warm = 0; warm < 2; ++warm) compute_time_ = compute_->prefill(prompts_.document(), 0);
        for (const double factor : kFactors) {
            if (auto added = add(factor); !added) return added;
        }
        // What is to be loaded must be there.
        (void)points_.back().meeting->prefill(prompts_.document(), 0);
        points_.back().meeting->settle();
        return {};
    }

    std::vector<BandwidthRow> run() {
        // In the first round each cache learns what things cost here.
        for (std::uint32_t round = 0; round <= options_.rounds; ++round) {
            for (std::size_t index = 0; index < points_.size(); ++index) {
                for (std::size_t turn = 0; turn < 3; ++turn)
                    measure(points_[index], (turn + round) % 3, round > 0);
                setup_.say(fmt::format("round {} of {}: {} of {} rates", round, options_.rounds, index + 1,
                                       points_.size()));
            }
        }
        std::vector<BandwidthRow> rows;
        for (const Point& point : points_) {
            rows.push_back({.bytes_per_s = point.bytes_per_s,
                            .compute_ms = median(point.compute_ms),
                            .meeting_ms = median(point.meeting_ms),
                            .of_best = point.of_best(),
                            .loaded = median(point.loaded)});
            if (point.load) rows.back().load_ms = median(point.load_ms);
        }
        return rows;
    }

private:
    struct Point {
        std::optional<std::uint64_t> bytes_per_s;
        std::unique_ptr<Runner> meeting, load;  // load: null where it takes too long
        std::vector<double> compute_ms, load_ms, meeting_ms, loaded;

        /// What is better by its median is what each round's meeting is held against.
        [[nodiscard]] double of_best() const {
            const bool loading = load && median(load_ms) < median(compute_ms);
            const std::vector<double>& best = loading ? load_ms : compute_ms;
            std::vector<double> ratios;
            for (std::size_t round = 0; round < best.size(); ++round)
                ratios.push_back(meeting_ms[round] / best[round]);
            return median(ratios);
        }
    };

    Result<std::unique_ptr<Runner>> open_runner(const std::string& uri, std::optional<std::uint64_t> rate,
                                                bool patient) {
        auto options = runner_options(options_);
        options.prompts = 1;
        options.patient = patient;
        options.load_bytes_per_s = rate;
        return open_engine_runner(setup_.model, uri, options);
    }
    [[nodiscard]] Result<void> add(double factor) {
        const double seconds = milliseconds(compute_time_) / 1e3;
        const double balance =
            double(block_bytes_) * options_.prompt_tokens / options_.block_tokens / seconds;
        Point point;
        if (factor != kLineRate) point.bytes_per_s = static_cast<std::uint64_t>(balance * factor);
        const std::string uri = over(setup_.pool, "shm");
        auto meeting = open_runner(uri, point.bytes_per_s, false);
        if (!meeting) return fail(meeting.error());
        point.meeting = std::move(*meeting);
        if (factor * kLoadMax >= 1) {
            auto load = open_runner(uri, point.bytes_per_s, true);
            if (!load) return fail(load.error());
            point.load = std::move(*load);
        }
        points_.push_back(std::move(point));
        return {};
    }
    void measure(Point& point, std::size_t way, bool counts) {
        Runner* const runners[] = {compute_.get(), point.load.get(), point.meeting.get()};
        std::vector<double>* const samples[] = {&point.compute_ms, &point.load_ms, &point.meeting_ms};
        Runner* runner = runners[way];
        if (runner == nullptr) return;
        const std::size_t known = known_blocks_ * options_.block_tokens;
        const Nanos took = runner->prefill(prompts_.with_prefix(known), known);
        runner->settle();
        if (!counts) return;
        samples[way]->push_back(milliseconds(took));
        if (runner == point.meeting.get())
            point.loaded.push_back(double(runner->reused_tokens()) / double(known));
    }

    const Setup& setup_;
    const ExperimentOptions& options_;
    std::size_t known_blocks_;
    std::uint64_t block_bytes_;
    Prompts prompts_;
    Nanos compute_time_{};
    std::unique_ptr<Runner> compute_;
    std::vector<Point> points_;
};

std::string name_of(const BandwidthRow& row) {
    return row.bytes_per_s ? fmt::format("{:.3g} MB/s", double(*row.bytes_per_s) / 1e6) : "line rate";
}

std::string to_table(const std::vector<BandwidthRow>& rows) {
    std::string out = fmt::format(
        "time to first token, ms; {:g} % of the prompt is in the pool\n{:>12} | {:>10} {:>10} {:>10} | "
        "{:>12} {:>8}\n",
        kReuse * 100, "rate", "computing", "loading", "meeting", "of the best", "loaded");
    for (const BandwidthRow& row : rows) {
        const std::string load = row.load_ms ? fmt::format("{:.1f}", *row.load_ms) : "-";
        out += fmt::format("{:>12} | {:>10.1f} {:>10} {:>10.1f} | {:>12.3f} {:>6.0f} %{}\n", name_of(row),
                           row.compute_ms, load, row.meeting_ms, row.of_best, row.loaded * 100,
                           row.of_best > kMet ? "  above 1.05" : "");
    }
    return out;
}

std::string to_json_lines(const std::vector<BandwidthRow>& rows) {
    std::string out;
    for (const BandwidthRow& row : rows) {
        nlohmann::ordered_json object{{"bytes_per_s", nullptr}, {"compute_ms", row.compute_ms},
                                      {"load_ms", nullptr},     {"meeting_ms", row.meeting_ms},
                                      {"of_best", row.of_best}, {"loaded", row.loaded}};
        if (row.bytes_per_s) object["bytes_per_s"] = *row.bytes_per_s;
        if (row.load_ms) object["load_ms"] = *row.load_ms;
        out += object.dump() + "\n";
    }
    return out;
}

std::string to_svg(const std::vector<BandwidthRow>& rows) {
    const std::vector<Legend> legend{{"computing all", "#888"}, {"loading all", "#15a"}, {"meeting", "#2a7"}};
    std::vector<Panel::Tick> ticks;
    Points computing, loading, meeting, best;
    double most = 0;
    for (std::size_t index = 0; index < rows.size(); ++index) {
        const BandwidthRow& row = rows[index];
        const double at = double(index) / double(rows.size() - 1);
        ticks.push_back(
            {at, row.bytes_per_s ? fmt::format("{:.3g}", double(*row.bytes_per_s) / 1e6) : "line"});
        computing.emplace_back(at, row.compute_ms);
        if (row.load_ms) loading.emplace_back(at, *row.load_ms);
        meeting.emplace_back(at, row.meeting_ms);
        best.emplace_back(at, row.of_best);
        most = std::max({most, row.compute_ms, row.meeting_ms});
    }
    Panel times(70, most * 1.2, "time to first token", " ms", ticks, "rate, MB/s");
    times.curve(computing, legend[0].colour);
    times.curve(loading, legend[1].colour);
    times.curve(meeting, legend[2].colour);
    Panel ratio(570, 1.2, "meeting, by the better of the others", "x", ticks, "rate, MB/s");
    ratio.curve({{0, kMet}, {1, kMet}}, "#c22");
    ratio.curve(best, legend[2].colour);
    return picture(1000, legend, {times, ratio});
}

}  // namespace

Result<Findings> measure_bandwidth(const Setup& setup) {
    BandwidthExperiment experiment(setup);
    if (auto opened = experiment.open(); !opened) return fail(opened.error());
    const auto rows = experiment.run();
    return Findings{to_table(rows), to_json_lines(rows), to_svg(rows)};
}

}  // namespace cmpool::serve
