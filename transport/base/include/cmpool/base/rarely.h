#pragma once

#include <cstdint>
#include <optional>

#include <cmpool/base/clock.h>

namespace cmpool {

/// Lets one log line of a kind through in a while, so that whoever causes many of them does not fill a disk.
/// Statistics count all of them.
class Rarely {
public:
    explicit constexpr Rarely(Nanos interval = std::chrono::seconds(10)) noexcept : interval_(interval) {}

    /// Something to be said has happened. How often since a line was last let through, this time included;
    /// nothing where it is too early for another line.
    [[nodiscard]] constexpr std::optional<std::uint64_t> happened(Instant now) noexcept {
        ++unsaid_;
        if (now < next_) return std::nullopt;
        next_ = now + interval_;
        const std::uint64_t times = unsaid_;
        unsaid_ = 0;
        return times;
    }

private:
    Nanos interval_;
    Instant next_{INT64_MIN};
    std::uint64_t unsaid_ = 0;
};

}  // namespace cmpool
