#include <algorithm>

#include <cmpool/base/assert.h>
#include <cmpool/client/meeting.h>

namespace cmpool::client {

std::size_t Meeting::claim_front(std::size_t count) noexcept {
    const std::size_t taken = std::min(count, claimed_ - front_);
    front_ += taken;
    return taken;
}

Meeting::Range Meeting::claim_back(std::size_t count) noexcept {
    CMPOOL_ASSERT(claimed_ == loaded_);
    const std::size_t taken = stopped_ ? 0 : std::min(count, claimed_ - front_);
    claimed_ -= taken;
    return {claimed_, taken};
}

void Meeting::landed(std::size_t good) noexcept {
    CMPOOL_ASSERT(good <= loaded_ - claimed_);
    loaded_ -= good;
    if (loaded_ == claimed_) return;
    claimed_ = loaded_;
    stopped_ = true;
}

std::size_t front_share(std::size_t blocks, Nanos load_per_block, Nanos compute_per_block) noexcept {
    const double load = std::max(static_cast<double>(load_per_block.count()), 1.0);
    const double compute = std::max(static_cast<double>(compute_per_block.count()), 1.0);
    return static_cast<std::size_t>(static_cast<double>(blocks) * load / (load + compute));
}

void CostModel::Rate::add(double units, Nanos time) noexcept {
    if (units <= 0) return;
    // A new measurement counts for an eighth or more: a machine that got busy shows after a few.
    constexpr double kKept = 0.875;
    units_ = units_ * kKept + units;
    ns_ = ns_ * kKept + static_cast<double>(std::max<std::int64_t>(time.count(), 0));
}

std::optional<Nanos> CostModel::Rate::time(double units) const noexcept {
    if (units_ == 0) return std::nullopt;
    constexpr double kLongest = 1e18;  // some 30 years
    return Nanos(static_cast<std::int64_t>(std::min(units * ns_ / units_, kLongest)));
}

}  // namespace cmpool::client
