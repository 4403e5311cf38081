#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cmpool::serve {

/// A value's place between the left side (0) and the right side (1), and its height.
using Points = std::vector<std::pair<double, double>>;

/// One panel of a picture: curves over a common axis, drawn as SVG.
///
///   Units  `left` in pixels of the picture; heights as `top_value` has them
class Panel {
public:
    struct Tick {
        double at = 0;  ///< as in Points
        std::string label;
    };
    Panel(double left, double top_value, const std::string& title, const std::string& unit,
          const std::vector<Tick>& ticks, const std::string& below);
    void curve(const Points& points, const std::string& colour);
    /// A single point of somebody else's.
    void mark(double at, double value, const std::string& label);
    [[nodiscard]] const std::string& svg() const noexcept { return svg_; }

private:
    [[nodiscard]] double x(double at) const;
    [[nodiscard]] double y(double value) const;
    void line(double x1, double y1, double x2, double y2, const char* colour);
    void text(double at_x, double at_y, const std::string& what, const char* colour, const char* size);

    double left_, top_value_;
    std::string svg_;
};

struct Legend {
    std::string text, colour;
};
[[nodiscard]] std::string picture(double width, const std::vector<Legend>& legend,
                                  const std::vector<Panel>& panels);

}  // namespace cmpool::serve
