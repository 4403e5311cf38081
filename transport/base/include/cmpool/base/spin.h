#pragma once

#include <algorithm>

#include <cmpool/base/clock.h>

namespace cmpool {

/// How long it pays to look again and again before sleeping: what one waits for often comes sooner
/// than a sleeper wakes. Where it usually does not, nobody spins.
///
///   Threads  one
class Spin {
public:
    [[nodiscard]] Nanos budget() const noexcept { return usual_ <= kWorthIt ? 2 * usual_ : Nanos{0}; }
    /// How long it took until there was something, spinning and sleeping alike.
    void waited(Nanos time) noexcept { usual_ += (std::min(time, 4 * kWorthIt) - usual_) / 8; }

private:
    static constexpr Nanos kWorthIt{50'000};
    Nanos usual_{0};  ///< moving average
};

}  // namespace cmpool
