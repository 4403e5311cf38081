#include "replay.h"

#include "connect.h"
#include "print.h"
#include "progress.h"
#include "verbs.h"

#include <charconv>
#include <csignal>
#include <memory>

#include <cmpool/base/assert.h>
#include <cmpool/base/clock.h>
#include <cmpool/base/units.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cmpool::cli {
namespace {

struct ReplayOptions {
    Common common;
    Place place{.name = "replay"};
    std::string file;
    std::string block_bytes = "4KiB";
    std::string speed = "max";
    std::uint32_t clients = 1;
    std::size_t limit = kTraceRequestsMax;
};

constexpr std::chrono::milliseconds kLook{100};

/// Counts of all clients, in memory that they share with us.
class Shared {
public:
    explicit Shared(std::uint32_t clients) : clients_(clients) {
        void* memory = ::mmap(nullptr, sizeof(ReplayCounts) * clients, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CMPOOL_ASSERT(memory != MAP_FAILED);
        counts_ = static_cast<ReplayCounts*>(memory);
        for (std::uint32_t client = 0; client < clients; ++client) new (&counts_[client]) ReplayCounts{};
    }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    ~Shared() { ::munmap(counts_, sizeof(ReplayCounts) * clients_); }

    [[nodiscard]] ReplayCounts& of(std::uint32_t client) const noexcept { return counts_[client]; }
    [[nodiscard]] std::uint64_t sum(std::atomic<std::uint64_t> ReplayCounts::*count) const noexcept {
        std::uint64_t all = 0;
        for (std::uint32_t client = 0; client < clients_; ++client) all += counts_[client].*count;
        return all;
    }
    /// What `part` of a verb's calls took at most; 0 where there were none.
    [[nodiscard]] double percentile_us(ReplayVerb verb, double part) const {
        std::array<std::uint64_t, ReplayCounts::kBuckets> all{};
        std::uint64_t calls = 0;
        for (std::uint32_t client = 0; client < clients_; ++client) {
            const auto& buckets = counts_[client].latencies[static_cast<std::size_t>(verb)];
            for (std::size_t at = 0; at < all.size(); ++at) all[at] += buckets[at];
        }
        for (const std::uint64_t count : all) calls += count;
        auto left = static_cast<std::uint64_t>(part * static_cast<double>(calls));
        for (std::size_t at = 0; at < all.size() && calls > 0; ++at) {
            if (all[at] > left) return bucket_us(at);
            left -= all[at];
        }
        return 0;
    }

private:
    std::uint32_t clients_;
    ReplayCounts* counts_;
};

/// Client processes: each is a client of its own, as engines are.
class Crew {
public:
    Crew(const ReplayPlan& plan, std::span<const TraceRequest> trace, const Shared& shared) {
        for (std::uint32_t client = 0; client < plan.clients; ++client) {
            const pid_t pid = ::fork();
            CMPOOL_ASSERT(pid >= 0);
            if (pid == 0) {
                ::prctl(PR_SET_PDEATHSIG, SIGKILL);
                const auto done = replay_requests(plan, trace, client, shared.of(client));
                if (!done) complain(fmt::format("client {}: {}", client, done.error().detail));
                ::_exit(done ? kSuccess : kFailure);
            }
            pids_.push_back(pid);
        }
    }
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;
    ~Crew() {
        for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
        for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
    }

    /// Looks who has ended; true when all have.
    bool ended() {
        std::erase_if(pids_, [&](pid_t pid) {
            int status = 0;
            if (::waitpid(pid, &status, WNOHANG) != pid) return false;
            failed_ += WIFEXITED(status) && WEXITSTATUS(status) == kSuccess ? 0 : 1;
            return true;
        });
        return pids_.empty();
    }
    [[nodiscard]] std::size_t failed() const noexcept { return failed_; }

private:
    std::vector<pid_t> pids_;
    std::size_t failed_ = 0;
};

Json report(const Shared& shared, double seconds) {
    const auto sum = [&](auto count) { return shared.sum(count); };
    Json object{{"requests", sum(&ReplayCounts::requests)},
                {"blocks", sum(&ReplayCounts::blocks)},
                {"tokens", sum(&ReplayCounts::tokens)},
                {"hit_blocks", sum(&ReplayCounts::hit_blocks)},
                {"hit_tokens", sum(&ReplayCounts::hit_tokens)},
                {"put_blocks", sum(&ReplayCounts::put_blocks)},
                {"put_copies", sum(&ReplayCounts::put_copies)},
                {"got_bytes", sum(&ReplayCounts::got_bytes)},
                {"put_bytes", sum(&ReplayCounts::put_bytes)},
                {"errors", sum(&ReplayCounts::errors)},
                {"troubles", sum(&ReplayCounts::troubles)},
                {"deadline_overruns", sum(&ReplayCounts::deadline_overruns)},
                {"verify_failures", sum(&ReplayCounts::verify_failures)},
                {"seconds", seconds}};
    for (const auto& [verb, name] : {std::pair(ReplayVerb::Match, "match"), std::pair(ReplayVerb::Get, "get"),
                                     std::pair(ReplayVerb::Put, "put")}) {
        for (const auto& [part, title] :
             {std::pair(0.5, "p50"), std::pair(0.9, "p90"), std::pair(0.99, "p99")})
            object[fmt::format("{}_{}_us", name, title)] = shared.percentile_us(verb, part);
    }
    return object;
}

void print(const Json& seen) {
    const auto number = [&](const char* name) { return seen.at(name).get<std::uint64_t>(); };
    const auto part = [&](const char* name, const char* of) {
        return number(of) == 0 ? 0.0
                               : 100.0 * static_cast<double>(number(name)) / static_cast<double>(number(of));
    };
    fmt::print("{} requests, {} blocks, {} tokens in {:.1f} s\n", grouped(number("requests")),
               grouped(number("blocks")), grouped(number("tokens")), seen.at("seconds").get<double>());
    fmt::print("reused  {} blocks ({:.1f} %), {} prefix tokens ({:.1f} %), {}\n",
               grouped(number("hit_blocks")), part("hit_blocks", "blocks"), grouped(number("hit_tokens")),
               part("hit_tokens", "tokens"), format_bytes(number("got_bytes")));
    fmt::print("stored  {} blocks, {} copies, {}\n", grouped(number("put_blocks")),
               grouped(number("put_copies")), format_bytes(number("put_bytes")));
    fmt::print("errors  {}; wrong bytes {}; late calls {}; calls without an answer {}\n", number("errors"),
               number("verify_failures"), number("deadline_overruns"), number("troubles"));
    for (const char* verb : {"match", "get", "put"}) {
        fmt::print("{:<6}  p50 {:.0f} us, p90 {:.0f} us, p99 {:.0f} us\n", verb,
                   seen.at(fmt::format("{}_p50_us", verb)).get<double>(),
                   seen.at(fmt::format("{}_p90_us", verb)).get<double>(),
                   seen.at(fmt::format("{}_p99_us", verb)).get<double>());
    }
}

Result<ReplayPlan> plan_of(const ReplayOptions& options) {
    auto uri = options.common.uri();
    if (!uri) return fail(uri.error());
    if (!options.place.tenant.empty()) uri->tenant = options.place.tenant;
    const auto bytes = parse_bytes(options.block_bytes);
    if (!bytes) return fail(bytes.error());
    if (*bytes == 0 || *bytes > model::kBlockBytesMax) {
        return fail(Errc::Invalid, "--block-bytes: expected 1 to {}, saw {}",
                    format_bytes(model::kBlockBytesMax), options.block_bytes);
    }
    ReplayPlan plan{.uri = *uri, .spec = tool_namespace(options.place), .clients = options.clients};
    plan.block_bytes = static_cast<std::uint32_t>(*bytes);
    // Chains, though their keys are the trace's.
    plan.spec.layout = fmt::format("trace, {} bytes", *bytes);
    plan.spec.revision = std::to_string(*bytes);
    plan.spec.group_blocks = model::kGroupBlocksDefault;
    if (options.speed != "max") {
        const char* end = options.speed.data() + options.speed.size();
        const auto parsed = std::from_chars(options.speed.data(), end, plan.speed);
        if (parsed.ec != std::errc{} || parsed.ptr != end || !(plan.speed > 0))
            return fail(Errc::Invalid, "--speed: expected a factor above 0, or max, saw {}", options.speed);
    }
    return plan;
}

Result<int> replay(const ReplayOptions& options) {
    const auto plan = plan_of(options);
    if (!plan) return fail(plan.error());
    const auto trace = read_trace(options.file, options.limit);
    if (!trace) return fail(trace.error());
    const Shared shared(plan->clients);
    const SystemClock clock;
    const Instant begin = clock.now();
    Crew crew(*plan, *trace, shared);
    {
        Progress progress;
        progress.begin("requests");
        while (!crew.ended()) {
            progress.at(shared.sum(&ReplayCounts::requests), trace->size());
            const timespec time{.tv_sec = 0, .tv_nsec = Nanos(kLook).count()};
            ::nanosleep(&time, nullptr);
        }
    }
    const auto seen = report(shared, static_cast<double>((clock.now() - begin).count()) / 1e9);
    options.common.json ? print_json(seen) : print(seen);
    const bool well = crew.failed() == 0 && shared.sum(&ReplayCounts::errors) == 0 &&
                      shared.sum(&ReplayCounts::verify_failures) == 0;
    return well ? kSuccess : kFailure;
}

}  // namespace

void add_replay(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("replay", "Drives a pool or a cluster with a recorded trace");
    const auto options = std::make_shared<ReplayOptions>();
    verb->add_option("FILE", options->file,
                     "In Mooncake's format, plain or zstd: a request a line, hash_ids each")
        ->required()
        ->type_name("");
    verb->add_option("--block-bytes", options->block_bytes, "Size of each block")
        ->type_name("SIZE")
        ->take_last()
        ->capture_default_str();
    verb->add_option("--speed", options->speed,
                     "How many times faster than it was recorded; max: without waiting")
        ->type_name("X|max")
        ->take_last()
        ->capture_default_str();
    verb->add_option("--clients", options->clients, "Client processes, which take requests in turn")
        ->check(CLI::Range(1U, kReplayClientsMax).description(""))
        ->type_name("N")
        ->take_last()
        ->capture_default_str();
    verb->add_option("--limit", options->limit, "At most so many requests")
        ->check(CLI::Range(std::size_t{1}, kTraceRequestsMax).description(""))
        ->type_name("N")
        ->take_last();
    add_place(*verb, options->place);
    add_common(*verb, options->common);
    verb->footer(
        "Each block's bytes follow from its key, and all that is read is compared. Exit code 0: no error "
        "and\n"
        "no wrong byte; what the pool has lost is recomputed, as an engine would.\n"
        "Example: cmpool-cli replay conversation.jsonl.zst --block-bytes 64KiB --speed 10 --clients 4");
    verb->callback([&run, options] { run = [options] { return replay(*options); }; });
}

}  // namespace cmpool::cli
