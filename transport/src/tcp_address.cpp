#include "tcp_address.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include <cmpool/base/host_port.h>

#include <netdb.h>
#include <netinet/in.h>

namespace cmpool::transport {

namespace {

const sockaddr_in& as_v4(const TcpAddress& address) noexcept {
    return reinterpret_cast<const sockaddr_in&>(address.storage);
}
const sockaddr_in6& as_v6(const TcpAddress& address) noexcept {
    return reinterpret_cast<const sockaddr_in6&>(address.storage);
}

}  // namespace

std::string TcpAddress::text() const {
    std::array<char, NI_MAXHOST> host{};
    std::array<char, NI_MAXSERV> port{};
    ::getnameinfo(get(), bytes, host.data(), host.size(), port.data(), port.size(),
                  NI_NUMERICHOST | NI_NUMERICSERV);
    if (storage.ss_family == AF_INET6) return fmt::format("[{}]:{}", host.data(), port.data());
    return fmt::format("{}:{}", host.data(), port.data());
}

bool TcpAddress::same_host(const TcpAddress& other) const noexcept {
    if (storage.ss_family != other.storage.ss_family) return false;
    if (storage.ss_family == AF_INET) return as_v4(*this).sin_addr.s_addr == as_v4(other).sin_addr.s_addr;
    return std::memcmp(&as_v6(*this).sin6_addr, &as_v6(other).sin6_addr, sizeof(in6_addr)) == 0;
}

bool TcpAddress::loopback() const noexcept {
    if (storage.ss_family == AF_INET) return ntohl(as_v4(*this).sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&as_v6(*this).sin6_addr) != 0;
}

Result<std::vector<TcpAddress>> resolve_tcp(std::string_view address, bool passive) {
    const auto parts = HostPort::parse(address);
    if (!parts) return fail(parts.error());
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | AI_NUMERICHOST | (passive ? AI_PASSIVE : 0);
    addrinfo* found = nullptr;
    const char* host = parts->host.empty() ? nullptr : parts->host.c_str();
    const std::string port = std::to_string(parts->port);
    int error = ::getaddrinfo(host, port.c_str(), &hints, &found);
    if (error == EAI_NONAME) {
        hints.ai_flags &= ~AI_NUMERICHOST;
        error = ::getaddrinfo(host, port.c_str(), &hints, &found);
    }
    if (error != 0) return fail(Errc::PeerDown, "{} does not resolve: {}", address, ::gai_strerror(error));
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
    std::vector<TcpAddress> addresses;
    for (; found != nullptr; found = found->ai_next) {
        auto& next = addresses.emplace_back();
        std::memcpy(&next.storage, found->ai_addr, found->ai_addrlen);
        next.bytes = found->ai_addrlen;
    }
    std::stable_partition(addresses.begin(), addresses.end(),
                          [](const TcpAddress& each) { return each.storage.ss_family == AF_INET; });
    return addresses;
}

}  // namespace cmpool::transport
