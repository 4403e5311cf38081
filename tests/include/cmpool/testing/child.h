#pragma once

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <string>

#include <cmpool/base/assert.h>
#include <cmpool/base/unique_fd.h>

#include <grp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cmpool::testing {

/// One end of a conversation between two processes, a line at a time.
class Talk {
public:
    using Limit = std::chrono::milliseconds;
    static constexpr Limit kPatience{20'000};

    explicit Talk(int fd) : fd_(fd) {}
    void say(const std::string& line) const {
        (void)::send(fd_.get(), line.data(), line.size(), MSG_NOSIGNAL);
    }
    /// Nothing when the other has left, or says nothing for so long.
    [[nodiscard]] std::optional<std::string> hear(Limit limit = kPatience) const {
        pollfd ready{.fd = fd_.get(), .events = POLLIN, .revents = 0};
        if (::poll(&ready, 1, static_cast<int>(limit.count())) <= 0) return std::nullopt;
        std::array<char, 65'536> line;
        const auto bytes = ::recv(fd_.get(), line.data(), line.size(), 0);
        if (bytes <= 0) return std::nullopt;
        return std::string(line.data(), static_cast<std::size_t>(bytes));
    }

private:
    UniqueFd fd_;
};

/// A piece of a test in a process of its own, under a user of its own where that is asked for. Its
/// checks are its parent's: it says what it saw. It is killed when this goes, or its parent.
class Child {
public:
    explicit Child(const std::function<void(const Talk&)>& body, std::optional<uid_t> uid = std::nullopt) {
        std::array<int, 2> ends{};
        CMPOOL_ASSERT(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0);
        pid_ = ::fork();
        CMPOOL_ASSERT(pid_ >= 0);
        if (pid_ == 0) {
            ::close(ends[0]);
            if (uid) become(*uid);
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            {
                const Talk talk(ends[1]);
                body(talk);
            }
            ::_exit(0);
        }
        ::close(ends[1]);
        talk_.emplace(ends[0]);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        signal(SIGKILL);
        signal(SIGCONT);
        int status = 0;
        ::waitpid(pid_, &status, 0);
    }

    [[nodiscard]] pid_t pid() const noexcept { return pid_; }
    void signal(int number) const noexcept { ::kill(pid_, number); }
    /// When this returns it has stopped.
    void freeze() const noexcept {
        signal(SIGSTOP);
        siginfo_t seen{};
        CMPOOL_ASSERT(::waitid(P_PID, static_cast<id_t>(pid_), &seen, WSTOPPED | WNOWAIT) == 0);
    }
    void thaw() const noexcept { signal(SIGCONT); }
    void say(const std::string& line) const { talk_->say(line); }
    [[nodiscard]] std::string hear() const { return talk_->hear().value_or("(silence)"); }
    /// Says a line and hears the answer.
    [[nodiscard]] std::string ask(const std::string& line) const {
        say(line);
        return hear();
    }

private:
    // Ordinary also in that others of the same user may look into it.
    static void become(uid_t uid) {
        CMPOOL_ASSERT(::setgroups(0, nullptr) == 0);
        CMPOOL_ASSERT(::setgid(uid) == 0);
        CMPOOL_ASSERT(::setuid(uid) == 0);
        ::prctl(PR_SET_DUMPABLE, 1);
    }

    pid_t pid_ = -1;
    std::optional<Talk> talk_;
};

}  // namespace cmpool::testing
