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

namespace {

// A new measurement counts for an eighth or more: a machine that got busy shows after a few.
constexpr double kKept = 0.875;

double ns(Nanos time) noexcept { return static_cast<double>(std::max<std::int64_t>(time.count(), 0)); }

Nanos nanos(double value) noexcept {
    constexpr double kLongest = 1e18;  // some 30 years
    return Nanos(static_cast<std::int64_t>(std::clamp(value, 0.0, kLongest)));
}

}  // namespace

std::size_t front_share(std::size_t blocks, Nanos load_per_block, const ComputeCost& compute) noexcept {
    // step + share * block == (blocks - share) * load
    const double load = std::max(ns(load_per_block), 1.0);
    const double share =
        (static_cast<double>(blocks) * load - ns(compute.step)) / (load + std::max(ns(compute.block), 1.0));
    return static_cast<std::size_t>(std::clamp(share, 0.0, static_cast<double>(blocks)));
}

std::size_t blocks_within(Nanos time, Nanos load_per_block) noexcept {
    return static_cast<std::size_t>(ns(time) / std::max(ns(load_per_block), 1.0));
}

void CostModel::Rate::add(double more, Nanos time) noexcept {
    if (more <= 0) return;
    units = units * kKept + more;
    ns = ns * kKept + cmpool::client::ns(time);
}

void CostModel::Line::add(double units, Nanos time) noexcept {
    if (units <= 0) return;
    const double took = ns(time);
    const auto age = [](double& sum, double more) { sum = sum * kKept + more; };
    age(weight_, 1);
    age(units_, units);
    age(ns_, took);
    age(units_units_, units * units);
    age(units_ns_, units * took);
}

// Without steps of different sizes, or with ones that contradict each other, all of it is by the unit.
double CostModel::Line::ns_per_unit() const noexcept {
    constexpr double kSpreadMin = 1e-3;  // of the mean, squared
    const double mean = units_ / weight_;
    const double spread = units_units_ / weight_ - mean * mean;
    const double by_unit = ns_ / units_;
    if (spread < kSpreadMin * mean * mean) return by_unit;
    const double slope = (units_ns_ / weight_ - mean * ns_ / weight_) / spread;
    return std::clamp(slope, 0.0, by_unit);
}

double CostModel::Line::fixed_ns() const noexcept {
    return std::max(ns_ / weight_ - ns_per_unit() * units_ / weight_, 0.0);
}

void CostModel::computed(std::uint64_t tokens, Nanos time) noexcept {
    compute_.add(static_cast<double>(tokens), time);
}

std::optional<Nanos> CostModel::load(std::uint64_t bytes) const noexcept {
    if (load_.units == 0) return std::nullopt;
    return nanos(static_cast<double>(bytes) * load_.ns / load_.units);
}

std::optional<ComputeCost> CostModel::compute(std::uint64_t block_tokens) const noexcept {
    if (!compute_.known()) return std::nullopt;
    return ComputeCost{nanos(compute_.fixed_ns()),
                       nanos(compute_.ns_per_unit() * static_cast<double>(block_tokens))};
}

}  // namespace cmpool::client
