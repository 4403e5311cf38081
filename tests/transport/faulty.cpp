// The wrapper that makes a real back end as unkind as a fabric may be.
#include "net.h"

#include <poll.h>

using namespace cmpool;
using namespace cmpool::testing;
using namespace std::chrono_literals;

namespace {

struct Faulty {
    explicit Faulty(FaultPlan plan) : fabric(open_faulty(open_tcp(entropy), plan)) {
        listener = std::move(*fabric->listen("127.0.0.1:0"));
        client = std::make_unique<End>(*fabric->connect(listener->address()));
        pollfd wait{listener->event_fd(), POLLIN, 0};
        REQUIRE(::poll(&wait, 1, 10'000) == 1);
        server = std::make_unique<End>(*listener->accept());
    }
    /// Sends until `count` were taken or the lane is gone; how many were taken.
    std::size_t send(std::size_t count) {
        std::size_t taken = 0;
        while (taken < count) {
            const Op op{.head = as_bytes("m"), .cookie = taken};
            auto some = client->lane().post({&op, 1});
            if (!some && some.error().code == Errc::PeerDown) break;
            taken += some.value_or(0);
            server->pump();
            client->pump();
        }
        return taken;
    }
    void settle(const std::function<bool()>& done) {
        const auto deadline = std::chrono::steady_clock::now() + 10s;
        while (!done() && std::chrono::steady_clock::now() < deadline) {
            pollfd wait{server->lane().event_fd(), POLLIN, 0};
            ::poll(&wait, 1, 1);
            server->pump();
            client->pump();
        }
    }
    SystemEntropy entropy;
    std::unique_ptr<Fabric> fabric;
    std::unique_ptr<Listener> listener;
    std::unique_ptr<End> client, server;
};

}  // namespace

TEST_CASE("lost messages complete like any other and never arrive") {
    Faulty faulty({.seed = 5, .lose_message = 0.5});
    REQUIRE(faulty.send(400) == 400);
    faulty.settle([&] { return faulty.client->completions.size() == 400; });
    CHECK(faulty.client->completions.size() == 400);
    CHECK(faulty.server->messages.size() > 100);
    CHECK(faulty.server->messages.size() < 300);
}

TEST_CASE("completions come late and out of order, but each comes once") {
    Faulty faulty({.seed = 6, .delay_completion = 0.5, .reorder_completion = 0.5});
    REQUIRE(faulty.send(300) == 300);
    faulty.settle([&] { return faulty.client->completions.size() == 300; });
    REQUIRE(faulty.client->completions.size() == 300);
    std::vector<std::uint64_t> cookies;
    for (const auto& each : faulty.client->completions) cookies.push_back(each.cookie);
    CHECK_FALSE(std::is_sorted(cookies.begin(), cookies.end()));
    std::sort(cookies.begin(), cookies.end());
    for (std::size_t at = 0; at < 300; ++at) CHECK(cookies[at] == at);
}

TEST_CASE("a killed lane is down at both ends") {
    Faulty faulty({.seed = 7, .kill_lane = 0.02});
    CHECK(faulty.send(100'000) < 100'000);
    faulty.settle([&] { return faulty.client->down && faulty.server->down; });
    REQUIRE(faulty.client->down);
    REQUIRE(faulty.server->down);
    CHECK(faulty.client->down->code == Errc::PeerDown);
    CHECK(faulty.server->down->code == Errc::PeerDown);
}
