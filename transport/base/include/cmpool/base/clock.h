#pragma once

#include <chrono>
#include <cstdint>

namespace cmpool {

using Nanos = std::chrono::nanoseconds;

/// An instant on a monotonic clock whose zero means nothing. It counts suspended time too, so that
/// a lease cannot outlive a sleeping host.
struct Instant {
    std::int64_t ns = 0;

    friend constexpr auto operator<=>(Instant, Instant) noexcept = default;
    friend constexpr Instant operator+(Instant at, Nanos delta) noexcept { return {at.ns + delta.count()}; }
    friend constexpr Instant operator-(Instant at, Nanos delta) noexcept { return {at.ns - delta.count()}; }
    friend constexpr Nanos operator-(Instant late, Instant early) noexcept {
        return Nanos{late.ns - early.ns};
    }

    [[nodiscard]] static constexpr Instant never() noexcept { return {INT64_MAX}; }
};

/// Where logic gets its time from: the constructor, never a global.
class Clock {
public:
    virtual ~Clock() = default;
    [[nodiscard]] virtual Instant now() const noexcept = 0;
};

/// The machine's CLOCK_BOOTTIME.
class SystemClock final : public Clock {
public:
    [[nodiscard]] Instant now() const noexcept override;
};

}  // namespace cmpool
