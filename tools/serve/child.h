#pragma once

#include <string>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/base/unique_fd.h>

#include <sys/types.h>

namespace cmpool::serve {

/// A program of ours as a child, which says `ready ADDRESS` and dies with us, whatever happens to us.
///
///   Threads  that of main, whose end is what a child notices
class Child {
public:
    /// `arguments` begins with the program's name.
    Child(std::string program, std::vector<std::string> arguments)
        : program_(std::move(program)), arguments_(std::move(arguments)) {}
    Child(Child&& other) noexcept;
    ~Child() { stop(Instant{}); }

    /// Errors: PeerDown.
    [[nodiscard]] Result<void> start();
    /// What it says it is ready at. Errors: PeerDown when it ends, Deadline, both with its name; Again when
    /// `stop_fd` became readable.
    [[nodiscard]] Result<std::string> ready(int stop_fd = -1);
    /// From now on it comes back at this address.
    void stay_at(const std::string& address) { arguments_.insert(arguments_.end(), {"--listen", address}); }

    [[nodiscard]] int ended_fd() const noexcept { return ended_.get(); }
    [[nodiscard]] bool running() const noexcept { return pid_ > 0; }
    [[nodiscard]] const std::string& name() const noexcept { return arguments_[1]; }
    [[nodiscard]] Instant restart_at() const noexcept { return restart_at_; }
    /// It has: says when it may start() again, later and later while it does not live long.
    void ended();
    void ask_to_stop() const noexcept;
    /// Kills it when it has not ended by `until`.
    void stop(Instant until);

private:
    void reap();

    SystemClock clock_;
    std::string program_;
    std::vector<std::string> arguments_;
    pid_t pid_ = -1;
    UniqueFd out_, ended_;
    Instant started_{}, restart_at_{};
    Nanos backoff_{};
};

/// The program `name` beside this one.
[[nodiscard]] std::string program_beside(const std::string& name);

}  // namespace cmpool::serve
