// What a lane does with a peer that does not speak its protocol, or speaks it with intent.
#include "net.h"

#include <array>
#include <cstring>

#include <cmpool/base/unique_fd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace cmpool;
using namespace cmpool::testing;
using namespace std::chrono_literals;

namespace {

/// The wire format, written out again by hand: a change of it shows here.
std::vector<std::byte> frame(std::uint8_t kind, std::uint32_t head_bytes, std::uint64_t payload_bytes,
                             std::uint64_t cookie = 0, std::uint16_t status = 0, std::uint8_t flags = 0) {
    std::vector<std::byte> out(40);
    const auto put = [&](std::size_t at, auto value) { std::memcpy(out.data() + at, &value, sizeof value); };
    put(0, std::uint32_t{0x31504d43});
    put(4, kind);
    put(5, flags);
    put(6, status);
    put(8, head_bytes);
    put(16, payload_bytes);
    put(24, cookie);
    return out;
}

/// A listening fabric and a raw socket connected to it.
struct Victim {
    Victim() {
        fabric = open_tcp(entropy);
        listener = std::move(*fabric->listen("127.0.0.1:0"));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        const auto& text = listener->address();
        address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(text.substr(text.rfind(':') + 1))));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        attacker = UniqueFd(::socket(AF_INET, SOCK_STREAM, 0));
        REQUIRE(::connect(attacker.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        pollfd wait{listener->event_fd(), POLLIN, 0};
        REQUIRE(::poll(&wait, 1, 10'000) == 1);
        auto lane = listener->accept();
        REQUIRE(lane);
        end = std::make_unique<End>(std::move(*lane));
    }
    void attack(Bytes bytes) {
        // A lane that has had enough resets the connection; the rest need not arrive.
        (void)::send(attacker.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    }
    /// Whether the lane ends by itself.
    bool ends() {
        const auto deadline = std::chrono::steady_clock::now() + 10s;
        while (!end->down && std::chrono::steady_clock::now() < deadline) {
            pollfd wait{end->lane().event_fd(), POLLIN, 0};
            ::poll(&wait, 1, 100);
            end->pump();
        }
        return end->down && end->down->code == Errc::PeerDown;
    }

    SystemEntropy entropy;
    std::unique_ptr<Fabric> fabric;
    std::unique_ptr<Listener> listener;
    UniqueFd attacker;
    std::unique_ptr<End> end;
};

constexpr std::uint8_t kMessage = 1, kRead = 2, kWrite = 3, kImport = 7, kReadData = 8, kReply = 9,
                       kSetup = 10;

}  // namespace

TEST_CASE("a frame that no correct peer sends ends the lane, before anything is allocated for it") {
    auto wrong_magic = frame(kMessage, 0, 0);
    wrong_magic[0] = std::byte{0};
    auto reserved = frame(kMessage, 0, 0);
    reserved[12] = std::byte{1};
    const std::vector<std::vector<std::byte>> attacks{
        wrong_magic,
        reserved,
        frame(0, 0, 0),
        frame(10, 0, 0),
        frame(255, 0, 0),
        frame(kMessage, UINT32_MAX, 0),
        frame(kMessage, 1024 * 1024 + 1, 0),
        frame(kMessage, 0, UINT64_MAX),
        frame(kMessage, 0, 72 * MiB + 1),
        frame(kMessage, 0, 0, 0, 0, 0xff),
        frame(kMessage, 0, 0, 0, 3),
        frame(kRead, 47, 0),
        frame(kRead, 48, 1),
        frame(kWrite, 48, 64 * MiB + 1),
        frame(kReadData, 0, 128 * KiB + 1),
        frame(kReadData, 0, 0, 12345),
        frame(kReadData, 0, 8, 1, 0, 1),
        frame(kReply, 0, 0, 0),
        frame(kReply, 0, 0, UINT64_MAX),
        frame(kReply, 0, 0, 1, 11),
        frame(kReply, 1, 0, 1),
    };
    for (std::size_t at = 0; at < attacks.size(); ++at) {
        INFO("attack " << at);
        Victim victim;
        victim.attack(attacks[at]);
        CHECK(victim.ends());
        CHECK(victim.end->messages.empty());
    }
}

TEST_CASE("a request that the lane does not serve ends it") {
    // tcp hands no descriptors out, and has no queue pairs to set up.
    for (const auto& [kind, head_bytes] : {std::pair{kImport, 48}, std::pair{kSetup, 40}}) {
        Victim victim;
        auto request = frame(kind, static_cast<std::uint32_t>(head_bytes), 0);
        request.resize(40 + static_cast<std::size_t>(head_bytes));
        victim.attack(request);
        CHECK(victim.ends());
    }
}

TEST_CASE("a message that stops half way is never delivered") {
    for (const std::size_t sent : {1, 39, 40, 60, 139}) {
        Victim victim;
        auto message = frame(kMessage, 50, 50);
        message.resize(sent);
        victim.attack(message);
        victim.attacker.reset();
        CHECK(victim.ends());
        CHECK(victim.end->messages.empty());
    }
}

// A peer that asks and never reads would make us hold its answers: one more than a correct peer can
// have in flight, and the lane ends.
TEST_CASE("a peer that asks without end and reads nothing is cut off") {
    Victim victim;
    auto segment = victim.fabric->allocate({.bytes = 1 * MiB});
    REQUIRE(segment);
    auto ask = frame(kRead, 48, 0);
    ask.resize(40 + 48);
    // Segment number and token, as an honest peer would know them.
    std::memcpy(ask.data() + 40, (*segment)->descriptor().bytes.data() + 8, 8);
    const auto token = (*segment)->token().value;
    std::memcpy(ask.data() + 48, &token, 8);
    const std::uint64_t length = 1 * MiB;
    std::memcpy(ask.data() + 64, &length, 8);
    for (int asked = 0; asked < 3000 && !victim.end->down; ++asked) {
        victim.attack(ask);
        victim.end->pump();
    }
    CHECK(victim.ends());
}

TEST_CASE("random bytes never do more than end the lane") {
    Rng rng(20260101);
    for (int round = 0; round < 200; ++round) {
        Victim victim;
        auto noise = pattern(rng.below(600), rng.next());
        // Half of the rounds pass the first check.
        if (round % 2 == 0) {
            auto start = frame(static_cast<std::uint8_t>(rng.below(11)),
                               static_cast<std::uint32_t>(rng.below(100)), rng.below(200), rng.below(3));
            noise.insert(noise.begin(), start.begin(), start.end());
        }
        victim.attack(noise);
        victim.attacker.reset();
        CHECK(victim.ends());
    }
}

TEST_CASE("bytes that arrive one at a time make the same messages") {
    Victim victim;
    auto message = frame(kMessage, 5, 7);
    for (const char letter : std::string("headspayload")) message.push_back(static_cast<std::byte>(letter));
    const int on = 1;
    ::setsockopt(victim.attacker.get(), IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on);
    for (const std::byte byte : message) {
        victim.attack({&byte, 1});
        pollfd wait{victim.end->lane().event_fd(), POLLIN, 0};
        REQUIRE(::poll(&wait, 1, 10'000) == 1);
        victim.end->pump();
    }
    REQUIRE(victim.end->messages.size() == 1);
    CHECK(victim.end->messages[0].head == "heads");
    CHECK(as_text(victim.end->messages[0].payload) == "payload");
}

TEST_CASE("an address of another form is refused with what was expected") {
    SystemEntropy entropy;
    auto fabric = open_tcp(entropy);
    for (const char* wrong : {"", "host", "host:", "host:port", "1.2.3.4:99999", "::1:80", "1.2.3.4:-1"}) {
        const auto lane = fabric->connect(wrong);
        REQUIRE_FALSE(lane);
        CHECK(lane.error().code == Errc::Invalid);
    }
}

TEST_CASE("names and bracketed addresses reach the listener too") {
    SystemEntropy entropy;
    auto fabric = open_tcp(entropy);
    auto listener = fabric->listen("127.0.0.1:0");
    REQUIRE(listener);
    const auto port = (*listener)->address().substr((*listener)->address().rfind(':'));
    auto lane = fabric->connect("localhost" + port);
    REQUIRE(lane);
    CHECK((*lane)->peer().same_host);
    pollfd wait{(*listener)->event_fd(), POLLIN, 0};
    CHECK(::poll(&wait, 1, 10'000) == 1);
    auto six = fabric->listen("[::1]:0");
    if (!six) {
        MESSAGE("skipped: this host has no IPv6 loopback");
        return;
    }
    CHECK((*six)->address().starts_with("[::1]:"));
    auto to_six = fabric->connect((*six)->address());
    REQUIRE(to_six);
    wait.fd = (*six)->event_fd();
    CHECK(::poll(&wait, 1, 10'000) == 1);
}

// Its host lost power, say: nobody sends the end of the connection.
TEST_CASE(
    "a tcp peer that vanished without a word is asked for by the kernel, and given up within a minute") {
    SystemEntropy entropy;
    const auto fabric = open_tcp(entropy);
    const auto listener = fabric->listen("127.0.0.1:0").value();
    const auto client = fabric->connect(listener->address()).value();
    pollfd wait{listener->event_fd(), POLLIN, 0};
    REQUIRE(::poll(&wait, 1, 10'000) == 1);
    const auto lane = listener->accept().value();
    const auto option = [&](int level, int name) {
        int value = 0;
        socklen_t bytes = sizeof value;
        REQUIRE(::getsockopt(lane->event_fd(), level, name, &value, &bytes) == 0);
        return value;
    };
    CHECK(option(SOL_SOCKET, SO_KEEPALIVE) == 1);
    const int seconds = option(IPPROTO_TCP, TCP_KEEPIDLE) +
                        option(IPPROTO_TCP, TCP_KEEPINTVL) * option(IPPROTO_TCP, TCP_KEEPCNT);
    CHECK(seconds <= 60);
    (void)client->quiesce(Nanos{0});
}
