// Ours and the limit take turns in one process, so that both meet the same neighbours and the same clock.
#include "bench.h"

#include <algorithm>
#include <barrier>
#include <mutex>
#include <thread>

namespace cmpool::cli {
namespace {

/// Odd, so that a median is one of them. The first is a warm-up that nobody counts.
constexpr std::size_t kRounds = 11;

/// A thread's own count of one contestant.
struct Tally {
    std::string name;
    std::vector<double> rates;  ///< calls a second, one number a slice
    std::vector<float> calls_us;
};
using Tallies = std::vector<Tally>;

template <class Number>
double quantile(std::vector<Number>& values, double share) {
    if (values.empty()) return 0;
    const auto at = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), values.begin() + at, values.end());
    return static_cast<double>(values[static_cast<std::size_t>(at)]);
}

double seconds_of(Nanos time) { return std::chrono::duration<double>(time).count(); }

/// One contestant for as long as a slice lasts, once at least.
Result<void> slice(Work& work, Nanos length, bool counts, Tally& tally) {
    const SystemClock clock;
    const Instant until = clock.now() + length;
    double busy_s = 0;
    std::uint64_t calls = 0;
    Instant ended;
    do {
        work.prepare();
        const Instant begun = clock.now();
        auto done = work.run();
        ended = clock.now();
        if (!done) return done;
        const double took_s = seconds_of(ended - begun);
        busy_s += took_s;
        calls += work.calls();
        if (counts) tally.calls_us.push_back(static_cast<float>(took_s * 1e6 / work.calls()));
    } while (ended < until);
    if (counts) tally.rates.push_back(static_cast<double>(calls) / std::max(busy_s, 1e-9));
    return {};
}

Result<Tallies> run(const Recruit& recruit, std::barrier<>& together, double seconds) {
    auto crew = recruit();
    if (crew) {
        for (const auto& contestant : crew->contestants) {
            auto warm = contestant.work->warm_up();
            if (!warm) crew = fail(warm.error());
            if (!crew) break;
        }
    }
    together.arrive_and_wait();
    if (!crew) return fail(crew.error());
    auto& contestants = crew->contestants;
    Tallies tallies(contestants.size());
    const std::chrono::duration<double> length(
        seconds / static_cast<double>(kRounds * std::max<std::size_t>(contestants.size(), 1)));
    for (std::size_t round = 0; round <= kRounds; ++round) {
        for (std::size_t index = 0; index < contestants.size(); ++index) {
            tallies[index].name = contestants[index].name;
            together.arrive_and_wait();
            auto done = slice(*contestants[index].work, std::chrono::duration_cast<Nanos>(length), round > 0,
                              tallies[index]);
            if (!done) return fail(done.error());
        }
    }
    return tallies;
}

Pace pace_of(std::vector<Tallies>& threads, std::size_t index) {
    Tally all = std::move(threads.front()[index]);
    for (std::size_t thread = 1; thread < threads.size(); ++thread) {
        auto& one = threads[thread][index];
        for (std::size_t at = 0; at < all.rates.size(); ++at) all.rates[at] += one.rates[at];
        all.calls_us.insert(all.calls_us.end(), one.calls_us.begin(), one.calls_us.end());
    }
    return {all.name, quantile(all.rates, 0.5), quantile(all.calls_us, 0.5), quantile(all.calls_us, 0.99)};
}

}  // namespace

Result<std::vector<Pace>> race(const Recruit& recruit, std::uint32_t threads, double seconds) {
    std::barrier together(static_cast<std::ptrdiff_t>(threads));
    std::mutex guard;  // of what follows
    std::vector<Tallies> tallies;
    std::optional<Error> trouble;
    {
        std::vector<std::jthread> running;
        for (std::uint32_t index = 0; index < threads; ++index) {
            running.emplace_back([&] {
                auto seen = run(recruit, together, seconds);
                together.arrive_and_drop();  // nobody waits for who has left
                const std::lock_guard hold(guard);
                if (seen) {
                    tallies.push_back(std::move(*seen));
                } else if (!trouble) {
                    trouble = seen.error();
                }
            });
        }
    }
    if (trouble) return fail(*trouble);
    std::vector<Pace> paces;
    for (std::size_t index = 0; index < tallies.front().size(); ++index)
        paces.push_back(pace_of(tallies, index));
    return paces;
}

}  // namespace cmpool::cli
