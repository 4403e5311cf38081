// Clients and pool are stopped at any instant, as by a debugger or a starved machine, and a wire that is cut
// tells neither side.
#include "faults.h"

#include <cmpool/testing/crowd.h>
#include <cmpool/testing/proxy.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;
using SteadyClock = std::chrono::steady_clock;

namespace {

constexpr auto kRun = 3s;
constexpr std::uint64_t kStoppedMaxMs = 300;
/// What a call may be late by: stopped itself, twice.
constexpr std::uint64_t kOverrunMax = 2'000'000;

void check_well(testing::Crowd& crowd, Daemon& daemon, client::PoolClient& watcher, std::size_t descriptors) {
    CHECK(crowd.all_go_on(10s));
    crowd.end();
    for (const auto& complaint : crowd.wrong) FAIL_CHECK(complaint);
    CHECK(crowd.sum("hits") > 50);
    CHECK(crowd.sum("leased_misses") == 0);
    CHECK(crowd.sum("overrun_us") < kOverrunMax);
    for (const char* name : {"leases", "leased_bytes", "doomed_bytes", "writing_bytes", "client_pages"}) {
        CAPTURE(name);
        CHECK(testing::comes_true([&] { return testing::statistic(watcher, name) == 0; }));
    }
    CHECK(testing::comes_true([&] { return testing::statistic(watcher, "clients") == 1; }));
    CHECK(testing::comes_true([&] { return daemon.descriptors() <= descriptors + 2; }));  // an index, twice
    CHECK(testing::statistic(watcher, "corrupt_blocks") == 0);
    CHECK(daemon.stop());
}

}  // namespace

TEST_CASE(
    "clients and a pool that are stopped at any moment read no wrong byte, and all goes on afterwards") {
    for (const std::string transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon({"--capacity", "16M", "--shards", "2"});
        const auto watcher = testing::open_pool(daemon.uri("?transport=tcp"));
        const auto descriptors = daemon.descriptors();
        Rng rng(7);
        testing::Crowd crowd(daemon.uri("?transport=" + transport), 8);
        std::size_t stops = 0;
        for (const auto until = SteadyClock::now() + kRun; SteadyClock::now() < until; ++stops) {
            crowd.listen(30ms);
            const auto stopped = rng.below(crowd.size() + 1);
            const bool pool = stopped == crowd.size();
            pool ? daemon.freeze() : crowd.freeze(stopped);
            const auto thaw = SteadyClock::now() + std::chrono::milliseconds(rng.below(kStoppedMaxMs));
            while (SteadyClock::now() < thaw) crowd.listen(10ms);
            pool ? daemon.thaw() : crowd.thaw(stopped);
        }
        check_well(crowd, daemon, *watcher, descriptors);
        MESSAGE(transport << ": " << stops << " stops, " << crowd.sum("calls") << " calls, "
                          << crowd.sum("hits") << " hits, late by at most " << crowd.sum("overrun_us")
                          << " us");
    }
}

TEST_CASE("a wire that is cut in the middle of anything, and tells nobody, costs misses and no wrong byte") {
    testing::Proxy wire;
    Daemon daemon({"--capacity", "16M"});
    wire.lead_to(daemon.address());
    const auto watcher = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto descriptors = daemon.descriptors();
    Rng rng(9);
    testing::Crowd crowd(fmt::format("cmpool://{}?transport=tcp", wire.address()), 10);
    std::size_t cuts = 0;
    for (const auto until = SteadyClock::now() + kRun; SteadyClock::now() < until; ++cuts) {
        crowd.listen(50ms);
        wire.cut(true);
        const auto mended = SteadyClock::now() + std::chrono::milliseconds(rng.below(kStoppedMaxMs));
        while (SteadyClock::now() < mended) crowd.listen(10ms);
        wire.cut(false);
    }
    check_well(crowd, daemon, *watcher, descriptors);
    MESSAGE(cuts << " cuts, " << crowd.sum("calls") << " calls, " << crowd.sum("hits") << " hits");
}
