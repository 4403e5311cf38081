#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/unique_fd.h>
#include <cmpool/base/units.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

// What the tests of faults share.
namespace cmpool::testing {

/// A command that sets a limit of the shell, and becomes the command behind it.
[[nodiscard]] inline std::vector<std::string> under_limit(const std::string& limit) {
    return {"/bin/sh", "-c", "ulimit " + limit + " && exec \"$0\" \"$@\""};
}

/// A command that puts a tmpfs of its own over a folder, and becomes the command behind it; none where this
/// user may not.
[[nodiscard]] inline std::optional<std::vector<std::string>> with_tmpfs(const std::string& folder,
                                                                        const std::string& size) {
    std::vector<std::string> command{
        "/usr/bin/unshare", ::geteuid() == 0 ? "-m" : "-Urm", "/bin/sh", "-c",
        fmt::format("mount -t tmpfs -o size={} tmpfs {} && exec \"$0\" \"$@\"", size, folder)};
    auto probe = command;
    probe.push_back("/bin/true");
    Process tried(probe);
    if (tried.wait() == 0) return command;
    MESSAGE("skipped: this user may not mount a tmpfs of its own");
    return std::nullopt;
}

/// Whether this process may have so many descriptors open.
[[nodiscard]] inline bool may_open(std::uint64_t descriptors) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < descriptors) {
        MESSAGE("skipped: " << descriptors << " descriptors are needed, the hard limit is "
                            << limit.rlim_max);
        return false;
    }
    limit.rlim_cur = limit.rlim_max;
    return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/// A TCP connection to HOST:PORT of this host, on which nothing is ever said.
[[nodiscard]] inline UniqueFd silent_connection(std::string_view address) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port =
        htons(static_cast<std::uint16_t>(std::stoi(std::string(address.substr(address.rfind(':') + 1)))));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (socket && ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0)
        socket.reset();
    return socket;
}

/// Processor time that a process has used.
[[nodiscard]] inline std::chrono::milliseconds cpu_time(pid_t pid) {
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    std::istringstream fields(text.substr(text.rfind(')') + 1));
    std::string skipped;
    for (int field = 0; field < 11; ++field) fields >> skipped;
    std::uint64_t user = 0;
    std::uint64_t system = 0;
    fields >> user >> system;
    return std::chrono::milliseconds((user + system) * 1000 /
                                     static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK)));
}

/// How often something stands in a text.
[[nodiscard]] inline std::size_t times_in(std::string_view text, std::string_view what) {
    std::size_t times = 0;
    for (auto at = text.find(what); at != std::string_view::npos; at = text.find(what, at + what.size()))
        ++times;
    return times;
}

/// Puts a new block and gets it back; what is wrong with that, or nothing.
[[nodiscard]] inline std::string round_trip(client::PoolClient& pool, std::uint64_t number,
                                            std::size_t bytes = 10'000) {
    const auto key = pool.key(std::as_bytes(std::span(&number, 1)));
    if (!key) return key.error().detail;
    const auto wanted = pattern(bytes, number);
    const Bytes piece(wanted);
    const client::PutItem item{.key = *key, .from = {&piece, 1}};
    const auto put = pool.put({&item, 1}, {.deadline = 5s});
    if (put.trouble) return "put: " + put.trouble->detail;
    std::vector<std::byte> got(bytes);
    const auto seen = get_one(pool, *key, got, {.deadline = 5s, .verify = true});
    if (seen.outcome != client::Outcome::Hit) return "get: a miss";
    return got == wanted ? "" : "get: wrong bytes";
}

}  // namespace cmpool::testing
