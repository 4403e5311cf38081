// Two programs of different ages say so, both sides by name; nobody guesses what the other means.
#include <optional>

#include <cmpool/testing/child.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>
#include <cmpool/transport/fabric.h>
#include <cmpool/wire/messages.h>

using namespace cmpool;
using testing::Daemon;
using testing::Talk;

namespace {

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// Answers every message with a Welcome of another protocol, until it is killed.
class StrangeServer final : public transport::Receiver {
public:
    explicit StrangeServer(std::uint32_t protocol) : protocol_(protocol) {
        listener_ = tcp_->listen("127.0.0.1:0").value();
    }
    [[nodiscard]] const std::string& address() const { return listener_->address(); }

    [[noreturn]] void run() {
        for (;;) {
            std::vector<pollfd> ready{{.fd = listener_->event_fd(), .events = POLLIN, .revents = 0}};
            for (const auto& lane : lanes_)
                ready.push_back({.fd = lane->event_fd(), .events = POLLIN, .revents = 0});
            ::poll(ready.data(), ready.size(), -1);
            while (auto lane = listener_->accept()) lanes_.push_back(std::move(*lane));
            std::erase_if(lanes_, [this](const auto& lane) {
                if (lane->receive(*this)) return false;
                (void)lane->quiesce(std::chrono::seconds(1));
                return true;
            });
        }
    }
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane& lane, Bytes head, std::uint64_t) override {
        const auto asked = decoder_.decode(head).value();
        transport::Op answer;
        answer.head = encoder_.encode(
            {asked.request_id, 1, wire::Welcome{.protocol = protocol_, .node = "old", .version = "9.9.9"}});
        (void)lane.post({&answer, 1});
    }

private:
    std::uint32_t protocol_;
    SystemEntropy entropy_;
    std::unique_ptr<transport::Fabric> tcp_ = transport::open_tcp(entropy_);
    std::unique_ptr<transport::Listener> listener_;
    std::vector<std::unique_ptr<transport::Lane>> lanes_;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
};

/// Hears one message.
class Ear final : public transport::Receiver {
public:
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane&, Bytes head, std::uint64_t) override {
        heard.assign(head.begin(), head.end());
    }
    std::vector<std::byte> heard;
};

}  // namespace

TEST_CASE("a client of another protocol is refused with both versions, on shm and over tcp") {
    Daemon daemon;
    SystemEntropy entropy;
    const auto tcp = transport::open_tcp(entropy);
    const auto shm = transport::open_shm({}, entropy);
    for (const bool local : {false, true}) {
        CAPTURE(local);
        const auto lane =
            local ? shm->connect(daemon.socket()).value() : tcp->connect(daemon.address()).value();
        wire::Encoder encoder;
        transport::Op hello;
        hello.head =
            encoder.encode({7, 1, wire::Hello{.protocol = wire::kProtocolVersion + 1, .client = "tomorrow"}});
        REQUIRE(lane->post({&hello, 1}));
        Ear ear;
        while (ear.heard.empty()) {
            pollfd ready{.fd = lane->event_fd(), .events = POLLIN, .revents = 0};
            if (lane->wants_write()) ready.events |= POLLOUT;
            REQUIRE(::poll(&ready, 1, 20'000) > 0);
            REQUIRE(lane->receive(ear));
        }
        wire::Decoder decoder;
        const auto answer = decoder.decode(ear.heard).value();
        CHECK(answer.request_id == 7);
        REQUIRE(std::holds_alternative<wire::Failed>(answer.body));
        const auto& failed = std::get<wire::Failed>(answer.body);
        CHECK(failed.code == Errc::Mismatch);
        CHECK(contains(failed.detail, fmt::format("protocol {}", wire::kProtocolVersion)));
        CHECK(contains(failed.detail, fmt::format("the client {}", wire::kProtocolVersion + 1)));
        CHECK(lane->quiesce(std::chrono::seconds(1)));
    }
    CHECK(daemon.stop());
}

TEST_CASE("a server of another protocol is refused by the client, which names both versions") {
    StrangeServer server(99);
    const testing::Child process([&](const Talk&) { server.run(); });
    const auto opened = client::PoolClient::open(
        fmt::format("cmpool://{}?deadline_ms=20000", server.address()), testing::plain_namespace());
    REQUIRE_FALSE(opened);
    CHECK(opened.error().code == Errc::Mismatch);
    CHECK(contains(opened.error().detail, fmt::format("protocol {}", wire::kProtocolVersion)));
    CHECK(contains(opened.error().detail, "speaks 99"));
    CHECK(contains(opened.error().detail, "9.9.9"));
}

// Blocks of the one would be noise to the other: the same name for both is a mistake that a person mends.
TEST_CASE("another fingerprint under the same name is refused with what differs, on shm and over tcp") {
    Daemon daemon;
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        const auto uri = daemon.uri(fmt::format("?deadline_ms=20000&transport={}", transport));
        auto ours = testing::plain_namespace();
        ours.dtype = "bf16";
        const auto first = testing::open_pool(uri, ours);
        CHECK(first->status().ready);
        auto theirs = ours;
        theirs.dtype = "f32";
        const auto refused = client::PoolClient::open(uri, theirs);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::Mismatch);
        CHECK(contains(refused.error().detail, "dtype: ours \"bf16\", theirs \"f32\""));
        // Whoever was right is not disturbed, and another revision is another namespace.
        CHECK(first->stats());
        theirs.revision = "2";
        CHECK(testing::open_pool(uri, theirs)->status().ready);
    }
    CHECK(daemon.stop());
}
