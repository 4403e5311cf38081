// The real cmpoold, started, asked and ended as a person would.
#include "stop_signal.h"

#include <algorithm>
#include <fstream>
#include <memory>

#include <cmpool/model/namespace.h>
#include <cmpool/testing/process.h>
#include <cmpool/testing/temp_folder.h>
#include <cmpool/transport/fabric.h>
#include <cmpool/wire/messages.h>

#include <sys/resource.h>
#include <sys/stat.h>

using namespace cmpool;
using testing::Process;
using testing::TempFolder;

namespace {

/// The folders of one daemon, outliving its restarts.
struct Home {
    TempFolder runtime{"/dev/shm"};
    TempFolder data;

    [[nodiscard]] std::vector<std::string> command(std::vector<std::string> more = {}) const {
        std::vector<std::string> all{CMPOOL_DAEMON,   "--capacity",  "16M",
                                     "--listen",      "127.0.0.1:0", "--runtime-dir",
                                     runtime / "run", "--data-dir",  data / "data"};
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }
    [[nodiscard]] std::vector<std::string> files() const {
        std::vector<std::string> names;
        for (const auto& file : std::filesystem::directory_iterator(runtime / "run")) {
            names.push_back(file.path().filename());
        }
        return names;
    }
};

std::string address_of(Process& daemon) {
    const auto line = daemon.read_line();
    if (!line) {
        (void)daemon.wait();
        FAIL("the daemon said: ", daemon.errors());
    }
    const std::string prefix = "ready cmpool://";
    REQUIRE(line->starts_with(prefix));
    return line->substr(prefix.size());
}

/// Ends with `code`, and says what was expected and what was seen in a single line.
std::string refused(const std::vector<std::string>& command, int code = 1) {
    Process daemon(command);
    CHECK(daemon.wait() == code);
    CHECK(daemon.errors().starts_with("cmpoold: "));
    CHECK(std::count(daemon.errors().begin(), daemon.errors().end(), '\n') == 1);
    CHECK_FALSE(daemon.read_line());  // never ready
    return daemon.errors();
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// One lane to a daemon: sends a message, waits for the answer.
class Client final : public transport::Receiver {
public:
    Client(transport::Fabric& fabric, const std::string& address) : lane_(fabric.connect(address).value()) {}
    ~Client() override { (void)lane_->quiesce(std::chrono::seconds(1)); }

    wire::Message ask(wire::Body body) {
        wire::Encoder encoder;
        transport::Op send;
        send.head = encoder.encode({++request_id_, 0, std::move(body)});
        REQUIRE(lane_->post({&send, 1}));
        answer_.clear();
        while (answer_.empty()) {
            transport::Completion done;
            while (lane_->poll({&done, 1}) > 0) continue;
            const auto received = lane_->receive(*this);
            if (!received) FAIL(received.error().detail);
            if (!answer_.empty()) break;
            pollfd ready{.fd = lane_->event_fd(), .events = POLLIN, .revents = 0};
            if (lane_->wants_write()) ready.events |= POLLOUT;
            REQUIRE(::poll(&ready, 1, 20'000) > 0);
        }
        return decoder_.decode(answer_).value();
    }
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    // A server also tells what nobody has asked: which members there are.
    void message(transport::Lane&, Bytes head, std::uint64_t) override {
        const auto told = decoder_.decode(head);
        if (!told || told->request_id == request_id_) answer_.assign(head.begin(), head.end());
    }

private:
    std::unique_ptr<transport::Lane> lane_;
    std::vector<std::byte> answer_;
    wire::Decoder decoder_;
    std::uint64_t request_id_ = 0;
};

wire::OpenNamespace opening(std::string tenant, std::string key) {
    const model::NamespaceSpec spec{
        .tenant = std::move(tenant), .model = "llama", .revision = "1", .dtype = "bf16", .block_tokens = 16};
    return {spec, std::move(key), spec.fingerprint()};
}

}  // namespace

TEST_CASE("with its folders named it is ready, and SIGTERM leaves no file in the runtime folder") {
    for (const int signal : {SIGTERM, SIGINT}) {
        const Home home;
        Process daemon(home.command());
        const auto address = address_of(daemon);
        CHECK(address.starts_with("127.0.0.1:"));
        CHECK_FALSE(address.ends_with(":0"));
        CHECK(home.files().size() == 2);  // lock, socket
        daemon.signal(signal);
        CHECK(daemon.wait() == 0);
        CHECK(home.files().empty());
        CHECK_FALSE(daemon.read_line());  // exactly one line on stdout
        CHECK(contains(daemon.errors(), "event ready address " + address));
        CHECK(contains(daemon.errors(), "event stopped"));
    }
}

TEST_CASE("a client reaches it by tcp and by shm, and finds its namespace again after a restart") {
    const Home home;
    SystemEntropy entropy;
    const auto tcp = transport::open_tcp(entropy);
    const auto shm = transport::open_shm({}, entropy);
    model::Digest secret;
    {
        Process daemon(home.command());
        Client remote(*tcp, address_of(daemon));
        const auto greeted = remote.ask(wire::Hello{.client = "test"});
        REQUIRE(std::holds_alternative<wire::Welcome>(greeted.body));
        const auto local_address = std::get<wire::Welcome>(greeted.body).local_address;
        CHECK(local_address == home.runtime / "run/cmpoold.sock");

        const auto opened = remote.ask(opening("acme", "right"));
        REQUIRE(std::holds_alternative<wire::NamespaceOpened>(opened.body));
        secret = std::get<wire::NamespaceOpened>(opened.body).secret;
        const auto denied = remote.ask(opening("acme", "wrong"));
        REQUIRE(std::holds_alternative<wire::Failed>(denied.body));
        CHECK(std::get<wire::Failed>(denied.body).code == Errc::Denied);

        Client local(*shm, local_address);
        (void)local.ask(wire::Hello{.client = "test"});
        CHECK(std::holds_alternative<wire::NamespaceOpened>(local.ask(opening("acme", "right")).body));
        CHECK(std::holds_alternative<wire::NamespaceOpened>(local.ask(opening("by-uid", "")).body));
        daemon.signal(SIGTERM);
        CHECK(daemon.wait() == 0);
    }
    Process daemon(home.command());
    Client remote(*tcp, address_of(daemon));
    (void)remote.ask(wire::Hello{.client = "test"});
    const auto opened = remote.ask(opening("acme", "right"));
    REQUIRE(std::holds_alternative<wire::NamespaceOpened>(opened.body));
    CHECK(std::get<wire::NamespaceOpened>(opened.body).secret == secret);
    // Bound to a uid, which a network does not tell.
    CHECK(std::holds_alternative<wire::Failed>(remote.ask(opening("by-uid", "")).body));
}

TEST_CASE("after kill -9 the next one starts, and clears what the dead one left") {
    const Home home;
    {
        Process daemon(home.command());
        (void)address_of(daemon);
        daemon.signal(SIGKILL);
        CHECK(daemon.wait() == -SIGKILL);
    }
    const auto left = home.files().size();
    CHECK(left == 2);
    Process daemon(home.command());
    (void)address_of(daemon);
    CHECK(home.files().size() == left);
    daemon.signal(SIGTERM);
    CHECK(daemon.wait() == 0);
    CHECK(home.files().empty());
}

// Whatever the first one has begun, a person who asks again does not want to wait for it.
TEST_CASE("the first signal is heard, a second one ends the process at once") {
    for (const int second : {SIGTERM, SIGINT}) {
        const auto child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            const daemon::StopSignal signal;
            pollfd ready{.fd = signal.fd(), .events = POLLIN, .revents = 0};
            if (::poll(&ready, 1, 0) != 0) ::_exit(1);
            ::raise(SIGTERM);
            if (::poll(&ready, 1, 0) != 1) ::_exit(2);
            ::raise(second);
            ::_exit(3);
        }
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        REQUIRE(WIFSIGNALED(status));
        CHECK(WTERMSIG(status) == second);
    }
}

TEST_CASE("two daemons never share a folder: the second names the first one's pid") {
    const Home home;
    Process daemon(home.command());
    (void)address_of(daemon);
    const auto pid = std::to_string(daemon.pid());
    const auto same_runtime = refused(home.command());
    CHECK(contains(same_runtime, pid));
    CHECK(contains(same_runtime, home.runtime / "run"));
    const auto same_data = refused(home.command({"--runtime-dir", home.runtime / "other"}));
    CHECK(contains(same_data, pid));
    CHECK(contains(same_data, home.data / "data"));
    daemon.signal(SIGTERM);
    CHECK(daemon.wait() == 0);
}

TEST_CASE("a taken port is said so, and leaves nothing behind") {
    const Home home;
    Process daemon(home.command());
    const auto address = address_of(daemon);
    const Home other;
    const auto said = refused(other.command({"--listen", address}));
    CHECK(contains(said, address));
    CHECK(other.files().empty());
}

TEST_CASE("mistakes on the command line are sentences, and an unknown flag exits with 2") {
    const Home home;
    CHECK(contains(refused(home.command({"--bogus"}), 2), "--bogus"));
    CHECK(contains(refused(home.command({"stray"}), 2), "stray"));
    CHECK(contains(refused(home.command({"--segment", "12x"})), "12x"));
    CHECK(contains(refused(home.command({"--capacity", "1k"})), "1 KiB"));
    CHECK(contains(refused(home.command({"--capacity", "1000T"})), "--capacity"));
    CHECK(contains(refused(home.command({"--log-level", "loud"})), "loud"));
    CHECK(contains(refused(home.command({"--listen", "nonsense"})), "nonsense"));
    CHECK(contains(refused(home.command({"--config", home.data / "absent"})), "absent"));
    std::ofstream(home.data / "typo") << "capacty = \"1G\"\n";
    CHECK(contains(refused(home.command({"--config", home.data / "typo"})), "capacty"));
}

TEST_CASE("a folder that does not fit is refused with what it is and what it should be") {
    const Home home;
    CHECK(contains(refused(home.command({"--runtime-dir", home.data / "run"})), "tmpfs"));
    std::ofstream(home.data / "file") << "x";
    CHECK(contains(refused(home.command({"--data-dir", home.data / "file"})), "folder"));
    std::filesystem::create_directory(home.runtime / "open");
    ::chmod((home.runtime / "open").c_str(), 0777);
    CHECK(contains(refused(home.command({"--runtime-dir", home.runtime / "open"})), "777"));
    CHECK(contains(refused(home.command({"--data-dir", "/proc/cmpool"})), "/proc/cmpool"));
}

TEST_CASE("flags can stand in a file") {
    const Home home;
    std::ofstream(home.data / "config") << "capacity = \"8M\"\nname = \"from-file\"\nno-prefault = true\n";
    Process daemon({CMPOOL_DAEMON, "--config", home.data / "config", "--listen", "127.0.0.1:0",
                    "--runtime-dir", home.runtime / "run", "--data-dir", home.data / "data"});
    SystemEntropy entropy;
    const auto tcp = transport::open_tcp(entropy);
    Client client(*tcp, address_of(daemon));
    const auto greeted = client.ask(wire::Hello{.client = "test"});
    REQUIRE(std::holds_alternative<wire::Welcome>(greeted.body));
    CHECK(std::get<wire::Welcome>(greeted.body).node == "from-file");
    daemon.signal(SIGTERM);
    CHECK(daemon.wait() == 0);
    CHECK(contains(daemon.errors(), fmt::format("capacity_bytes {}", 8 * 1024 * 1024)));
}

TEST_CASE("help and version are answers, not errors") {
    Process help({CMPOOL_DAEMON, "--help"});
    CHECK(help.wait() == 0);
    Process version({CMPOOL_DAEMON, "--version"});
    CHECK(version.read_line()->starts_with("cmpoold "));
    CHECK(version.wait() == 0);
}

TEST_CASE("many clients that come and go leave the daemon well") {
    const Home home;
    Process daemon(home.command());
    const auto address = address_of(daemon);
    SystemEntropy entropy;
    const auto tcp = transport::open_tcp(entropy);
    const auto shm = transport::open_shm({}, entropy);
    for (int round = 0; round < 5; ++round) {
        std::vector<std::unique_ptr<Client>> clients;
        for (int count = 0; count < 40; ++count) {
            clients.push_back(count % 2 == 0
                                  ? std::make_unique<Client>(*tcp, address)
                                  : std::make_unique<Client>(*shm, home.runtime / "run/cmpoold.sock"));
        }
        for (const auto& client : clients) {
            CHECK(std::holds_alternative<wire::Welcome>(client->ask(wire::Hello{.client = "test"}).body));
            CHECK(std::holds_alternative<wire::NamespaceOpened>(client->ask(opening("default", "")).body));
        }
    }
    daemon.signal(SIGTERM);
    CHECK(daemon.wait() == 0);
}
