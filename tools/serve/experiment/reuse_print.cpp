#include "experiment.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace cmpool::serve {

namespace {

constexpr Path kPaths[] = {Path::None, Path::Shm, Path::Tcp, Path::Oracle};

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

/// One panel: values by reuse rate, as a multiple of what the engine does without a pool.
class Panel {
public:
    Panel(double left, double top_value, std::string title) : left_(left), top_value_(top_value) {
        text(left_, kTop - 16, title, "#222", "15");
        for (double value = 0; value <= top_value_ + 1e-9; value += top_value_ / 4) {
            line(x(0), y(value), x(1), y(value), "#ddd");
            text(left_ - 34, y(value) + 4, fmt::format("{:.2g}x", value), "#555", "11");
        }
        for (const double rate : {0.0, 0.125, 0.25, 0.5, 0.75, 0.9})
            text(x(rate) - 10, kTop + kHeight + 16, fmt::format("{:g} %", rate * 100), "#555", "10");
        text(x(0.5) - 40, kTop + kHeight + 34, "tokens reused", "#555", "11");
    }
    void curve(const std::vector<std::pair<double, double>>& points, const char* colour) {
        std::string path;
        for (const auto& [rate, value] : points) path += fmt::format("{:.1f},{:.1f} ", x(rate), y(value));
        svg_ += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"/>\n",
                            colour, path);
        for (const auto& [rate, value] : points) {
            svg_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x(rate),
                                y(value), colour);
        }
    }
    void paper(double rate, double value, const std::string& label) {
        const double at_x = x(rate);
        const double at_y = y(std::min(value, top_value_));
        svg_ += fmt::format(
            "<path d=\"M{0:.1f} {1:.1f}l6 6l-6 6l-6 -6z\" fill=\"none\" stroke=\"#c22\" "
            "stroke-width=\"2\"/>\n",
            at_x, at_y - 6);
        text(at_x - 50, at_y + 22, label, "#c22", "11");
    }
    [[nodiscard]] const std::string& svg() const noexcept { return svg_; }

private:
    static constexpr double kTop = 60, kHeight = 300, kWidth = 380;

    [[nodiscard]] double x(double rate) const { return left_ + rate * kWidth; }
    [[nodiscard]] double y(double value) const {
        return kTop + kHeight * (1 - std::min(value / top_value_, 1.0));
    }
    void line(double x1, double y1, double x2, double y2, const char* colour) {
        svg_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n",
                            x1, y1, x2, y2, colour);
    }
    void text(double at_x, double at_y, const std::string& what, const char* colour, const char* size) {
        svg_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\" font-size=\"{}\">{}</text>\n", at_x,
                            at_y, colour, size, what);
    }

    double left_, top_value_;
    std::string svg_;
};

}  // namespace

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
        const double shm = row_of(rows, rate, Path::Shm).tokens_per_s;
        out +=
            fmt::format("     | {:>10.3f} {:>10.3f}\n", shm / row_of(rows, rate, Path::Oracle).tokens_per_s,
                        row_of(rows, rate, Path::Tcp).tokens_per_s / shm);
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
    double most = PaperPoints::kThroughputNine;
    for (const ReuseRow& row : rows)
        most = std::max(most, row.tokens_per_s / row_of(rows, row.reuse, Path::None).tokens_per_s);
    Panel throughput(70, std::ceil(most / 4) * 4, "prefill throughput, by that without a pool");
    Panel ttft(570, 1.2, "time to first token, by that without a pool");
    std::string legend;
    for (std::size_t index = 0; index < std::size(kPaths); ++index) {
        std::vector<std::pair<double, double>> rate_points, time_points;
        for (const double rate : rates) {
            const ReuseRow& row = row_of(rows, rate, kPaths[index]);
            const ReuseRow& none = row_of(rows, rate, Path::None);
            rate_points.emplace_back(rate, row.tokens_per_s / none.tokens_per_s);
            time_points.emplace_back(rate, row.ttft_ms / none.ttft_ms);
        }
        throughput.curve(rate_points, kColours[index]);
        ttft.curve(time_points, kColours[index]);
        legend += fmt::format("<text x=\"{}\" y=\"24\" fill=\"{}\" font-size=\"14\">{}</text>\n",
                              70 + 80 * index, kColours[index], to_string(kPaths[index]));
    }
    // The paper gives 1.42x as a ratio of two reuse rates: here it starts from our own lower one.
    const double low =
        row_of(rows, 0.125, Path::Shm).tokens_per_s / row_of(rows, 0.125, Path::None).tokens_per_s;
    throughput.paper(0.5, low * PaperPoints::kThroughputHalf, "paper: 1.42x of 12.5 %");
    throughput.paper(0.9, PaperPoints::kThroughputNine, "paper: 2.28x");
    ttft.paper(0.5, PaperPoints::kTtftHalf, "paper: -34 %");
    ttft.paper(0.9, PaperPoints::kTtftNine, "paper: -59 %");
    legend +=
        "<text x=\"400\" y=\"24\" fill=\"#c22\" font-size=\"14\">paper: arXiv 2506.12708, sec. 5.4.3, over "
        "UB</text>\n";
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1000\" height=\"420\" "
        "font-family=\"sans-serif\">\n"
        "<rect width=\"1000\" height=\"420\" fill=\"#fff\"/>\n{}{}{}</svg>\n",
        legend, throughput.svg(), ttft.svg());
}

}  // namespace cmpool::serve
