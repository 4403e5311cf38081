// What open() does about a pool that is not as it should be.
#include <chrono>

#include <cmpool/base/unique_fd.h>
#include <cmpool/client/pool_client.h>

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

using namespace cmpool;
using namespace std::chrono_literals;

namespace {

sockaddr_in bind_to_free_port(int socket) {
    sockaddr_in any{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t bytes = sizeof any;
    auto* generic = reinterpret_cast<sockaddr*>(&any);
    REQUIRE(::bind(socket, generic, bytes) == 0);
    REQUIRE(::getsockname(socket, generic, &bytes) == 0);
    return any;
}

/// Takes connections, as the kernel does for a frozen process, and never answers.
struct SilentPool {
    SilentPool()
        : socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
          uri(fmt::format("cmpool://127.0.0.1:{}?deadline_ms=50",
                          ntohs(bind_to_free_port(socket.get()).sin_port))) {
        REQUIRE(::listen(socket.get(), 16) == 0);
    }
    UniqueFd socket;
    std::string uri;
};

client::NamespaceSpec opaque() {
    return {.model = "test", .dtype = "bytes", .layout = "opaque", .block_tokens = 0, .group_blocks = 1};
}

}  // namespace

// A client that has waited one deadline for a pool owes nobody a second one, and knows why.
TEST_CASE("a pool that takes connections and never answers costs one deadline, with a reason") {
    const SilentPool silent;
    const auto pool = client::PoolClient::open(silent.uri, opaque());
    REQUIRE(pool);
    const auto status = (*pool)->status();
    CHECK_FALSE(status.ready);
    REQUIRE(status.trouble);
    CHECK(status.trouble->code == Errc::Deadline);

    const auto begun = std::chrono::steady_clock::now();
    const model::Digest key;
    const auto report = (*pool)->exists({&key, 1}, {.deadline = 20s});
    CHECK(report.count(client::Outcome::Miss) == 1);
    CHECK(report.trouble);
    CHECK(std::chrono::steady_clock::now() - begun < 1s);
}

// "The peer closed the lane" would send a person to look for a pool that is there and unwell.
TEST_CASE("where nobody listens, the reason is that the connection was refused") {
    const UniqueFd taken(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto port = bind_to_free_port(taken.get()).sin_port;  // bound, so that nobody else listens
    const auto pool = client::PoolClient::open(
        fmt::format("cmpool://127.0.0.1:{}?deadline_ms=10000", ntohs(port)), opaque());
    REQUIRE(pool);
    REQUIRE((*pool)->status().trouble);
    CHECK((*pool)->status().trouble->code == Errc::PeerDown);
    CHECK((*pool)->status().trouble->detail.find("refused") != std::string::npos);
}
