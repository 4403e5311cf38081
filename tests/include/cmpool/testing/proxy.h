#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/base/unique_fd.h>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace cmpool::testing {

/// A wire between TCP peers on this host that can be cut: then nothing passes, and neither side is told.
///
///   Threads  one of its own; cut() from any
class Proxy {
public:
    Proxy() : door_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), bell_(::eventfd(0, EFD_CLOEXEC)) {
        sockaddr_in address = loopback(0);
        socklen_t length = sizeof address;
        CMPOOL_ASSERT(::bind(door_.get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
        CMPOOL_ASSERT(::listen(door_.get(), 64) == 0);
        CMPOOL_ASSERT(::getsockname(door_.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
        address_ = fmt::format("127.0.0.1:{}", ntohs(address.sin_port));
    }
    Proxy(const Proxy&) = delete;
    Proxy& operator=(const Proxy&) = delete;
    ~Proxy() {
        stopping_ = true;
        ring();
        if (thread_.joinable()) thread_.join();
    }

    [[nodiscard]] const std::string& address() const noexcept { return address_; }
    /// From now on whoever connects here reaches 127.0.0.1:PORT. Once.
    void lead_to(std::string_view address) {
        port_ = static_cast<std::uint16_t>(std::stoi(std::string(address.substr(address.rfind(':') + 1))));
        thread_ = std::thread([this] { run(); });
    }
    void cut(bool cut) {
        cut_ = cut;
        ring();
    }

private:
    /// One direction of a connection.
    struct Way {
        std::shared_ptr<UniqueFd> from, to;
        std::vector<std::byte> waiting;
        bool ended = false;
    };
    static sockaddr_in loopback(std::uint16_t port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return address;
    }
    void ring() const { ::eventfd_write(bell_.get(), 1); }

    void run() {
        while (!stopping_) {
            std::vector<pollfd> fds{{bell_.get(), POLLIN, 0}};
            if (!cut_) {
                fds.push_back({door_.get(), POLLIN, 0});
                for (const auto& way : ways_) {
                    fds.push_back({way.from->get(), static_cast<short>(way.waiting.empty() ? POLLIN : 0), 0});
                    fds.push_back({way.to->get(), static_cast<short>(way.waiting.empty() ? 0 : POLLOUT), 0});
                }
            }
            CMPOOL_ASSERT(::poll(fds.data(), fds.size(), -1) >= 0 || errno == EINTR);
            eventfd_t rings = 0;
            if (fds[0].revents != 0) ::eventfd_read(bell_.get(), &rings);
            if (cut_) continue;
            for (auto& way : ways_) pass(way);
            std::erase_if(ways_, [](const Way& way) { return way.ended; });
            if (fds.size() > 1 && fds[1].revents != 0) accept();
        }
    }
    void accept() {
        auto in = std::make_shared<UniqueFd>(::accept4(door_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        auto out = std::make_shared<UniqueFd>(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address = loopback(port_);
        if (!*in || ::connect(out->get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return;
        for (const auto& each : {in, out}) {
            const int on = 1;
            ::setsockopt(each->get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        }
        ways_.push_back({in, out, {}});
        ways_.push_back({out, in, {}});
    }
    static void pass(Way& way) {
        std::array<std::byte, 65536> room;
        if (way.waiting.empty()) {
            const auto count = ::recv(way.from->get(), room.data(), room.size(), MSG_DONTWAIT);
            if (count > 0) way.waiting.assign(room.begin(), room.begin() + count);
            if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) end(way);
        }
        if (way.waiting.empty()) return;
        const auto count =
            ::send(way.to->get(), way.waiting.data(), way.waiting.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count > 0) way.waiting.erase(way.waiting.begin(), way.waiting.begin() + count);
        if (count < 0 && errno != EAGAIN && errno != EINTR) end(way);
    }
    static void end(Way& way) {
        way.ended = true;
        ::shutdown(way.from->get(), SHUT_RDWR);
        ::shutdown(way.to->get(), SHUT_RDWR);
    }

    UniqueFd door_, bell_;
    std::string address_;
    std::uint16_t port_ = 0;
    std::atomic<bool> cut_ = false;
    std::atomic<bool> stopping_ = false;
    std::vector<Way> ways_;
    std::thread thread_;
};

}  // namespace cmpool::testing
