#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/testing/process.h>
#include <cmpool/testing/temp_folder.h>

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace cmpool::testing {

/// Real etcd on this host, one or several as one cluster; its folders outlive kill() and start().
class Etcd {
public:
    /// Missing, with a line that says so, where etcd is not installed.
    static std::unique_ptr<Etcd> start_all(std::size_t count = 1) {
        if (!program()) {
            MESSAGE("skipped: etcd is not installed (Debian: etcd-server)");
            return nullptr;
        }
        return std::unique_ptr<Etcd>(new Etcd(count));
    }

    void start(std::size_t at) {
        Node& node = *nodes_[at];
        std::vector<std::string> all;
        for (const auto& each : nodes_)
            all.push_back(fmt::format("{}={}", each->name, http(each->peer_port)));
        node.process =
            std::make_unique<Process>(std::vector<std::string>{*program(),
                                                               "--name",
                                                               node.name,
                                                               "--data-dir",
                                                               node.folder / "data",
                                                               "--listen-client-urls",
                                                               http(node.port),
                                                               "--advertise-client-urls",
                                                               http(node.port),
                                                               "--listen-peer-urls",
                                                               http(node.peer_port),
                                                               "--initial-advertise-peer-urls",
                                                               http(node.peer_port),
                                                               "--initial-cluster",
                                                               fmt::format("{}", fmt::join(all, ",")),
                                                               "--logger",
                                                               "zap",
                                                               "--log-level",
                                                               "error",
                                                               "--log-outputs",
                                                               node.folder / "log"});
    }
    void kill(std::size_t at) {
        nodes_[at]->process->signal(SIGKILL);
        CMPOOL_ASSERT(nodes_[at]->process->wait() == -SIGKILL);
    }
    void freeze(std::size_t at = 0) const { nodes_[at]->process->freeze(); }
    void thaw(std::size_t at = 0) const { nodes_[at]->process->signal(SIGCONT); }
    [[nodiscard]] std::size_t size() const noexcept { return nodes_.size(); }

    [[nodiscard]] std::string uri() const {
        std::vector<std::string> all;
        for (const auto& node : nodes_) all.push_back(fmt::format("127.0.0.1:{}", node->port));
        return fmt::format("etcd://{}/test", fmt::join(all, ","));
    }

    /// Who leads, as it says itself; waits until somebody does.
    [[nodiscard]] std::size_t leader(std::chrono::seconds limit = std::chrono::seconds(20)) const {
        const auto until = std::chrono::steady_clock::now() + limit;
        while (std::chrono::steady_clock::now() < until) {
            for (std::size_t at = 0; at < nodes_.size(); ++at) {
                const auto status = ask(nodes_[at]->port, "/v3/maintenance/status", "{}");
                const auto own = field(status, "member_id");
                if (!own.empty() && own == field(status, "leader")) return at;
            }
        }
        FAIL("no etcd leads");
        return 0;
    }

private:
    struct Node {
        std::string name;
        int port, peer_port;
        TempFolder folder{"/dev/shm"};
        std::unique_ptr<Process> process{};
    };

    explicit Etcd(std::size_t count) {
        while (nodes_.size() < count) {
            nodes_.emplace_back(new Node{.name = fmt::format("etcd-{}", nodes_.size()),
                                         .port = free_port(),
                                         .peer_port = free_port()});
        }
        for (std::size_t at = 0; at < count; ++at) start(at);
        (void)leader();
    }

    static std::optional<std::string> program() {
        for (const char* path : {"/usr/bin/etcd", "/usr/local/bin/etcd"}) {
            if (std::filesystem::exists(path)) return path;
        }
        return std::nullopt;
    }
    static std::string http(int port) { return fmt::format("http://127.0.0.1:{}", port); }

    static sockaddr_in at_port(int port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(port));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return address;
    }
    /// Free right now; the kernel gives it to nobody else soon.
    static int free_port() {
        const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        auto address = at_port(0);
        socklen_t length = sizeof address;
        CMPOOL_ASSERT(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
        CMPOOL_ASSERT(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
        return ntohs(address.sin_port);
    }
    /// The answer with its head; empty where nobody answers within a second.
    static std::string ask(int port, const char* path, const std::string& body) {
        const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const timeval second{.tv_sec = 1, .tv_usec = 0};
        ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
        auto address = at_port(port);
        if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return {};
        const auto request =
            fmt::format("POST {} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
                        path, body.size(), body);
        if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return {};
        std::string answer;
        std::array<char, 4096> some;
        for (ssize_t got = 1; got > 0;) {
            got = ::recv(fd.get(), some.data(), some.size(), 0);
            if (got > 0) answer.append(some.data(), static_cast<std::size_t>(got));
        }
        return answer;
    }
    static std::string field(const std::string& json, const std::string& name) {
        const auto key = json.find(fmt::format("\"{}\":\"", name));
        if (key == std::string::npos) return {};
        const auto begin = key + name.size() + 4;
        return json.substr(begin, json.find('"', begin) - begin);
    }

    std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace cmpool::testing
