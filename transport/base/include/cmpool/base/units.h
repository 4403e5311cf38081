#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <cmpool/base/result.h>

namespace cmpool {

inline constexpr std::uint64_t KiB = 1024;
inline constexpr std::uint64_t MiB = 1024 * KiB;
inline constexpr std::uint64_t GiB = 1024 * MiB;

/// Reads "4096", "64k", "256MiB", "8G": a whole number and a binary unit, case and "iB" optional.
/// Errors: Invalid with what was expected and what was seen.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text);

/// "1.5 MiB", for people.
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);

[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t step) noexcept {
    return (value + step - 1) / step * step;
}

}  // namespace cmpool
