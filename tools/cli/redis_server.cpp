#include "redis_server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/clock.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cmpool::cli {
namespace {

constexpr const char* kProgram = "redis-server";
constexpr std::string_view kReady = "Ready to accept connections";
constexpr std::chrono::seconds kReadyDeadline{10};
/// A port that was free a moment ago may be taken: then another one.
constexpr int kStartsMax = 3;
constexpr std::size_t kOutputBytesMax = 64 * 1024;

std::optional<std::string> find_program(const std::string& name) {
    const char* path = std::getenv("PATH");
    std::string_view folders = path != nullptr ? path : "";
    while (!folders.empty()) {
        const auto end = std::min(folders.find(':'), folders.size());
        const std::string file = std::string(folders.substr(0, end)) + "/" + name;
        if (end > 0 && ::access(file.c_str(), X_OK) == 0) return file;
        folders.remove_prefix(std::min(end + 1, folders.size()));
    }
    return std::nullopt;
}

Result<std::uint16_t> free_port() {
    const UniqueFd probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t bytes = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (probe && ::bind(probe.get(), generic, bytes) == 0 && ::getsockname(probe.get(), generic, &bytes) == 0)
        return ntohs(address.sin_port);
    return fail(Errc::PeerDown, "expected a free port of 127.0.0.1 for redis-server, saw \"{}\"",
                std::strerror(errno));
}

/// A folder that the server may call its own; gone once the server stands in it, so that nobody's sudden
/// end leaves it behind.
class ShortFolder {
public:
    ShortFolder() {
        std::error_code error;
        std::string pattern = std::filesystem::temp_directory_path(error) / "cmpool-redis-XXXXXX";
        if (!error && ::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
    }
    ShortFolder(const ShortFolder&) = delete;
    ShortFolder& operator=(const ShortFolder&) = delete;
    ~ShortFolder() {
        std::error_code ignored;
        if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
    std::string path_;
};

// Between fork and exec: only what a signal handler could call.
[[noreturn]] void become(char* const* arguments, const char* folder, int output, pid_t parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const bool orphan = ::getppid() != parent;  // it ended before it could be asked to tell us
    if (!orphan && ::chdir(folder) == 0 && ::dup2(output, STDOUT_FILENO) >= 0 &&
        ::dup2(output, STDERR_FILENO) >= 0)
        ::execv(arguments[0], arguments);
    ::_exit(127);
}

}  // namespace

Result<std::unique_ptr<RedisServer>> RedisServer::start() {
    const auto program = find_program(kProgram);
    if (!program)
        return fail(Errc::Unsupported,
                    "expected {} on PATH to compare with, saw none: install it (Debian: redis-server), or "
                    "leave out --compare redis",
                    kProgram);
    auto server = start_once(*program);
    for (int starts = 1; !server && starts < kStartsMax; ++starts) server = start_once(*program);
    return server;
}

Result<std::unique_ptr<RedisServer>> RedisServer::start_once(const std::string& program) {
    const auto port = free_port();
    if (!port) return fail(port.error());
    const ShortFolder folder;
    int ends[2];
    if (folder.path().empty() || ::pipe2(ends, O_CLOEXEC) != 0)
        return fail(Errc::NoCapacity, "expected a temporary folder and a pipe for redis-server, saw \"{}\"",
                    std::strerror(errno));
    UniqueFd readable(ends[0]);
    UniqueFd writable(ends[1]);

    std::vector<std::string> words{program, "--port", std::to_string(*port), "--bind", "127.0.0.1"};
    for (const char* word : {"--dir", ".", "--save", "", "--appendonly", "no", "--daemonize", "no",
                             "--databases", "1", "--logfile", ""})
        words.emplace_back(word);
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (auto& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);

    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid == 0) become(arguments.data(), folder.path().c_str(), writable.get(), parent);
    if (pid < 0)
        return fail(Errc::NoCapacity, "expected to start redis-server, saw \"{}\"", std::strerror(errno));
    std::unique_ptr<RedisServer> server(new RedisServer(*port, pid, std::move(readable)));
    writable.reset();  // else its end would go unnoticed
    auto ready = server->wait_ready();
    if (!ready) return fail(ready.error());
    return server;
}

Result<void> RedisServer::wait_ready() {
    const SystemClock clock;
    const Instant until = clock.now() + kReadyDeadline;
    std::string text;
    while (text.size() < kOutputBytesMax && text.find(kReady) == std::string::npos) {
        pollfd waiting{.fd = output_.get(), .events = POLLIN, .revents = 0};
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - clock.now()).count();
        const int ready = left > 0 ? ::poll(&waiting, 1, static_cast<int>(left)) : 0;
        if (ready < 0 && errno == EINTR) continue;
        std::array<char, 4096> buffer;
        const auto got = ready > 0 ? ::read(output_.get(), buffer.data(), buffer.size()) : 0;
        if (got <= 0) {
            const auto end = text.find_last_not_of("\r\n");
            const auto line = end == std::string::npos ? std::string{} : text.substr(0, end + 1);
            return fail(Errc::PeerDown,
                        "expected redis-server to serve within {} s, saw it {}, saying \"{}\"",
                        kReadyDeadline.count(), ready > 0 ? "end" : "still starting",
                        line.substr(line.find_last_of('\n') + 1));
        }
        text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    output_.reset();  // it ignores that nobody reads on, and a full pipe would stop it
    return {};
}

RedisServer::~RedisServer() {
    ::kill(pid_, SIGKILL);  // it has nothing to keep
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
}

}  // namespace cmpool::cli
