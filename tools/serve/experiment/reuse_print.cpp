#include "chart.h"
#include "reuse.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace cmpool::serve {

namespace {

const ReuseRow& row_of(const std::vector<ReuseRow>& rows, double reuse, Path path) {
    return *std::ranges::find_if(rows,
                                 [&](const ReuseRow& row) { return row.reuse == reuse && row.path == path; });
}

std::vector<double> rates_of(const std::vector<ReuseRow>& rows) {
    std::vector<double> rates;
    for (const ReuseRow& row : rows) {
        if (row.path == Path::None) rates.push_back(row.reuse);
    }
    return rates;
}

std::string to_json_lines(const std::vector<ReuseRow>& rows) {
    std::string out;
    for (const ReuseRow& row : rows) {
        const nlohmann::ordered_json object{{"reuse", row.reuse},
                                            {"path", to_string(row.path)},
                                            {"prefill_tokens_per_s", row.tokens_per_s},
                                            {"ttft_ms", row.ttft_ms}};
        out += object.dump() + "\n";
    }
    return out;
}

std::string to_table(const std::vector<ReuseRow>& rows) {
    std::string out = fmt::format("{:>8} | {:^39} | {:^39} | {:>10} {:>10}\n{:>8} |", "", "prefill tokens/s",
                                  "time to first token, ms", "shm of", "tcp of", "reuse");
    for (int twice = 0; twice < 2; ++twice) {
        for (const Path path : kPaths) out += fmt::format("{:>9}", to_string(path));
        out += "     |";
    }
    out += fmt::format(" {:>10} {:>10}\n", "oracle", "shm");
    for (const double rate : rates_of(rows)) {
        out += fmt::format("{:>6g} % |", rate * 100);
        for (const Path path : kPaths) out += fmt::format("{:>9.0f}", row_of(rows, rate, path).tokens_per_s);
        out += "     |";
        for (const Path path : kPaths) out += fmt::format("{:>9.1f}", row_of(rows, rate, path).ttft_ms);
        out += fmt::format("     | {:>10.3f} {:>10.3f}\n", row_of(rows, rate, Path::Shm).of_other,
                           row_of(rows, rate, Path::Tcp).of_other);
    }
    const auto shm = [&](double rate) { return row_of(rows, rate, Path::Shm); };
    const auto none = [&](double rate) { return row_of(rows, rate, Path::None); };
    out += fmt::format("\n{:<52}{:>8}{:>8}\n", "", "here", "paper");
    const auto compare = [&](const char* what, double here, double paper) {
        out += fmt::format("{:<52}{:>8.2f}{:>8.2f}\n", what, here, paper);
    };
    compare("throughput, reuse 50 % by 12.5 %", shm(0.5).tokens_per_s / shm(0.125).tokens_per_s,
            PaperPoints::kThroughputHalf);
    compare("throughput, reuse 90 % by no pool", shm(0.9).tokens_per_s / none(0.9).tokens_per_s,
            PaperPoints::kThroughputNine);
    compare("time to first token, reuse 50 % by no pool", shm(0.5).ttft_ms / none(0.5).ttft_ms,
            PaperPoints::kTtftHalf);
    compare("time to first token, reuse 90 % by no pool", shm(0.9).ttft_ms / none(0.9).ttft_ms,
            PaperPoints::kTtftNine);
    return out;
}

std::string to_svg(const std::vector<ReuseRow>& rows) {
    constexpr const char* kColours[] = {"#888", "#15a", "#2a7", "#000"};
    const auto rates = rates_of(rows);
    std::vector<Panel::Tick> ticks;
    ticks.reserve(rates.size());
    for (const double rate : rates) ticks.push_back({rate, fmt::format("{:g} %", rate * 100)});
    double most = PaperPoints::kThroughputNine;
    for (const ReuseRow& row : rows)
        most = std::max(most, row.tokens_per_s / row_of(rows, row.reuse, Path::None).tokens_per_s);
    Panel throughput(70, std::ceil(most / 4) * 4, "prefill throughput, by that without a pool", "x", ticks,
                     "tokens reused");
    Panel ttft(570, 1.2, "time to first token, by that without a pool", "x", ticks, "tokens reused");
    std::vector<Legend> legend;
    for (std::size_t index = 0; index < std::size(kPaths); ++index) {
        Points rate_points, time_points;
        for (const double rate : rates) {
            const ReuseRow& row = row_of(rows, rate, kPaths[index]);
            const ReuseRow& none = row_of(rows, rate, Path::None);
            rate_points.emplace_back(rate, row.tokens_per_s / none.tokens_per_s);
            time_points.emplace_back(rate, row.ttft_ms / none.ttft_ms);
        }
        throughput.curve(rate_points, kColours[index]);
        ttft.curve(time_points, kColours[index]);
        legend.push_back({to_string(kPaths[index]), kColours[index]});
    }
    // The paper gives 1.42x as a ratio of two reuse rates: here it starts from our own lower one.
    const double low =
        row_of(rows, 0.125, Path::Shm).tokens_per_s / row_of(rows, 0.125, Path::None).tokens_per_s;
    throughput.mark(0.5, low * PaperPoints::kThroughputHalf, "paper: 1.42x of 12.5 %");
    throughput.mark(0.9, PaperPoints::kThroughputNine, "paper: 2.28x");
    ttft.mark(0.5, PaperPoints::kTtftHalf, "paper: -34 %");
    ttft.mark(0.9, PaperPoints::kTtftNine, "paper: -59 %");
    legend.push_back({"paper: arXiv 2506.12708, sec. 5.4.3, over UB", "#c22"});
    return picture(1000, legend, {throughput, ttft});
}

}  // namespace

Findings print_reuse(const std::vector<ReuseRow>& rows) {
    return {to_table(rows), to_json_lines(rows), to_svg(rows)};
}

}  // namespace cmpool::serve
