#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/testing/process.h>
#include <cmpool/testing/temp_folder.h>

#include <fmt/format.h>

namespace cmpool::testing {

/// A real cmpoold in folders of its own, which outlive it: after kill() or stop() it can start() again
/// under the same address.
class Daemon {
public:
    /// `wrapper` is a command that runs the one behind it in its own process, such as under other limits.
    explicit Daemon(std::vector<std::string> options = {"--capacity", "16M"},
                    std::vector<std::string> wrapper = {})
        : options_(std::move(options)), wrapper_(std::move(wrapper)) {
        // As open as /dev/shm itself: who may connect is cmpoold's business.
        std::filesystem::permissions(runtime_.path(), std::filesystem::perms{0711});
        start();
    }

    void start() {
        std::vector<std::string> command(wrapper_);
        command.insert(command.end(), {CMPOOL_DAEMON, "--listen", address_, "--runtime-dir", runtime_ / "run",
                                       "--data-dir", data_ / "data", "--log-level", "warn"});
        command.insert(command.end(), options_.begin(), options_.end());
        const std::string prefix = "ready cmpool://";
        const auto until = std::chrono::steady_clock::now() + Process::kPatience;
        std::optional<std::string> line;
        // Whoever connects somewhere while nobody listens may be given this very port, and keep it a while.
        do {
            process_ = std::make_unique<Process>(command);
            line = process_->read_line();
            if (line && line->starts_with(prefix)) break;
            (void)process_->wait();
        } while (process_->errors().find("in use") != std::string::npos &&
                 std::chrono::steady_clock::now() < until);
        if (!line) std::fputs(process_->errors().c_str(), stderr);
        CMPOOL_ASSERT(line && line->starts_with(prefix));
        address_ = line->substr(prefix.size());
    }
    void kill() {
        process_->signal(SIGKILL);
        CMPOOL_ASSERT(process_->wait() == -SIGKILL);
    }
    /// Whether it ended by itself, well, after being asked to.
    [[nodiscard]] bool stop() {
        process_->signal(SIGTERM);
        return process_->wait() == 0;
    }
    void freeze() const { process_->freeze(); }
    void thaw() const { process_->signal(SIGCONT); }

    /// `query` is such as "?transport=shm".
    [[nodiscard]] std::string uri(const std::string& query = "") const {
        return fmt::format("cmpool://{}{}", address_, query);
    }
    [[nodiscard]] const std::string& address() const noexcept { return address_; }
    [[nodiscard]] std::string socket() const { return runtime_ / "run/cmpoold.sock"; }
    [[nodiscard]] std::filesystem::path runtime_folder() const { return runtime_ / "run"; }
    [[nodiscard]] std::filesystem::path data_folder() const { return data_ / "data"; }
    [[nodiscard]] Process& process() noexcept { return *process_; }

    [[nodiscard]] std::size_t files() const { return count(runtime_ / "run"); }
    [[nodiscard]] std::size_t descriptors() const {
        return count(fmt::format("/proc/{}/fd", process_->pid()));
    }

private:
    static std::size_t count(const std::string& folder) {
        const std::filesystem::directory_iterator all(folder);
        return static_cast<std::size_t>(std::distance(begin(all), end(all)));
    }

    TempFolder runtime_{"/dev/shm"};
    TempFolder data_;
    std::vector<std::string> options_;
    std::vector<std::string> wrapper_;
    std::string address_ = "127.0.0.1:0";
    std::unique_ptr<Process> process_;
};

}  // namespace cmpool::testing
