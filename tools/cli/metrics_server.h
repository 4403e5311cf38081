#pragma once

#include <functional>
#include <memory>
#include <string>

#include <cmpool/base/result.h>

namespace cmpool::cli {

/// Answers GET /metrics with what `collect` says; one request at a time asks it. Made by the process's first
/// thread: from then on SIGINT and SIGTERM end run_until_signal() and nothing else.
class MetricsServer {
public:
    explicit MetricsServer(std::function<std::string()> collect);
    ~MetricsServer();

    /// Listens on HOST:PORT; port 0 picks one. Returns what was taken. Errors: Invalid; PeerDown when it is
    /// in use, or not ours.
    [[nodiscard]] Result<std::string> bind(const std::string& address);
    /// Answers until SIGINT or SIGTERM comes.
    void run_until_signal();

private:
    struct Inside;
    std::unique_ptr<Inside> inside_;
};

}  // namespace cmpool::cli
