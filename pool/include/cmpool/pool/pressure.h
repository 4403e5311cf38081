#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include <cmpool/base/clock.h>

namespace cmpool::pool {

/// Durations in classes an eighth of a power of two wide: what was counted says how long the slowest
/// hundredth took, a little too high at most. 4 KiB, of which most are never touched.
class WaitHistogram {
public:
    void add(Nanos wait) noexcept {
        ++counts_[class_of(static_cast<std::uint64_t>(wait.count() > 0 ? wait.count() : 0))];
        ++count_;
    }
    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    /// What `part` of all took at most; 0 when there are none.
    [[nodiscard]] Nanos quantile(double part) const noexcept;

private:
    static constexpr unsigned kFineBits = 3;
    static constexpr std::size_t kClasses = (64 - kFineBits + 1) << kFineBits;
    [[nodiscard]] static std::size_t class_of(std::uint64_t ns) noexcept {
        if (ns < (1U << kFineBits)) return ns;
        const auto shift = static_cast<unsigned>(std::bit_width(ns)) - kFineBits - 1;
        return (std::size_t{shift + 1} << kFineBits) + ((ns >> shift) & ((1U << kFineBits) - 1));
    }
    [[nodiscard]] static std::uint64_t end_of(std::size_t index) noexcept;

    std::array<std::uint64_t, kClasses> counts_{};
    std::uint64_t count_ = 0;
};

/// How much the clients of one tenant should hold back: what every answer to them says (wire/load_level.h).
/// Stores that wait longer than kStoreWaitGoal, and stores for which there is no room, slow down stores;
/// loads that wait longer than kLoadWaitGoal slow down loads too.
class Pressure {
public:
    static constexpr Nanos kStoreWaitGoal = std::chrono::milliseconds(1);
    static constexpr Nanos kLoadWaitGoal = std::chrono::milliseconds(10);
    /// For so long after a store found no room its tenant is asked to hold back.
    static constexpr Nanos kRefusedCounts = std::chrono::milliseconds(100);

    void load_waited(Nanos wait) noexcept { loads_ += (wait - loads_) / kWeight; }
    void store_waited(Nanos wait) noexcept { stores_ += (wait - stores_) / kWeight; }
    void store_refused(Instant now) noexcept { refused_until_ = now + kRefusedCounts; }
    /// Time passes: what has waited long ago counts less. To be called at each tick.
    void fade() noexcept {
        loads_ -= loads_ / kWeight;
        stores_ -= stores_ / kWeight;
    }
    [[nodiscard]] std::uint8_t level(Instant now) const noexcept;

private:
    static constexpr std::int64_t kWeight = 8;
    Nanos loads_{0};  ///< moving averages
    Nanos stores_{0};
    Instant refused_until_{};
};

}  // namespace cmpool::pool
