// Clients that are killed at any instant, and a pool ten times too small for what they write.
#include <cstdlib>

#include <cmpool/testing/crowd.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;
using SteadyClock = std::chrono::steady_clock;

namespace {

constexpr std::uint64_t kSeed = 20260101;

std::chrono::seconds duration() {
    const char* seconds = std::getenv("CMPOOL_CHAOS_SECONDS");
    return std::chrono::seconds(seconds == nullptr ? 10 : std::atoi(seconds));
}

void chaos(const std::string& transport) {
    Daemon daemon({"--capacity", "16M", "--shards", "2"});
    const auto watcher = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto descriptors = daemon.descriptors();
    const auto begun = SteadyClock::now();
    const auto most = duration();

    testing::Crowd crowd(daemon.uri("?transport=" + transport), kSeed);
    Rng rng(kSeed);
    // About three a second are killed.
    const auto run = [&](SteadyClock::time_point until) {
        while (SteadyClock::now() < until) {
            crowd.listen(50ms);
            if (rng.chance(0.1)) crowd.replace(rng.below(crowd.size()));
        }
    };
    run(begun + most / 3);
    const auto files = daemon.files();
    const auto memory = testing::private_bytes(daemon.process().pid());
    run(begun + most);
    crowd.end();

    for (const auto& complaint : crowd.wrong) FAIL_CHECK(complaint);
    CHECK(crowd.sum("stored") > 100);
    CHECK(crowd.sum("hits") > 100);
    CHECK(crowd.sum("leased_misses") == 0);
    CHECK((transport == "shm") == (crowd.sum("views") > 100));
    // A loaded machine gives a process its turn when it likes; a call that waits for ever is seconds late.
    CHECK(crowd.sum("overrun_us") < 1'000'000);

    CHECK(daemon.process().wait(0ms) == std::nullopt);
    for (const char* name : {"leases", "leased_bytes", "doomed_bytes", "client_pages"}) {
        CAPTURE(name);
        CHECK(testing::comes_true([&] { return testing::statistic(*watcher, name) == 0; }));
    }
    CHECK(testing::comes_true([&] { return testing::statistic(*watcher, "clients") == 1; }));
    CHECK(testing::comes_true([&] { return daemon.descriptors() <= descriptors + 2; }));  // an index, twice
    CHECK(testing::statistic(*watcher, "corrupt_blocks") == 0);
    CHECK(testing::statistic(*watcher, "evicted_blocks") > 100);
    CHECK(daemon.files() == files);
    const auto grown = testing::private_bytes(daemon.process().pid());
    CHECK(grown < memory + 8 * MiB);
    MESSAGE(transport << ": " << most.count() << " s, " << crowd.kills << " kills, " << crowd.sum("calls")
                      << " calls, " << crowd.sum("stored") << " blocks stored, " << crowd.sum("hits")
                      << " got, " << crowd.sum("views") << " viewed, " << crowd.sum("bytes") / MiB
                      << " MiB compared, " << crowd.sum("troubles") << " troubles, overrun at most "
                      << crowd.sum("overrun_us") << " us, server memory " << memory / KiB << " -> "
                      << grown / KiB << " KiB");
    CHECK(daemon.stop());
}

}  // namespace

TEST_CASE("on shm nobody ever reads a wrong byte, whoever is killed, and nothing stays behind") {
    chaos("shm");
}

TEST_CASE("over tcp nobody ever reads a wrong byte, whoever is killed, and nothing stays behind") {
    chaos("tcp");
}
