#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <cmpool/base/clock.h>

namespace cmpool::client {

/// Who fills which block of a hit: one side computes from its front, the other loads from its back,
/// until they meet. A block is claimed before it is touched, so nobody writes what the other does.
///
///   Units    block indices and counts within the hit
///   Threads  one at a time: whoever shares it guards it
class Meeting {
public:
    struct Range {
        std::size_t first = 0, count = 0;
    };

    explicit Meeting(std::size_t blocks) noexcept : claimed_(blocks), loaded_(blocks) {}

    /// Blocks from front() on are the computing side's now, at most `count`; 0: the rest is loaded, or
    /// on its way. Returns how many.
    std::size_t claim_front(std::size_t count) noexcept;
    /// The next blocks to load, in front of what is loaded already. One range is out at a time.
    [[nodiscard]] Range claim_back(std::size_t count) noexcept;
    /// What became of the range that is out: its last `good` blocks are here. Fewer than all of it
    /// end the loading; the others are the computing side's.
    void landed(std::size_t good) noexcept;
    /// The range that is out comes back, and may be claimed by either side again.
    void give_back() noexcept { claimed_ = loaded_; }
    /// Nothing more is loaded but the range that is out.
    void stop() noexcept { stopped_ = true; }

    [[nodiscard]] std::size_t front() const noexcept { return front_; }  ///< computing claimed all before it
    [[nodiscard]] std::size_t loaded() const noexcept { return loaded_; }  ///< it and all behind it are here
    [[nodiscard]] std::size_t in_flight() const noexcept { return loaded_ - claimed_; }
    [[nodiscard]] std::size_t unclaimed() const noexcept { return claimed_ - front_; }
    /// Nothing is left for either side to begin, and nothing is on its way.
    [[nodiscard]] bool met() const noexcept { return front_ == loaded_; }
    [[nodiscard]] bool stopped() const noexcept { return stopped_; }

private:
    std::size_t front_ = 0;
    std::size_t claimed_;  // from here on the loading side's
    std::size_t loaded_;
    bool stopped_ = false;
};

/// What is loaded in one go: then the two sides look at each other.
inline constexpr Nanos kBatchTime = std::chrono::milliseconds(4);

/// What computing takes: a step costs something however few tokens it has.
struct ComputeCost {
    Nanos step{}, block{};
};

/// How much of `blocks` unclaimed blocks the computing side should take now, so that it is done when the
/// others are loaded: 0 where loading all of them takes no longer than computing one.
[[nodiscard]] std::size_t front_share(std::size_t blocks, Nanos load_per_block,
                                      const ComputeCost& compute) noexcept;

/// How many blocks load in so much time.
[[nodiscard]] std::size_t blocks_within(Nanos time, Nanos load_per_block) noexcept;

/// What loading and computing have taken lately; it forgets.
///
///   Threads  one at a time
class CostModel {
public:
    void loaded(std::uint64_t bytes, Nanos time) noexcept { load_.add(static_cast<double>(bytes), time); }
    /// One step of so many tokens.
    void computed(std::uint64_t tokens, Nanos time) noexcept;

    /// Nothing before the first measurement.
    [[nodiscard]] std::optional<Nanos> load(std::uint64_t bytes) const noexcept;
    [[nodiscard]] std::optional<ComputeCost> compute(std::uint64_t block_tokens) const noexcept;

private:
    /// A line through what was measured: least squares, in which older points count for less.
    class Line {
    public:
        void add(double units, Nanos time) noexcept;
        [[nodiscard]] bool known() const noexcept { return weight_ > 0; }
        [[nodiscard]] double fixed_ns() const noexcept;
        [[nodiscard]] double ns_per_unit() const noexcept;

    private:
        double weight_ = 0, units_ = 0, ns_ = 0, units_units_ = 0, units_ns_ = 0;
    };
    /// A rate, with nothing fixed.
    struct Rate {
        void add(double units, Nanos time) noexcept;
        double units = 0, ns = 0;
    };

    Rate load_;
    Line compute_;
};

}  // namespace cmpool::client
