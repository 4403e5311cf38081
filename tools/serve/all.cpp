// One server of three processes, which live and die with this one.
#include "roles.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <optional>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/unique_fd.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cmpool::serve {

namespace {

using namespace std::chrono_literals;

constexpr Nanos kReadyLimit = 120s;  // a large model is read meanwhile
constexpr Nanos kStopLimit = 5s;     // then they are killed
constexpr Nanos kRestartMin = 100ms;
constexpr Nanos kRestartMax = 5s;
constexpr Nanos kStable = 10s;  // whoever lived so long is started again at once
constexpr std::size_t kLineBytesMax = 512;

/// This very program in another role.
class Role {
public:
    explicit Role(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {}
    Role(Role&&) noexcept = default;
    ~Role() { stop(Instant{}); }

    /// Errors: PeerDown.
    [[nodiscard]] Result<void> start() {
        int fds[2];
        if (::pipe2(fds, O_CLOEXEC) != 0) return fail(Errc::PeerDown, "no pipe: {}", std::strerror(errno));
        out_.reset(fds[0]);
        const UniqueFd write_end(fds[1]);
        std::vector<char*> argv;
        for (auto& argument : arguments_) argv.push_back(argument.data());
        argv.push_back(nullptr);
        const pid_t parent = ::getpid();
        started_ = clock_.now();
        pid_ = ::fork();
        if (pid_ < 0) return fail(Errc::PeerDown, "no process: {}", std::strerror(errno));
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() != parent) ::_exit(1);  // it died before the line above
            sigset_t none;
            ::sigemptyset(&none);
            ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
            ::dup2(write_end.get(), STDOUT_FILENO);
            ::execv("/proc/self/exe", argv.data());
            ::_exit(127);
        }
        ended_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
        return {};
    }

    /// What it says it is ready at. Errors: PeerDown when it ends, Deadline, both with the role's name;
    /// Again when `stop_fd` became readable.
    [[nodiscard]] Result<std::string> ready(int stop_fd) {
        const Instant until = clock_.now() + kReadyLimit;
        std::string line;
        while (line.find('\n') == std::string::npos) {
            pollfd fds[] = {{out_.get(), POLLIN, 0}, {stop_fd, POLLIN, 0}};
            const auto left = (until - clock_.now()) / 1ms;
            if (left <= 0) return fail(Errc::Deadline, "{} was not ready in time", name());
            if (::poll(fds, 2, static_cast<int>(left)) < 0 && errno != EINTR) break;
            if (fds[1].revents != 0) return fail(Errc::Again, "stopped while {} started", name());
            if (fds[0].revents == 0) continue;
            std::array<char, kLineBytesMax> bytes;
            const auto got = ::read(out_.get(), bytes.data(), bytes.size());
            if (got <= 0 || line.size() > kLineBytesMax)
                return fail(Errc::PeerDown, "{} ended before it was ready", name());
            line.append(bytes.data(), static_cast<std::size_t>(got));
        }
        constexpr std::string_view kPrefix = "ready ";
        if (!line.starts_with(kPrefix)) return fail(Errc::PeerDown, "{} said \"{}\"", name(), line);
        return line.substr(kPrefix.size(), line.find('\n') - kPrefix.size());
    }

    /// From now on it comes back at this address.
    void stay_at(const std::string& address) { arguments_.insert(arguments_.end(), {"--listen", address}); }

    [[nodiscard]] int ended_fd() const noexcept { return ended_.get(); }
    [[nodiscard]] bool running() const noexcept { return pid_ > 0; }
    [[nodiscard]] const std::string& name() const noexcept { return arguments_[1]; }
    [[nodiscard]] Instant restart_at() const noexcept { return restart_at_; }
    void ended() {
        reap();
        const Instant now = clock_.now();
        backoff_ = now - started_ > kStable ? Nanos{0} : std::clamp(backoff_ * 2, kRestartMin, kRestartMax);
        restart_at_ = now + backoff_;
    }
    void ask_to_stop() const {
        if (running()) ::kill(pid_, SIGTERM);
    }
    void stop(Instant until) {
        if (!running()) return;
        pollfd ended{ended_.get(), POLLIN, 0};
        const auto left = std::max<std::int64_t>((until - clock_.now()) / 1ms, 0);
        if (::poll(&ended, 1, static_cast<int>(left)) <= 0) ::kill(pid_, SIGKILL);
        reap();
    }

private:
    void reap() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
        pid_ = -1;
        ended_.reset();
    }

    SystemClock clock_;
    std::vector<std::string> arguments_;
    pid_t pid_ = -1;
    UniqueFd out_, ended_;
    Instant started_{}, restart_at_{};
    Nanos backoff_{};
};

class Family {
public:
    Family(const RoleOptions& options, std::string runtime_dir, int stop_fd)
        : options_(options), runtime_dir_(std::move(runtime_dir)), stop_fd_(stop_fd) {}
    ~Family() {
        for (const Role& role : roles_) role.ask_to_stop();
        const Instant until = clock_.now() + kStopLimit;
        for (Role& role : roles_) role.stop(until);
        std::error_code ignored;
        std::filesystem::remove_all(runtime_dir_, ignored);
    }

    /// Where the router listens.
    [[nodiscard]] Result<std::string> start() {
        roles_.reserve(3);
        const auto prefill = add({"prefill", "--pool", options_.pool, "--step-tokens",
                                  fmt::format("{}", options_.step_tokens), "--runtime-dir", runtime_dir_},
                                 true);
        if (!prefill) return prefill;
        std::vector<std::string> decode_flags{
            "decode",      "--prefill",         *prefill,
            "--handoff",   options_.handoff,    "--pool",
            options_.pool, "--prefill-seconds", fmt::format("{}", options_.prefill_seconds)};
        if (options_.store_decoded) decode_flags.push_back("--store-decoded");
        const auto decode = add(std::move(decode_flags), true);
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
            Nanos sleep = kRestartMax;
            for (const Role& role : roles_) {
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
                                               "--kv-memory", fmt::format("{}", options_.kv_bytes)});
        }
        Role& role = roles_.emplace_back(std::move(arguments));
        if (auto started = role.start(); !started) return fail(started.error());
        auto address = role.ready(stop_fd_);
        if (address && worker) role.stay_at(*address);
        return address;
    }

    void tend(Role& role, bool ended) {
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
    std::vector<Role> roles_;
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
