#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <cmpool/base/result.h>
#include <cmpool/base/unique_fd.h>

#include <sys/types.h>

namespace cmpool::cli {

/// A redis-server of this process alone, on a free port of 127.0.0.1, that keeps nothing on disk.
///
///   Lifetime  ends with this, or with the thread that started it, however that ends; leaves no file
///   Threads   that of whoever started it
class RedisServer {
public:
    /// Returns once it takes connections.
    /// Errors: Unsupported where PATH has none; PeerDown with its last word, where it does not serve.
    [[nodiscard]] static Result<std::unique_ptr<RedisServer>> start();
    ~RedisServer();
    RedisServer(const RedisServer&) = delete;
    RedisServer& operator=(const RedisServer&) = delete;

    [[nodiscard]] std::uint16_t port() const noexcept { return port_; }

private:
    RedisServer(std::uint16_t port, pid_t pid, UniqueFd output)
        : port_(port), pid_(pid), output_(std::move(output)) {}
    static Result<std::unique_ptr<RedisServer>> start_once(const std::string& program);
    /// Reads what it prints until it is ready. Errors: PeerDown with its last line.
    Result<void> wait_ready();

    std::uint16_t port_;
    pid_t pid_;
    UniqueFd output_;
};

}  // namespace cmpool::cli
