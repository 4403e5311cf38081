#include "tcp_socket.h"

#include <cerrno>
#include <cstring>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace cmpool::transport {

namespace {

constexpr int kBacklog = 4096;
// A peer whose host has vanished says nothing, not even that it is gone: after 30 s + 3 x 10 s of silence the
// kernel ends the connection.
constexpr int kIdleSeconds = 30;
constexpr int kProbeSeconds = 10;
constexpr int kProbes = 3;

void no_delay(int socket) noexcept {
    const int on = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void keep_alive(int socket) noexcept {
    const int on = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &kIdleSeconds, sizeof kIdleSeconds);
    ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &kProbeSeconds, sizeof kProbeSeconds);
    ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &kProbes, sizeof kProbes);
}

PeerIdentity identify(int socket, const TcpAddress& peer) {
    const bool here = peer.loopback() || peer.same_host(local_address(socket));
    return {.same_host = here, .address = peer.text()};
}

// 0, or why not.
int begin_connecting(int socket, const TcpAddress& target) {
    if (::connect(socket, target.get(), target.bytes) != 0 && errno != EINPROGRESS && errno != EINTR)
        return errno;
    if (local_address(socket).text() != target.text()) return 0;
    // Nobody listens, and the port that the kernel gave us is the very one: we would talk to ourselves, and
    // whoever should listen there could not come back.
    const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
    (void)::connect(socket, &nobody, sizeof nobody);
    return ECONNREFUSED;
}

// The first address that does not refuse at once; a far one is decided later, by its silence.
StreamPeer reach(std::string_view name, const std::vector<TcpAddress>& targets) {
    StreamPeer peer{.identity = {.address = std::string(name)}};
    for (const TcpAddress& target : targets) {
        const int family = target.storage.ss_family;
        peer.socket.reset(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        no_delay(peer.socket.get());
        const int why_not = begin_connecting(peer.socket.get(), target);
        peer.identity = identify(peer.socket.get(), target);
        if (why_not == 0) return StreamPeer{std::move(peer.socket), std::move(peer.identity), std::nullopt};
        peer.absent = Error{Errc::PeerDown, fmt::format("{}: {}", name, std::strerror(why_not))};
    }
    return peer;
}

}  // namespace

TcpAddress local_address(int socket) noexcept {
    TcpAddress address;
    address.bytes = sizeof address.storage;
    ::getsockname(socket, reinterpret_cast<sockaddr*>(&address.storage), &address.bytes);
    return address;
}

Result<UniqueFd> tcp_listen(std::string_view address) {
    auto targets = resolve_tcp(address, true);
    if (!targets) return fail(targets.error());
    const TcpAddress& target = targets->front();
    UniqueFd socket(::socket(target.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(socket.get(), target.get(), target.bytes) != 0 || ::listen(socket.get(), kBacklog) != 0) {
        return fail(Errc::PeerDown, "cannot listen on {}: {}", address, std::strerror(errno));
    }
    return socket;
}

Result<StreamPeer> tcp_connect(std::string_view address) {
    auto targets = resolve_tcp(address, false);
    if (targets) return reach(address, *targets);
    if (targets.error().code == Errc::Invalid) return fail(targets.error());
    return StreamPeer{.socket = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
                      .identity = {.address = std::string(address)},
                      .absent = targets.error()};
}

StreamPeer tcp_welcome(UniqueFd socket) {
    no_delay(socket.get());
    keep_alive(socket.get());
    TcpAddress address;
    address.bytes = sizeof address.storage;
    ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&address.storage), &address.bytes);
    auto identity = identify(socket.get(), address);
    return StreamPeer{std::move(socket), std::move(identity), std::nullopt};
}

}  // namespace cmpool::transport
