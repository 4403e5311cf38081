#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace cmpool {

/// A small seeded generator (xoshiro256**; Blackman and Vigna, 2018): the same seed, the same run.
/// Not for secrets: those come from Entropy.
class Rng {
public:
    explicit Rng(std::uint64_t seed) noexcept;

    [[nodiscard]] std::uint64_t next() noexcept;
    /// Uniform in [0, bound); bound > 0. The bias of at most 2^-32 does not matter here.
    [[nodiscard]] std::uint64_t below(std::uint64_t bound) noexcept;
    /// True with the given probability.
    [[nodiscard]] bool chance(double probability) noexcept;

private:
    std::uint64_t state_[4];
};

/// Where secrets, tokens and incarnations come from: the kernel in production, a seed in simulation.
class Entropy {
public:
    virtual ~Entropy() = default;
    virtual void fill(std::span<std::byte> out) noexcept = 0;
    [[nodiscard]] std::uint64_t next_u64() noexcept;
};

/// getrandom(2).
class SystemEntropy final : public Entropy {
public:
    void fill(std::span<std::byte> out) noexcept override;
};

class SeededEntropy final : public Entropy {
public:
    explicit SeededEntropy(std::uint64_t seed) noexcept : rng_(seed) {}
    void fill(std::span<std::byte> out) noexcept override;

private:
    Rng rng_;
};

}  // namespace cmpool
