#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/result.h>

#include <sys/socket.h>

namespace cmpool::transport {

struct TcpAddress {
    sockaddr_storage storage{};
    socklen_t bytes = 0;

    [[nodiscard]] const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
    /// "10.0.0.1:7001", "[::1]:7001".
    [[nodiscard]] std::string text() const;
    /// The same host, whatever the port.
    [[nodiscard]] bool same_host(const TcpAddress& other) const noexcept;
    [[nodiscard]] bool loopback() const noexcept;
};

/// Reads HOST:PORT; an IPv6 address stands in brackets, an empty host is every address of ours.
/// Numbers never leave the process; a name may wait for the resolver. IPv4 addresses come first.
/// Errors: Invalid for another form; PeerDown for a name that does not resolve.
[[nodiscard]] Result<std::vector<TcpAddress>> resolve_tcp(std::string_view address, bool passive);

}  // namespace cmpool::transport
