// What only sockets of a network do.
#include "tcp_socket.h"

#include <fstream>

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace cmpool::testing {
namespace {

using namespace transport;

/// The ports that the kernel gives to whoever connects.
struct PortRange {
    PortRange() { std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first >> last; }
    int first = 0;
    int last = 0;
};

/// One of them on which nobody listens.
std::string free_address(const PortRange& range) {
    // The kernel prefers those that differ from the first one by an even number.
    for (int port = range.first; port < range.last; port += 2) {
        auto address = fmt::format("127.0.0.1:{}", port);
        if (tcp_listen(address)) return address;
    }
    return {};
}

}  // namespace

// A pool whose port was of that range could not come back while its clients looked for it: one of them had
// been given the port, and was connected with itself.
TEST_CASE("who finds nobody at a port is not connected with itself, and leaves the port free") {
    const PortRange range;
    REQUIRE(range.first > 0);
    const auto address = free_address(range);
    REQUIRE_FALSE(address.empty());
    int met_itself = 0;
    int taken = 0;
    for (int tries = range.last - range.first; tries > 0; --tries) {
        const auto peer = tcp_connect(address);
        REQUIRE(peer);
        if (local_address(peer->socket.get()).text() == address) ++met_itself;
        if (!peer->absent) continue;
        // It was refused at once: that was the port itself.
        if (!tcp_listen(address)) ++taken;
    }
    CHECK(met_itself == 0);
    CHECK(taken == 0);
}

}  // namespace cmpool::testing
