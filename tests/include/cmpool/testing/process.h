#pragma once

#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/base/unique_fd.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cmpool::testing {

/// Another program, with what it prints. Nothing here waits without an end: a deadline that passes is a
/// missing value, and the program is killed when this goes.
class Process {
public:
    using Limit = std::chrono::milliseconds;
    static constexpr Limit kPatience{20'000};

    /// `arguments` begins with the program's path.
    explicit Process(const std::vector<std::string>& arguments) : pid_(start(arguments, out_, err_)) {
        ended_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
        CMPOOL_ASSERT(ended_.get() >= 0);
    }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;
    ~Process() {
        if (status_) return;
        signal(SIGKILL);
        (void)wait();
    }

    [[nodiscard]] pid_t pid() const noexcept { return pid_; }
    void signal(int number) const noexcept {
        if (!status_) ::kill(pid_, number);
    }

    /// Stops it as a debugger would; when this returns it has stopped, or has ended by itself.
    void freeze() const noexcept {
        if (status_) return;
        signal(SIGSTOP);
        siginfo_t seen{};
        CMPOOL_ASSERT(::waitid(P_PID, static_cast<id_t>(pid_), &seen, WSTOPPED | WEXITED | WNOWAIT) == 0);
    }

    /// The next line of its standard output; nothing when it ends or falls silent before one.
    [[nodiscard]] std::optional<std::string> read_line(Limit limit = kPatience) {
        const auto until = std::chrono::steady_clock::now() + limit;
        while (true) {
            if (const auto end = text_.find('\n'); end != std::string::npos) {
                auto line = text_.substr(0, end);
                text_.erase(0, end + 1);
                return line;
            }
            if (!readable(out_.get(), until) || !take(out_.get(), text_)) return std::nullopt;
        }
    }

    /// Its exit code, or minus the signal that ended it.
    [[nodiscard]] std::optional<int> wait(Limit limit = kPatience) {
        if (status_) return status_;
        const auto until = std::chrono::steady_clock::now() + limit;
        // A full pipe would keep it from ending.
        while (readable(err_.get(), until) && take(err_.get(), errors_)) continue;
        if (!readable(ended_.get(), until)) return std::nullopt;
        int status = 0;
        ::waitpid(pid_, &status, 0);
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        return status_;
    }

    /// What it printed to standard error; whole once wait() has returned.
    [[nodiscard]] const std::string& errors() const noexcept { return errors_; }

private:
    using Until = std::chrono::steady_clock::time_point;

    static pid_t start(const std::vector<std::string>& arguments, UniqueFd& out, UniqueFd& err) {
        UniqueFd out_write;
        UniqueFd err_write;
        pipe(out, out_write);
        pipe(err, err_write);
        std::vector<char*> argv;
        argv.reserve(arguments.size() + 1);
        for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
        argv.push_back(nullptr);
        const pid_t pid = ::fork();
        CMPOOL_ASSERT(pid >= 0);
        if (pid == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            ::dup2(out_write.get(), STDOUT_FILENO);
            ::dup2(err_write.get(), STDERR_FILENO);
            ::execv(argv[0], argv.data());
            ::_exit(127);
        }
        return pid;
    }
    static void pipe(UniqueFd& read_end, UniqueFd& write_end) {
        int fds[2];
        CMPOOL_ASSERT(::pipe2(fds, O_CLOEXEC) == 0);
        read_end.reset(fds[0]);
        write_end.reset(fds[1]);
    }
    static bool readable(int fd, Until until) {
        while (true) {
            const auto left =
                std::chrono::duration_cast<Limit>(until - std::chrono::steady_clock::now()).count();
            pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
            const int ready = ::poll(&waiting, 1, left > 0 ? static_cast<int>(left) : 0);
            if (ready >= 0 || errno != EINTR) return ready > 0;
        }
    }
    static bool take(int fd, std::string& into) {
        char buffer[4096];
        const auto got = ::read(fd, buffer, sizeof buffer);
        if (got > 0) into.append(buffer, static_cast<std::size_t>(got));
        return got > 0;
    }

    UniqueFd out_;
    UniqueFd err_;
    pid_t pid_;
    UniqueFd ended_;
    std::string text_;
    std::string errors_;
    std::optional<int> status_;
};

}  // namespace cmpool::testing
