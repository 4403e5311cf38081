#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <cmpool/base/result.h>

namespace cmpool {

/// Where something listens: a name or a number, and a port.
struct HostPort {
    std::string host;  ///< without brackets; empty: every address of ours
    std::uint16_t port = 0;

    /// Reads HOST:PORT; an IPv6 address stands in brackets. Errors: Invalid.
    [[nodiscard]] static Result<HostPort> parse(std::string_view text);
};

}  // namespace cmpool
