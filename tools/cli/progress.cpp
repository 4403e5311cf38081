#include "progress.h"

#include "print.h"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

namespace cmpool::cli {
namespace {

constexpr std::size_t kBarColumns = 24;
constexpr std::chrono::milliseconds kDrawInterval{100};

}  // namespace

Progress::Progress() : person_(::isatty(STDERR_FILENO) == 1) {}

void Progress::begin(std::string what) {
    what_ = std::move(what);
    if (person_) draw(0, 1);
}

void Progress::at(std::uint64_t done, std::uint64_t whole) {
    if (!person_) return;
    const Instant now = SystemClock().now();
    if (now < next_) return;
    next_ = now + kDrawInterval;
    draw(done, whole);
}

void Progress::draw(std::uint64_t done, std::uint64_t whole) const {
    const double share =
        std::min(1.0, static_cast<double>(done) / static_cast<double>(std::max<std::uint64_t>(whole, 1)));
    const auto filled = static_cast<std::size_t>(share * kBarColumns);
    fmt::print(stderr, "\r\033[K{} [{}{}] {:.0f} %", what_, std::string(filled, '#'),
               std::string(kBarColumns - filled, '.'), 100 * share);
    std::fflush(stderr);
}

void Progress::clear() {
    if (person_) fmt::print(stderr, "\r\033[K");
}

}  // namespace cmpool::cli
