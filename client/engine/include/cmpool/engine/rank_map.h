#pragma once

#include <cstdint>

#include <cmpool/base/result.h>

namespace cmpool::engine {

/// How many ranks the two sides of a hand-off have. A latent cache lies whole on each prefill rank of a
/// tensor-parallel group, so every decode rank could pull from the same one; the map spreads them.
///
///   Units   counts of ranks
///   Errors  check() gives Invalid for a zero, or where prefill_tp is not a multiple of decode_tp, or
///           decode_dp not one of prefill_tp / decode_tp
///   Source  Serving LLMs on Huawei CloudMatrix384 (arXiv 2506.12708), sec. 4.3.3
struct RankMap {
    std::uint32_t prefill_tp, decode_tp, decode_dp;

    [[nodiscard]] Result<void> check() const {
        if (prefill_tp == 0 || decode_tp == 0 || decode_dp == 0) {
            return fail(Errc::Invalid, "expected at least one rank of each kind, saw {}, {} and {}",
                        prefill_tp, decode_tp, decode_dp);
        }
        if (prefill_tp % decode_tp != 0 || decode_dp % ratio() != 0) {
            return fail(
                Errc::Invalid,
                "expected prefill ranks ({}) in multiples of decode ranks ({}), and decode groups ({}) "
                "in multiples of their ratio",
                prefill_tp, decode_tp, decode_dp);
        }
        return {};
    }
    [[nodiscard]] constexpr std::uint32_t ratio() const noexcept { return prefill_tp / decode_tp; }
    /// Decode groups in a row that have the same senders.
    [[nodiscard]] constexpr std::uint32_t group_size() const noexcept { return decode_dp / ratio(); }
    /// The prefill rank that sends to tensor rank `tp` of decode group `dp`.
    [[nodiscard]] constexpr std::uint32_t sender(std::uint32_t dp, std::uint32_t tp) const noexcept {
        return dp / group_size() * decode_tp + tp;
    }
};

// The paper's own case: each of 32 prefill ranks serves ten decode ranks.
static_assert(RankMap{32, 1, 320}.ratio() == 32 && RankMap{32, 1, 320}.group_size() == 10);
static_assert(RankMap{32, 1, 320}.sender(319, 0) == 31 && RankMap{32, 1, 320}.sender(10, 0) == 1);

}  // namespace cmpool::engine
