// What every address of a command line and of another node is read by.
#include <cmpool/base/backoff.h>
#include <cmpool/base/host_port.h>

#include <doctest/doctest.h>

using namespace cmpool;
using namespace std::chrono_literals;

TEST_CASE("HOST:PORT is read, with an IPv6 address in brackets") {
    const struct {
        const char* text;
        const char* host;
        int port;
    } cases[]{{"10.0.0.1:7411", "10.0.0.1", 7411},
              {"[::1]:1", "::1", 1},
              {":0", "", 0},
              {"node-1:65535", "node-1", 65535}};
    for (const auto& [text, host, port] : cases) {
        CAPTURE(text);
        const auto read = HostPort::parse(text);
        REQUIRE(read);
        CHECK(read->host == host);
        CHECK(read->port == port);
    }
    for (const char* text :
         {"", "host", "host:", ":", "::1:7411", "host:65536", "host:-1", "host:1x", "host: 1"}) {
        CAPTURE(text);
        CHECK(HostPort::parse(text).error().code == Errc::Invalid);
    }
}

TEST_CASE("who fails again and again waits ever longer, up to a bound") {
    Backoff waits(50ms, 150ms);
    CHECK(waits.next() == 50ms);
    CHECK(waits.next() == 100ms);
    CHECK(waits.next() == 150ms);
    CHECK(waits.next() == 150ms);
    waits.reset();
    CHECK(waits.next() == 50ms);
}
