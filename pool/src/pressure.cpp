#include <algorithm>
#include <cmath>

#include <cmpool/pool/pressure.h>
#include <cmpool/wire/load_level.h>

namespace cmpool::pool {

std::uint64_t WaitHistogram::end_of(std::size_t index) noexcept {
    const std::size_t fine = index & ((1U << kFineBits) - 1);
    const std::size_t coarse = index >> kFineBits;
    if (coarse == 0) return fine;
    return (((std::uint64_t{1} << kFineBits) + fine + 1) << (coarse - 1)) - 1;
}

Nanos WaitHistogram::quantile(double part) const noexcept {
    const auto rank = static_cast<std::uint64_t>(std::ceil(part * static_cast<double>(count_)));
    std::uint64_t seen = 0;
    for (std::size_t index = 0; index < kClasses; ++index) {
        seen += counts_[index];
        if (seen > 0 && seen >= rank) return Nanos{static_cast<std::int64_t>(end_of(index))};
    }
    return Nanos{0};
}

namespace {

/// `first` at the goal, and as much more as a step of load_level.h for each doubling.
int above(Nanos wait, Nanos goal, int first) noexcept {
    if (wait < goal) return 0;
    const double doubled = std::log2(static_cast<double>(wait.count()) / static_cast<double>(goal.count()));
    return first + static_cast<int>(doubled * wire::kLoadStores);
}

/// Room comes when leases end, or when somebody takes back what is lent: not at once.
constexpr int kRefusedLevel = 5 * wire::kLoadStores;

}  // namespace

std::uint8_t Pressure::level(Instant now) const noexcept {
    // Stores alone never ask loads to hold back.
    const int stores = std::min(
        std::max(above(stores_, kStoreWaitGoal, wire::kLoadStores), now < refused_until_ ? kRefusedLevel : 0),
        wire::kLoadLoads - 1);
    return static_cast<std::uint8_t>(
        std::min(std::max(stores, above(loads_, kLoadWaitGoal, wire::kLoadLoads)), 255));
}

}  // namespace cmpool::pool
