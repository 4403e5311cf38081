// Ten thousand connections that say nothing: a place is for who talks.
#include "faults.h"

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;

namespace {

constexpr std::size_t kSilent = 10'000;

}  // namespace

TEST_CASE("ten thousand connections that say nothing are dropped, and others are served meanwhile") {
    if (!testing::may_open(kSilent + 1000)) return;
    Daemon daemon({"--capacity", "16M", "--hello-ms", "1000"});
    const auto pool = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto before = daemon.descriptors();
    std::vector<UniqueFd> silent;
    std::vector<std::unique_ptr<client::PoolClient>> came;
    while (silent.size() < kSilent) {
        silent.push_back(testing::silent_connection(daemon.address()));
        REQUIRE(silent.back());
        if (silent.size() % 500 != 0) continue;
        CHECK(testing::round_trip(*pool, silent.size()) == "");
        came.push_back(testing::open_pool(daemon.uri("?transport=tcp&deadline_ms=5000")));
        CHECK(testing::round_trip(*came.back(), kSilent + silent.size()) == "");
        CHECK(daemon.descriptors() < before + 1024 + 100);  // bounded all the time
    }
    came.clear();
    CHECK(testing::comes_true([&] { return testing::statistic(*pool, "clients") == 1; }));
    CHECK(testing::statistic(*pool, "clients_silent") == kSilent);
    CHECK(testing::statistic(*pool, "clients_refused") == 0);
    CHECK(daemon.descriptors() <= before + 1);
    CHECK(testing::round_trip(*pool, 1) == "");
    CHECK(daemon.stop());
    CHECK(testing::times_in(daemon.process().errors(), "client dropped") == 1);
    MESSAGE(kSilent << " connections");
}

TEST_CASE("one client more than --clients-max hears the number, and gets in when another has left") {
    Daemon daemon({"--capacity", "16M", "--clients-max", "2"});
    auto first = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto second = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto third = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto status = third->status();
    CHECK_FALSE(status.ready);
    REQUIRE(status.trouble);
    CHECK(status.trouble->detail.find("at most 2 clients") != std::string::npos);
    CHECK(testing::statistic(*second, "clients_refused") > 0);
    first.reset();
    CHECK(testing::comes_true([&] {
        third->progress();
        return third->status().ready;
    }));
    CHECK(testing::round_trip(*third, 1) == "");
    CHECK(daemon.stop());
    CHECK(testing::times_in(daemon.process().errors(), "client refused") == 1);
}
