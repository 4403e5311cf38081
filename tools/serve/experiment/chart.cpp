#include "chart.h"

#include <algorithm>

#include <fmt/format.h>

namespace cmpool::serve {

namespace {

constexpr double kTop = 60, kHeight = 300, kWidth = 380;
constexpr double kLegendLeft = 70, kLetter = 8, kGap = 24;

}  // namespace

Panel::Panel(double left, double top_value, const std::string& title, const std::string& unit,
             const std::vector<Tick>& ticks, const std::string& below)
    : left_(left), top_value_(top_value) {
    constexpr int kLines = 4;
    text(left_, kTop - 16, title, "#222", "15");
    for (int index = 0; index <= kLines; ++index) {
        const double value = top_value_ * index / kLines;
        line(x(0), y(value), x(1), y(value), "#ddd");
        text(left_ - 40, y(value) + 4, fmt::format("{:.3g}{}", value, unit), "#555", "11");
    }
    for (const Tick& tick : ticks) text(x(tick.at) - 12, kTop + kHeight + 16, tick.label, "#555", "10");
    text(x(0.5) - 3 * double(below.size()), kTop + kHeight + 34, below, "#555", "11");
}

void Panel::curve(const Points& points, const std::string& colour) {
    std::string path;
    for (const auto& [at, value] : points) path += fmt::format("{:.1f},{:.1f} ", x(at), y(value));
    svg_ += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"/>\n", colour,
                        path);
    for (const auto& [at, value] : points) {
        svg_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x(at), y(value),
                            colour);
    }
}

void Panel::mark(double at, double value, const std::string& label) {
    svg_ += fmt::format(
        "<path d=\"M{0:.1f} {1:.1f}l6 6l-6 6l-6 -6z\" fill=\"none\" stroke=\"#c22\" "
        "stroke-width=\"2\"/>\n",
        x(at), y(value) - 6);
    text(x(at) - 50, y(value) + 22, label, "#c22", "11");
}

double Panel::x(double at) const { return left_ + at * kWidth; }

double Panel::y(double value) const { return kTop + kHeight * (1 - std::min(value / top_value_, 1.0)); }

void Panel::line(double x1, double y1, double x2, double y2, const char* colour) {
    svg_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1,
                        y1, x2, y2, colour);
}

void Panel::text(double at_x, double at_y, const std::string& what, const char* colour, const char* size) {
    svg_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\" font-size=\"{}\">{}</text>\n", at_x,
                        at_y, colour, size, what);
}

std::string picture(double width, const std::vector<Legend>& legend, const std::vector<Panel>& panels) {
    std::string inside;
    double left = kLegendLeft;
    for (const Legend& one : legend) {
        inside += fmt::format("<text x=\"{:.0f}\" y=\"24\" fill=\"{}\" font-size=\"14\">{}</text>\n", left,
                              one.colour, one.text);
        left += kLetter * double(one.text.size()) + kGap;
    }
    for (const Panel& panel : panels) inside += panel.svg();
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"420\" "
        "font-family=\"sans-serif\">\n"
        "<rect width=\"{0}\" height=\"420\" fill=\"#fff\"/>\n{1}</svg>\n",
        width, inside);
}

}  // namespace cmpool::serve
