#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

// How busy who answers is, in a byte: below 32 nobody need hold back; from there on each 32 ask for twice the
// pause before the next store; from 192 on for one before the next load too.
namespace cmpool::wire {

inline constexpr std::uint8_t kLoadStores = 32;
inline constexpr std::uint8_t kLoadLoads = 192;

[[nodiscard]] constexpr std::chrono::milliseconds store_pause(std::uint8_t load) noexcept {
    if (load < kLoadStores) return std::chrono::milliseconds{0};
    return std::chrono::milliseconds{1 << (load / kLoadStores - 1)};
}
[[nodiscard]] constexpr std::chrono::milliseconds load_pause(std::uint8_t load) noexcept {
    return load < kLoadLoads ? std::chrono::milliseconds{0} : store_pause(load) / 8;
}

static_assert(store_pause(31).count() == 0 && store_pause(32).count() == 1);
static_assert(store_pause(191).count() == 16 && load_pause(191).count() == 0);
static_assert(store_pause(255).count() == 64 && load_pause(255).count() == 8);

}  // namespace cmpool::wire
