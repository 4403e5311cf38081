// Everything that may go wrong with a pool and its clients, in an order that a seed draws: a few seconds in
// CTest, as long as one likes by hand.
#include "faults.h"
#include "wall.h"

#include <cstdlib>
#include <functional>

#include <cmpool/testing/crowd.h>
#include <cmpool/testing/proxy.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;
using SteadyClock = std::chrono::steady_clock;

namespace {

constexpr auto kEpisode = 6s;
constexpr std::uint64_t kSilentAtOnce = 50;
constexpr std::size_t kSilentKept = 500;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// What all episodes have seen.
struct Sums {
    std::uint64_t episodes = 0, faults = 0, calls = 0, hits = 0, views = 0, bytes = 0, overrun_us = 0;
    std::uint64_t wrong = 0, hangs = 0, leaks = 0, deaths = 0;
};

/// One pool, its clients, and what befalls them.
class Episode {
public:
    explicit Episode(std::uint64_t seed)
        : rng_(seed),
          transport_(rng_.chance(0.5) ? "shm" : "tcp"),
          daemon_({"--capacity", "16M", "--shards", rng_.chance(0.5) ? "1" : "2", "--hello-ms", "500"},
                  testing::WallClock::can_jump() ? wall_.wrapper() : std::vector<std::string>{}),
          watcher_(testing::open_pool(daemon_.uri("?transport=tcp&deadline_ms=5000"))),
          descriptors_(daemon_.descriptors()) {
        wire_.lead_to(daemon_.address());
        // Over a wire that can be cut; same-host clients go on to the socket that the pool names.
        crowd_ = std::make_unique<testing::Crowd>(
            fmt::format("cmpool://{}?transport={}", wire_.address(), transport_), rng_.next());
    }

    void run(Sums& sums) {
        for (const auto until = SteadyClock::now() + kEpisode; SteadyClock::now() < until;) {
            crowd_->listen(30ms);
            befall();
            ++sums.faults;
        }
        silent_.clear();
        if (!crowd_->all_go_on(15s)) {
            ++sums.hangs;
            FAIL_CHECK("a client did not go on");
        }
        crowd_->end();
        for (const auto& complaint : crowd_->wrong) FAIL_CHECK(complaint);
        sums.wrong += crowd_->wrong.size();
        if (crowd_->sum("leased_misses") > 0 && !restarted_) FAIL_CHECK("a leased block was a miss");
        look_for_leaks(sums);
        if (!daemon_.stop()) {
            ++sums.deaths;
            FAIL_CHECK("the pool did not end well");
        }
        ++sums.episodes;
        for (const auto& [sum, name] : {std::pair(&sums.calls, "calls"),
                                        {&sums.hits, "hits"},
                                        {&sums.views, "views"},
                                        {&sums.bytes, "bytes"}})
            *sum += crowd_->sum(name);
        sums.overrun_us = std::max(sums.overrun_us, crowd_->sum("overrun_us"));
    }

private:
    std::chrono::milliseconds moment() { return std::chrono::milliseconds(rng_.below(400)); }
    void listen_for(std::chrono::milliseconds limit) {
        for (const auto until = SteadyClock::now() + limit; SteadyClock::now() < until;) crowd_->listen(10ms);
    }

    void befall() {
        const auto worker = rng_.below(crowd_->size());
        switch (rng_.below(7)) {
            case 0:
                return crowd_->replace(worker);
            case 1:
                crowd_->freeze(worker);
                listen_for(moment());
                return crowd_->thaw(worker);
            case 2:
                daemon_.freeze();
                listen_for(moment());
                return daemon_.thaw();
            case 3:
                wire_.cut(true);
                listen_for(moment());
                return wire_.cut(false);
            case 4:
                return wall_.move(static_cast<std::int64_t>(rng_.below(20 * 365 * 86'400)) -
                                  10 * 365 * 86'400);
            case 5:
                for (std::uint64_t count = rng_.below(kSilentAtOnce); count > 0; --count)
                    silent_.push_back(testing::silent_connection(daemon_.address()));
                if (silent_.size() > kSilentKept) silent_.clear();
                return;
            default:
                if (!rng_.chance(0.2)) return crowd_->replace(worker);
                daemon_.kill();
                listen_for(moment());
                daemon_.start();
                restarted_ = true;
        }
    }

    void look_for_leaks(Sums& sums) {
        const auto gone = [&](std::string_view name, std::uint64_t left) {
            if (testing::comes_true([&] { return testing::statistic(*watcher_, name) == left; })) return;
            ++sums.leaks;
            FAIL_CHECK(std::string(name) << " is " << testing::statistic(*watcher_, name));
        };
        for (const char* name : {"leases", "leased_bytes", "doomed_bytes", "writing_bytes", "client_pages"})
            gone(name, 0);
        gone("clients", 1);
        gone("corrupt_blocks", 0);
        if (testing::comes_true([&] { return daemon_.descriptors() <= descriptors_ + 4; })) return;
        ++sums.leaks;
        FAIL_CHECK("descriptors: " << descriptors_ << " before, " << daemon_.descriptors() << " after");
    }

    Rng rng_;
    std::string transport_;
    testing::WallClock wall_;
    testing::Proxy wire_;
    Daemon daemon_;
    std::unique_ptr<client::PoolClient> watcher_;
    std::size_t descriptors_;
    std::unique_ptr<testing::Crowd> crowd_;
    std::vector<UniqueFd> silent_;
    bool restarted_ = false;
};

}  // namespace

TEST_CASE(
    "whatever befalls a pool and its clients, no byte is wrong, nobody hangs and nothing is left behind") {
    const auto first = from_environment("CMPOOL_FAULT_SEED", 1);
    const auto begun = SteadyClock::now();
    const auto until = begun + std::chrono::minutes(from_environment("CMPOOL_FAULT_MINUTES", 0));
    Sums sums;
    for (std::uint64_t seed = first; seed == first || SteadyClock::now() < until; ++seed) {
        CAPTURE(seed);
        Episode(seed).run(sums);
    }
    CHECK(sums.hits > 100);
    CHECK(sums.overrun_us < 5'000'000);
    const auto took = std::chrono::duration_cast<std::chrono::seconds>(SteadyClock::now() - begun);
    MESSAGE(sums.episodes << " runs, " << took.count() << " s, " << sums.faults << " faults, " << sums.calls
                          << " calls, " << sums.hits << " hits, " << sums.views << " views, "
                          << sums.bytes / MiB << " MiB compared; wrong " << sums.wrong << ", hangs "
                          << sums.hangs << ", leaks " << sums.leaks << ", deaths " << sums.deaths
                          << ", late by at most " << sums.overrun_us / 1000 << " ms");
}
