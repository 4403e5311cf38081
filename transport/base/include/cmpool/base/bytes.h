#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace cmpool {

/// Views borrow: they never outlive what they look at.
using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

[[nodiscard]] inline Bytes as_bytes(std::string_view text) noexcept {
    return std::as_bytes(std::span(text.data(), text.size()));
}
[[nodiscard]] inline std::string_view as_text(Bytes bytes) noexcept {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Lower-case hexadecimal.
[[nodiscard]] std::string to_hex(Bytes bytes);
/// Reads exactly out.size() bytes of hexadecimal; false on another length or another character.
[[nodiscard]] bool from_hex(std::string_view text, MutableBytes out) noexcept;

}  // namespace cmpool
