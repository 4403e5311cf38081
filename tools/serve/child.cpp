#include "child.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>

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
constexpr Nanos kRestartMin = 100ms;
constexpr Nanos kRestartMax = 5s;
constexpr Nanos kStable = 10s;  // whoever lived so long is started again at once
constexpr std::size_t kLineBytesMax = 512;

}  // namespace

Child::Child(Child&& other) noexcept
    : program_(std::move(other.program_)),
      arguments_(std::move(other.arguments_)),
      pid_(std::exchange(other.pid_, -1)),
      out_(std::move(other.out_)),
      ended_(std::move(other.ended_)),
      started_(other.started_),
      restart_at_(other.restart_at_),
      backoff_(other.backoff_) {}

Result<void> Child::start() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) return fail(Errc::PeerDown, "no pipe: {}", std::strerror(errno));
    out_.reset(fds[0]);
    const UniqueFd write_end(fds[1]);
    std::vector<char*> argv;
    argv.reserve(arguments_.size() + 1);
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
        ::execv(program_.c_str(), argv.data());
        ::_exit(127);
    }
    ended_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    return {};
}

Result<std::string> Child::ready(int stop_fd) {
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

void Child::ended() {
    reap();
    const Instant now = clock_.now();
    backoff_ = now - started_ > kStable ? Nanos{0} : std::clamp(backoff_ * 2, kRestartMin, kRestartMax);
    restart_at_ = now + backoff_;
}

void Child::ask_to_stop() const noexcept {
    if (running()) ::kill(pid_, SIGTERM);
}

void Child::stop(Instant until) {
    if (!running()) return;
    pollfd ended{ended_.get(), POLLIN, 0};
    const auto left = std::max<std::int64_t>((until - clock_.now()) / 1ms, 0);
    if (::poll(&ended, 1, static_cast<int>(left)) <= 0) ::kill(pid_, SIGKILL);
    reap();
}

void Child::reap() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
    pid_ = -1;
    ended_.reset();
}

std::string program_beside(const std::string& name) {
    std::error_code error;
    return (std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / name).string();
}

}  // namespace cmpool::serve
