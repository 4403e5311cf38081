#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include <cmpool/base/clock.h>

namespace cmpool {

/// Bytes that may be spent, so many a second. What is too large for what is left is spent all the same and
/// paid back before the next.
class Allowance {
public:
    /// `burst`: what may be spent at once after a pause, as time.
    Allowance(std::uint64_t bytes_per_second, std::chrono::milliseconds burst) noexcept
        : rate_(static_cast<double>(bytes_per_second)),
          most_(rate_ * std::chrono::duration<double>(burst).count()) {}

    void refill(Instant now) noexcept {
        const double seconds = std::chrono::duration<double>(now - refilled_at_).count();
        left_ = std::min(left_ + rate_ * seconds, most_);
        refilled_at_ = now;
    }
    /// Nothing or less: wait.
    [[nodiscard]] double left() const noexcept { return left_; }
    void spend(std::uint64_t bytes) noexcept { left_ -= static_cast<double>(bytes); }

private:
    double rate_;
    double most_;
    double left_ = 0;  ///< below zero after something large
    Instant refilled_at_{};
};

}  // namespace cmpool
