#pragma once

#include <algorithm>
#include <chrono>
#include <utility>

namespace cmpool {

/// How long to wait before something is tried again: each time twice as long, up to a bound.
class Backoff {
public:
    constexpr Backoff(std::chrono::milliseconds first, std::chrono::milliseconds most) noexcept
        : first_(first), most_(most), next_(first) {}
    /// After a failure: how long now.
    [[nodiscard]] constexpr std::chrono::milliseconds next() noexcept {
        return std::exchange(next_, std::min(next_ * 2, most_));
    }
    /// It went well.
    constexpr void reset() noexcept { next_ = first_; }

private:
    std::chrono::milliseconds first_, most_, next_;
};

}  // namespace cmpool
