// Ours and the limit take turns in one process, so that both meet the same neighbours and the same clock.
#include "bench.h"

#include <algorithm>
#include <barrier>
#include <mutex>
#include <optional>
#include <thread>

namespace cmpool::cli {
namespace {

/// Odd, so that a median is one of them. The first is a warm-up that nobody counts.
constexpr std::size_t kRounds = 11;
/// The first part of a slice does not count: who runs after another would pay for the caches' change.
constexpr int kLeadInPart = 4;

/// A thread's own count of one contestant at one number of threads.
struct Tally {
    std::vector<double> rates;  ///< calls a second, one number a slice
    std::vector<float> calls_us;
};

/// What the threads of a race share.
struct Track {
    explicit Track(const Recruit& makes, std::span<const std::uint32_t> counts, double row_seconds,
                   Progress& shown)
        : recruit(makes),
          threads(counts),
          seconds(row_seconds),
          progress(shown),
          together(static_cast<std::ptrdiff_t>(*std::max_element(counts.begin(), counts.end()))) {}

    const Recruit& recruit;
    std::span<const std::uint32_t> threads;
    double seconds;
    Progress& progress;  // the first thread's
    std::barrier<> together;
};

/// What one of them saw: tallies lie by number of threads, then by contestant.
struct Seen {
    std::vector<std::pair<Side, std::string>> contestants;
    std::vector<Tally> tallies;
};

template <class Number>
double quantile(std::vector<Number>& values, double share) {
    if (values.empty()) return 0;
    const auto at = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), values.begin() + at, values.end());
    return static_cast<double>(values[static_cast<std::size_t>(at)]);
}

double seconds_of(Nanos time) { return std::chrono::duration<double>(time).count(); }

/// One contestant for as long as a slice lasts, and for one call at least after its lead-in.
Result<void> slice(Work& work, Nanos length, bool counts, Tally& tally) {
    const SystemClock clock;
    const Instant began = clock.now();
    const Instant counts_from = began + length / kLeadInPart;
    double busy_s = 0;
    std::uint64_t calls = 0;
    Instant ended;
    do {
        work.prepare();
        const Instant begun = clock.now();
        auto done = work.run();
        ended = clock.now();
        if (!done) return done;
        if (begun < counts_from) continue;
        const double took_s = seconds_of(ended - begun);
        busy_s += took_s;
        calls += work.calls();
        if (counts) tally.calls_us.push_back(static_cast<float>(took_s * 1e6 / work.calls()));
    } while (ended < began + length || calls == 0);
    if (counts) tally.rates.push_back(static_cast<double>(calls) / std::max(busy_s, 1e-9));
    return {};
}

Result<Crew> warm_crew(const Recruit& recruit) {
    auto crew = recruit();
    if (!crew) return crew;
    for (const auto& contestant : crew->contestants) {
        auto warm = contestant.work->warm_up();
        if (!warm) return fail(warm.error());
    }
    return crew;
}

Result<Seen> run(Track& track, std::uint32_t thread) {
    const auto crew = warm_crew(track.recruit);
    track.together.arrive_and_wait();
    if (!crew) return fail(crew.error());
    const auto& contestants = crew->contestants;
    Seen seen;
    for (const auto& contestant : contestants)
        seen.contestants.emplace_back(contestant.side, contestant.name);
    seen.tallies.resize(track.threads.size() * contestants.size());
    const auto length = std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(
        track.seconds / static_cast<double>(kRounds * std::max<std::size_t>(contestants.size(), 1))));
    for (std::size_t round = 0; round <= kRounds; ++round) {
        if (thread == 0) track.progress.at(round, kRounds + 1);
        for (std::size_t turn = 0; turn < seen.tallies.size(); ++turn) {
            // One number of threads right after the other, each first in its turn: what is compared lies
            // close together.
            auto& work = *contestants[turn / track.threads.size()].work;
            const std::size_t count = (turn + round) % track.threads.size();
            const bool runs = thread < track.threads[count];
            Result<void> done;
            if (runs) done = work.take_turn();
            track.together.arrive_and_wait();
            if (runs && done)
                done = slice(work, length, round > 0,
                             seen.tallies[count * contestants.size() + turn / track.threads.size()]);
            if (!done) return fail(done.error());
        }
    }
    return seen;
}

Pace pace_of(std::span<Seen> threads, std::size_t contestant, std::size_t tally) {
    const auto& [side, name] = threads.front().contestants[contestant];
    Tally all = std::move(threads.front().tallies[tally]);
    for (auto& thread : threads.subspan(1)) {
        const auto& one = thread.tallies[tally];
        for (std::size_t at = 0; at < all.rates.size(); ++at) all.rates[at] += one.rates[at];
        all.calls_us.insert(all.calls_us.end(), one.calls_us.begin(), one.calls_us.end());
    }
    return {side, name, quantile(all.rates, 0.5), quantile(all.calls_us, 0.5), quantile(all.calls_us, 0.99)};
}

}  // namespace

Result<std::vector<std::vector<Pace>>> race(const Recruit& recruit, std::span<const std::uint32_t> threads,
                                            double seconds, Progress& progress) {
    Track track(recruit, threads, seconds, progress);
    const auto most = *std::max_element(threads.begin(), threads.end());
    std::vector<Seen> seen(most);
    std::mutex guard;  // of what follows
    std::optional<Error> trouble;
    {
        std::vector<std::jthread> running;
        for (std::uint32_t thread = 0; thread < most; ++thread) {
            running.emplace_back([&, thread] {
                auto ended = run(track, thread);
                track.together.arrive_and_drop();  // nobody waits for who has left
                if (ended) {
                    seen[thread] = std::move(*ended);
                    return;
                }
                const std::lock_guard hold(guard);
                if (!trouble) trouble = ended.error();
            });
        }
    }
    if (trouble) return fail(*trouble);
    const std::size_t contestants = seen.front().contestants.size();
    std::vector<std::vector<Pace>> paces(threads.size());
    for (std::size_t count = 0; count < threads.size(); ++count) {
        for (std::size_t contestant = 0; contestant < contestants; ++contestant) {
            paces[count].push_back(
                pace_of(std::span(seen).first(threads[count]), contestant, count * contestants + contestant));
        }
    }
    return paces;
}

}  // namespace cmpool::cli
