#pragma once

#include "fakes.h"

#include <array>
#include <deque>
#include <filesystem>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <cmpool/base/units.h>
#include <cmpool/model/digest.h>
#include <cmpool/pool/server.h>
#include <cmpool/wire/messages.h>

#include <poll.h>
#include <unistd.h>

namespace cmpool::testing {

/// Opens every namespace of every tenant but "denied"; one domain a tenant. Can hold its answers back.
class FakeDirectory final : public pool::Directory {
public:
    void open_namespace(const model::NamespaceSpec& spec, const model::Digest&, const model::Credential&,
                        OpenDone done) override {
        Result<model::NamespaceRecord> record = fail(Errc::Denied, "the tenant belongs to somebody else");
        if (spec.tenant != "denied") {
            const auto space = spaces_.emplace(spec.tenant + "/" + spec.model, spaces_.size() + 1).first;
            const auto domain = domains_.emplace(spec.tenant, domains_.size() + 1).first;
            record = model::NamespaceRecord{.namespace_id = static_cast<std::uint32_t>(space->second),
                                            .domain_id = static_cast<std::uint32_t>(domain->second),
                                            .secret = {std::byte{7}},
                                            .spec = spec};
        }
        held.push_back([done = std::move(done), record] { done(record); });
        if (!hold) answer();
    }
    void ask(wire::Body /*question*/, std::optional<std::uint32_t> /*uid*/, AskDone done) override {
        done(fail(Errc::Unsupported, "this server belongs to no cluster"));
    }
    void answer() {
        for (auto& each : std::exchange(held, {})) each();
    }
    bool hold = false;
    std::vector<std::function<void()>> held;

private:
    std::map<std::string, std::size_t> spaces_, domains_;
};

/// An answer as it arrived; its spans look into its own bytes.
struct Answer {
    std::vector<std::byte> head, payload;
    wire::Decoder decoder;
    wire::Message message;
};

/// A bare lane that speaks the protocol, right or wrong.
class Client final : public transport::Receiver {
public:
    explicit Client(std::unique_ptr<transport::Lane> its_lane) : lane(std::move(its_lane)) {}
    ~Client() override { leave(); }

    void place(transport::Lane&, Bytes, std::uint64_t bytes, std::vector<MutableBytes>& into) override {
        landing_.assign(bytes, std::byte{0});
        into.emplace_back(landing_);
    }
    void message(transport::Lane&, Bytes head, std::uint64_t) override {
        auto answer = std::make_unique<Answer>();
        answer->head.assign(head.begin(), head.end());
        answer->payload = std::exchange(landing_, {});
        auto decoded = answer->decoder.decode(answer->head);
        REQUIRE(decoded);
        answer->message = std::move(*decoded);
        const std::uint64_t id = answer->message.request_id;
        REQUIRE_FALSE(answers.contains(id));  // each request is answered once
        answers.emplace(id, std::move(answer));
    }
    void pump() {
        if (lane == nullptr) return;
        if (reads && !down) down = !lane->receive(*this);
        std::array<transport::Completion, 64> done;
        while (const std::size_t count = lane->poll(done)) {
            for (const auto& each : std::span(done).first(count)) completed[each.cookie] = each;
        }
    }
    /// Sends a request; its payload must live until it has left.
    std::uint64_t ask(wire::Body body, std::vector<Bytes> gather = {}) {
        const std::uint64_t id = next_id_++;
        const Bytes head = encoder_.encode({.request_id = id, .epoch = 1, .body = std::move(body)});
        send(head, gather);
        return id;
    }
    /// Sends something more about a request.
    void add(std::uint64_t id, wire::Body body) {
        send(encoder_.encode({.request_id = id, .epoch = 1, .body = std::move(body)}));
    }
    void send(Bytes head, std::span<const Bytes> gather = {}) {
        const transport::Op op{.gather = gather, .head = head, .cookie = next_id_ << 32};
        const auto posted = lane->post({&op, 1});
        REQUIRE(posted);
        REQUIRE(*posted == 1);
    }
    void leave() {
        if (lane != nullptr) (void)lane->quiesce(std::chrono::seconds(5));
        lane.reset();
    }

    std::unique_ptr<transport::Lane> lane;
    std::unordered_map<std::uint64_t, std::unique_ptr<Answer>> answers;  ///< by request
    std::unordered_map<std::uint64_t, transport::Completion> completed;
    bool reads = true;
    bool down = false;

private:
    wire::Encoder encoder_;
    std::vector<std::byte> landing_;
    std::uint64_t next_id_ = 1;
};

enum class Over { Tcp, Shm };

/// A real server on real lanes inside this process, one thread, and a clock that the test owns. Its
/// invariants are checked after each step.
class TestPool {
public:
    explicit TestPool(Over over, pool::ServerConfig config = {.capacity_bytes = 8 * MiB}) {
        config.prefault = false;
        if (over == Over::Tcp) {
            fabric = transport::open_tcp(entropy_);
        } else {
            char folder[] = "/dev/shm/cmpool-test-XXXXXX";
            folder_ = ::mkdtemp(folder);
            fabric = transport::open_shm({.runtime_dir = folder_}, entropy_);
        }
        auto listening = fabric->listen(over == Over::Tcp ? "127.0.0.1:0" : folder_ + "/socket");
        REQUIRE(listening);
        listener_ = std::move(*listening);
        auto made = pool::Server::create(std::move(config), clock, entropy_, *fabric, directory, processes);
        REQUIRE(made);
        server = std::move(*made);
    }
    ~TestPool() {
        clients_.clear();
        server.reset();
        listener_.reset();
        fabric.reset();
        if (!folder_.empty()) std::filesystem::remove_all(folder_);
    }

    /// A lane that the server has taken over, with nothing said on it yet.
    Client& connect() {
        auto lane = fabric->connect(listener_->address());
        REQUIRE(lane);
        clients_.push_back(std::make_unique<Client>(std::move(*lane)));
        const std::size_t before = peers.size();
        REQUIRE(until([&] { return peers.size() > before; }));
        return *clients_.back();
    }
    /// ... that has said Hello and opened the namespace 1 of domain 1.
    Client& join() {
        Client& client = connect();
        const auto hello = expect<wire::Welcome>(client, client.ask(wire::Hello{.client = "test"}));
        CHECK(hello.incarnation != 0);
        (void)open(client);
        return client;
    }
    std::uint32_t open(Client& client,
                       const model::NamespaceSpec& spec = {.model = "m", .block_tokens = 16}) {
        const auto id = client.ask(wire::OpenNamespace{.spec = spec, .fingerprint = spec.fingerprint()});
        return expect<wire::NamespaceOpened>(client, id).namespace_id;
    }

    void step() {
        while (auto lane = listener_->accept()) {
            peers.push_back(server->add(std::move(*lane)));
        }
        for (std::size_t at = 0; at < peers.size();) {
            const auto served = server->serve(peers[at]);
            REQUIRE(server->check_invariants() == "");
            if (served.alive && served.busy) continue;
            if (served.alive) {
                ++at;
            } else {
                peers.erase(peers.begin() + static_cast<std::ptrdiff_t>(at));
            }
        }
        for (auto& client : clients_) client->pump();
    }
    void tick(Nanos by = pool::kTickInterval) {
        clock.advance(by);
        server->tick();
        std::erase_if(peers, [&](auto id) { return server->lane_of(id) == nullptr; });
        REQUIRE(server->check_invariants() == "");
    }
    /// Steps until `done`, at most ten seconds of real time; waits only for descriptors.
    [[nodiscard]] bool until(const std::function<bool()>& done) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (std::chrono::steady_clock::now() < deadline) {
            step();
            if (done()) return true;
            std::vector<pollfd> waits{{listener_->event_fd(), POLLIN, 0}};
            const auto watch = [&](transport::Lane& lane) {
                waits.push_back(
                    {lane.event_fd(), static_cast<short>(POLLIN | (lane.wants_write() ? POLLOUT : 0)), 0});
            };
            for (const auto id : peers) watch(*server->lane_of(id));
            for (auto& client : clients_) {
                if (client->lane && client->reads && !client->down) watch(*client->lane);
            }
            ::poll(waits.data(), waits.size(), 100);
        }
        return done();
    }

    [[nodiscard]] const Answer& answer(Client& client, std::uint64_t id) {
        REQUIRE(until([&] { return client.answers.contains(id); }));
        return *client.answers.at(id);
    }
    template <class T>
    [[nodiscard]] T expect(Client& client, std::uint64_t id) {
        const Answer& one = answer(client, id);
        if (const auto* failed = std::get_if<wire::Failed>(&one.message.body)) INFO(failed->detail);
        REQUIRE(std::holds_alternative<T>(one.message.body));
        return std::get<T>(one.message.body);
    }
    [[nodiscard]] Errc refused(Client& client, std::uint64_t id) {
        return expect<wire::Failed>(client, id).code;
    }
    [[nodiscard]] std::vector<wire::Outcome> outcomes(Client& client, std::uint64_t id) {
        const auto all = expect<wire::Outcomes>(client, id).outcomes;
        return {all.begin(), all.end()};
    }
    [[nodiscard]] std::uint64_t stat(std::string_view name) const {
        for (const auto& each : server->stats()) {
            if (each.name == name) return each.value;
        }
        FAIL("no statistic " << name);
        return 0;
    }

    TestClock clock;
    FakeDirectory directory;
    FakeProcesses processes;
    std::unique_ptr<transport::Fabric> fabric;
    std::unique_ptr<pool::Server> server;
    std::vector<pool::Server::PeerId> peers;

private:
    SystemEntropy entropy_;
    std::string folder_;
    std::unique_ptr<transport::Listener> listener_;
    std::vector<std::unique_ptr<Client>> clients_;
};

}  // namespace cmpool::testing
