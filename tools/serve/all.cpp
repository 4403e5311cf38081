// One server of three processes, which live and die with this one.
#include "child.h"
#include "roles.h"

#include <cstring>
#include <filesystem>

#include <poll.h>

namespace cmpool::serve {

namespace {

using namespace std::chrono_literals;

constexpr Nanos kStopLimit = 5s;  // then they are killed
constexpr Nanos kLook = 5s;       // nothing depends on it

class Family {
public:
    Family(const RoleOptions& options, std::string runtime_dir, int stop_fd)
        : options_(options), runtime_dir_(std::move(runtime_dir)), stop_fd_(stop_fd) {}
    ~Family() {
        for (const Child& role : roles_) role.ask_to_stop();
        const Instant until = clock_.now() + kStopLimit;
        for (Child& role : roles_) role.stop(until);
        std::error_code ignored;
        std::filesystem::remove_all(runtime_dir_, ignored);
    }

    /// Where the router listens.
    [[nodiscard]] Result<std::string> start() {
        roles_.reserve(3);
        std::vector<std::string> prefill_flags{"prefill",
                                               "--pool",
                                               options_.pool,
                                               "--step-tokens",
                                               fmt::format("{}", options_.step_tokens),
                                               "--runtime-dir",
                                               runtime_dir_};
        if (options_.load_bytes_per_s)
            prefill_flags.insert(prefill_flags.end(),
                                 {"--load-rate", fmt::format("{}", *options_.load_bytes_per_s)});
        auto prefill = add(std::move(prefill_flags), true);
        if (!prefill) return prefill;
        std::vector<std::string> decode_flags{
            "decode",      "--prefill",         *prefill,
            "--handoff",   options_.handoff,    "--pool",
            options_.pool, "--prefill-seconds", fmt::format("{}", options_.prefill_seconds)};
        if (options_.store_decoded) decode_flags.push_back("--store-decoded");
        auto decode = add(std::move(decode_flags), true);
        if (!decode) return decode;
        std::vector<std::string> router_flags{"router",
                                              "--decode",
                                              *decode,
                                              "--prefill",
                                              *prefill,
                                              "--listen",
                                              options_.listen,
                                              "--requests-max",
                                              fmt::format("{}", options_.requests_max),
                                              "--request-seconds",
                                              fmt::format("{}", options_.request_seconds)};
        if (!options_.tokenizer.empty())
            router_flags.insert(router_flags.end(), {"--tokenizer", options_.tokenizer});
        if (!options_.model_name.empty())
            router_flags.insert(router_flags.end(), {"--model-name", options_.model_name});
        auto router = add(std::move(router_flags), false);
        // A port that was picked is kept.
        if (router) roles_.back().stay_at(router->substr(std::strlen("http://")));
        return router;
    }

    void watch() {
        while (true) {
            std::vector<pollfd> fds{{stop_fd_, POLLIN, 0}};
            Nanos sleep = kLook;
            for (const Child& role : roles_) {
                fds.push_back({role.ended_fd(), POLLIN, 0});
                if (!role.running()) sleep = std::min(sleep, role.restart_at() - clock_.now());
            }
            ::poll(fds.data(), fds.size(), static_cast<int>(std::max<std::int64_t>(sleep / 1ms + 1, 0)));
            if (fds[0].revents != 0) return;
            for (std::size_t index = 0; index < roles_.size(); ++index)
                tend(roles_[index], fds[index + 1].revents != 0);
        }
    }

private:
    Result<std::string> add(std::vector<std::string> flags, bool worker) {
        std::vector<std::string> arguments{"cmpool-serve"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        arguments.insert(arguments.end(), {"--model", options_.model});
        if (worker) {
            arguments.insert(arguments.end(), {"--block-tokens", fmt::format("{}", options_.block_tokens),
                                               "--running-max", fmt::format("{}", options_.running_max),
                                               "--threads", fmt::format("{}", options_.threads),
                                               "--kv-memory", fmt::format("{}", options_.kv_bytes)});
        }
        Child& role = roles_.emplace_back("/proc/self/exe", std::move(arguments));
        if (auto started = role.start(); !started) return fail(started.error());
        auto address = role.ready(stop_fd_);
        if (address && worker) role.stay_at(*address);
        return address;
    }

    void tend(Child& role, bool ended) {
        if (role.running() && ended) {
            role.ended();
            fmt::print(stderr, "cmpool-serve: {} ended; it is started again\n", role.name());
        }
        if (!role.running() && clock_.now() >= role.restart_at() && !role.start())
            fmt::print(stderr, "cmpool-serve: {} cannot be started\n", role.name());
    }

    const RoleOptions& options_;
    std::string runtime_dir_;
    int stop_fd_;
    SystemClock clock_;
    std::vector<Child> roles_;
};

}  // namespace

Result<void> run_all(const RoleOptions& options) {
    const int stop = stop_descriptor();
    auto runtime_dir = make_runtime_dir();
    if (!runtime_dir) return fail(runtime_dir.error());
    Family family(options, std::move(*runtime_dir), stop);
    const auto address = family.start();
    if (!address) {
        if (address.error().code == Errc::Again) return {};
        return fail(address.error());
    }
    fmt::print("ready {}\n", *address);
    std::fflush(stdout);
    family.watch();
    return {};
}

}  // namespace cmpool::serve
