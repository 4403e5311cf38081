// A process that may open few files.
#include "faults.h"

#include <poll.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;

namespace {

/// Whether the other side ends the connection within a while.
bool ends(const UniqueFd& socket, int ms) {
    pollfd ready{.fd = socket.get(), .events = POLLIN, .revents = 0};
    return ::poll(&ready, 1, ms) == 1;
}

}  // namespace

TEST_CASE("without descriptors new connections end at once, nothing spins, and all is well afterwards") {
    Daemon daemon({"--capacity", "16M", "--hello-ms", "1500"}, testing::under_limit("-n 256"));
    const auto pool = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto before = daemon.descriptors();
    std::vector<UniqueFd> all;
    all.reserve(400);
    for (int count = 0; count < 400; ++count) all.push_back(testing::silent_connection(daemon.address()));
    CHECK(ends(all.back(), 1000));
    CHECK_FALSE(ends(all.front(), 0));
    CHECK(testing::statistic(*pool, "accepts_refused") >= 400 - 256);
    CHECK(daemon.descriptors() < 256 - 64);  // some are left for the rest of it
    CHECK(testing::round_trip(*pool, 1) == "");

    // Until the silent ones are dropped there is nothing to do.
    const auto used = testing::cpu_time(daemon.process().pid());
    const auto begun = std::chrono::steady_clock::now();
    CHECK(ends(all.front(), 5000));
    const auto waited = std::chrono::steady_clock::now() - begun;
    CHECK(testing::cpu_time(daemon.process().pid()) - used < waited / 2 + 100ms);

    CHECK(testing::comes_true([&] { return testing::statistic(*pool, "clients") == 1; }));
    CHECK(daemon.descriptors() <= before + 1);
    const auto later = testing::open_pool(daemon.uri("?transport=tcp"));
    CHECK(testing::round_trip(*later, 2) == "");
    CHECK(daemon.stop());
    CHECK(testing::times_in(daemon.process().errors(), "accept_refused") == 1);
}

// Each takes a socket, a page of its own and a watch on its process: what was kept from the network's
// clients.
TEST_CASE("same-host clients that use up all descriptors are served by message, and leave none behind") {
    Daemon daemon({"--capacity", "16M"}, testing::under_limit("-n 256"));
    const auto pool = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto before = daemon.descriptors();
    std::vector<std::unique_ptr<client::PoolClient>> all;
    for (std::uint64_t count = 0; count < 80; ++count) {
        all.push_back(testing::open_pool(daemon.uri("?transport=shm&deadline_ms=1000")));
        // Some have memory, some go by message, some find nobody: none gets wrong bytes or waits for ever.
        CHECK(testing::round_trip(*all.back(), count) != "get: wrong bytes");
    }
    CHECK(testing::round_trip(*pool, 1000) == "");
    CHECK(testing::round_trip(*all.front(), 1001) == "");
    all.clear();
    CHECK(testing::comes_true([&] { return daemon.descriptors() <= before + 2; }));  // the domain's index
    const auto later = testing::open_pool(daemon.uri("?transport=shm&deadline_ms=5000"));
    CHECK(testing::round_trip(*later, 1002) == "");
    CHECK(testing::open_pool(daemon.uri("?transport=tcp"), testing::plain_namespace("another"))
              ->status()
              .ready);
    CHECK(daemon.stop());
    CHECK(testing::times_in(daemon.process().errors(), "accept_refused") <= 1);
}
