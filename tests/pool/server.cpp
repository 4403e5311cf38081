// The server on real lanes: what every message may say, and what is left when a client misbehaves.
#include "batch.h"
#include "server_impl.h"

#include <cmpool/model/placement.h>

using namespace cmpool;
using namespace cmpool::pool;
using namespace cmpool::testing;
using wire::Outcome;

// ---- who may ask ----

TEST_CASE("nothing is answered before Hello, and another protocol hears both numbers") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.connect();
        CHECK(pool.refused(client, client.ask(wire::StatsRequest{})) == Errc::Denied);
        const auto wrong = pool.expect<wire::Failed>(client, client.ask(wire::Hello{.protocol = 77}));
        CHECK(wrong.code == Errc::Mismatch);
        CHECK(wrong.detail.find("77") != std::string::npos);
        CHECK(wrong.detail.find(std::to_string(wire::kProtocolVersion)) != std::string::npos);
        CHECK(pool.refused(client, client.ask(wire::StatsRequest{})) == Errc::Denied);
        (void)pool.expect<wire::Welcome>(client, client.ask(wire::Hello{}));
        CHECK_FALSE(pool.expect<wire::Stats>(client, client.ask(wire::StatsRequest{})).stats.empty());
        CHECK(pool.refused(client, client.ask(wire::Matched{})) == Errc::Invalid);
    });
}

TEST_CASE("a client that names another shard is handed over, and greeted there") {
    TestPool first(Over::Tcp, {.capacity_bytes = 8 * MiB, .shards = 2});
    SeededEntropy entropy(9);
    auto second =
        pool::Server::create({.capacity_bytes = 8 * MiB, .prefault = false, .shard = 1, .shards = 2},
                             first.clock, entropy, *first.fabric, first.directory, first.processes)
            .value();
    Client& client = first.connect();
    const auto id = client.ask(wire::Hello{.client = "test", .shard = 1});
    pool::Server::Served served;
    REQUIRE(first.until([&] {
        served = first.server->serve(first.peers.front());
        return served.moves_to.has_value();
    }));
    CHECK(*served.moves_to == 1);
    const auto moved = second->welcome(first.server->give_away(first.peers.front()));
    CHECK(first.server->lane_of(first.peers.front()) == nullptr);
    first.peers.clear();

    REQUIRE(first.until([&] {
        (void)second->serve(moved);
        return client.answers.contains(id);
    }));
    CHECK(std::get<wire::Welcome>(client.answers.at(id)->message.body).shards == 2);
    const auto again =
        client.ask(wire::Hello{.client = "test", .shard = 0});  // a lane moves once, at its start
    REQUIRE(first.until([&] {
        (void)second->serve(moved);
        return client.answers.contains(again);
    }));
    CHECK(std::holds_alternative<wire::Failed>(client.answers.at(again)->message.body));
}

TEST_CASE("a shard that there is not is refused, and one who says more before it was welcomed is dropped") {
    TestPool pool(Over::Tcp, {.capacity_bytes = 8 * MiB, .shards = 2});
    Client& lost = pool.connect();
    CHECK(pool.expect<wire::Failed>(lost, lost.ask(wire::Hello{.client = "test", .shard = 2})).code ==
          Errc::Invalid);
    Client& hasty = pool.connect();
    wire::Encoder encoder;
    const Bytes hello =
        encoder.encode({.request_id = 1, .epoch = 1, .body = wire::Hello{.client = "t", .shard = 1}});
    const std::vector<std::byte> head(hello.begin(), hello.end());
    const transport::Op both[] = {{.head = head}, {.head = head, .cookie = 1}};
    REQUIRE(hasty.lane->post(both));
    CHECK(pool.until([&] { return hasty.down; }));
}

TEST_CASE("a namespace that is not open on this lane is denied to every request, and the lane lives") {
    on_both([](Over over) {
        TestPool pool(over);
        (void)pool.join();  // it is open on another lane
        Client& client = pool.connect();
        (void)pool.expect<wire::Welcome>(client, client.ask(wire::Hello{}));
        const auto some = digests_of(1, 2);
        const Batch batch = blocks(1, 2, 5000);
        const std::vector<std::uint32_t> rooms(2, 10);
        CHECK(pool.refused(client, client.ask(batch.put(), batch.gather())) == Errc::Denied);
        CHECK(pool.refused(client, client.ask(wire::Get{1, some, rooms, false, {}})) == Errc::Denied);
        CHECK(pool.refused(client, client.ask(wire::Match{1, some, 0})) == Errc::Denied);
        CHECK(pool.refused(client, client.ask(wire::Exists{1, some})) == Errc::Denied);
        CHECK(pool.refused(client, client.ask(wire::Remove{1, some})) == Errc::Denied);
        CHECK(pool.refused(client, client.ask(wire::Attach{1, 0})) == Errc::Denied);
        CHECK(pool.refused(client, client.ask(wire::List{1, 0, 9})) == Errc::Denied);
        const model::NamespaceSpec theirs{.tenant = "denied"};
        CHECK(pool.refused(client, client.ask(wire::OpenNamespace{.spec = theirs})) == Errc::Denied);
        CHECK(pool.stat("blocks") == 0);
    });
}

// A flood asks before each of its puts; were that a load, half of its turns would come before other tenants'
// loads.
TEST_CASE("who asks what is there has the turns of what it did before") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.join();
        const auto next = [&] { return pool.server->serve(pool.peers.front()).work; };
        const Batch batch = blocks(1, 2, 5000);
        const auto some = digests_of(1, 2);
        (void)exists(pool, client, some);
        CHECK(next() == Work::Loads);
        CHECK(put(pool, client, batch) == AllOk{Outcome::Ok, Outcome::Ok});
        CHECK(next() == Work::Stores);
        (void)exists(pool, client, some);
        CHECK(next() == Work::Stores);
        CHECK(pool.outcomes(client, ask_get(client, some, 5000)) == AllOk{Outcome::Ok, Outcome::Ok});
        CHECK(next() == Work::Loads);
        (void)exists(pool, client, some);
        CHECK(next() == Work::Loads);
    });
}

// By the cluster's key it gets into every tenant's namespace: so it learns no secret, and reads nothing.
TEST_CASE("a member asks what is there and puts, and nothing else") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& client = pool.join();
        const Batch known = blocks(1, 2, 5000);
        (void)pool.outcomes(client, client.ask(known.put(), known.gather()));
        Client& member = pool.connect();
        (void)pool.expect<wire::Welcome>(member, member.ask(wire::Hello{.client = "cmpoold other"}));
        const model::NamespaceSpec spec{.model = "m", .block_tokens = 16};
        const auto opened = pool.expect<wire::NamespaceOpened>(
            member, member.ask(wire::OpenNamespace{
                        .spec = spec, .fingerprint = spec.fingerprint(), .cluster_key = "cluster key"}));
        CHECK(opened.namespace_id == 1);
        CHECK(opened.secret.is_zero());
        const auto ours = pool.expect<wire::NamespaceOpened>(
            client, client.ask(wire::OpenNamespace{.spec = spec, .fingerprint = spec.fingerprint()}));
        CHECK_FALSE(ours.secret.is_zero());
        const auto some = digests_of(1, 3);
        const std::vector<std::uint32_t> rooms(3, 5000);
        CHECK(pool.outcomes(member, member.ask(wire::Exists{1, some})) ==
              std::vector{Outcome::Ok, Outcome::Ok, Outcome::Miss});
        const Batch fresh = blocks(3, 1, 5000);
        CHECK(pool.outcomes(member, member.ask(fresh.put(), fresh.gather())) == std::vector{Outcome::Ok});
        CHECK(pool.refused(member, member.ask(wire::Get{1, some, rooms, false, {}})) == Errc::Denied);
        CHECK(pool.refused(member, member.ask(wire::Match{1, some, 0})) == Errc::Denied);
        CHECK(pool.refused(member, member.ask(wire::Remove{1, some})) == Errc::Denied);
        CHECK(pool.refused(member, member.ask(wire::Attach{1, 0})) == Errc::Denied);
        CHECK(pool.refused(member, member.ask(wire::List{1, 0, 9})) == Errc::Denied);
        CHECK(pool.stat("blocks") == 3);
    });
}

TEST_CASE("the controller may answer late, or after the client or the server has gone") {
    TestPool pool(Over::Tcp);
    Client& client = pool.connect();
    Client& leaver = pool.connect();
    (void)pool.expect<wire::Welcome>(client, client.ask(wire::Hello{}));
    (void)pool.expect<wire::Welcome>(leaver, leaver.ask(wire::Hello{}));
    pool.directory.hold = true;
    const auto id = client.ask(wire::OpenNamespace{});
    (void)leaver.ask(wire::OpenNamespace{});
    (void)pool.expect<wire::Stats>(client,
                                   client.ask(wire::StatsRequest{}));  // others are answered meanwhile
    REQUIRE(pool.until([&] { return pool.directory.held.size() == 2; }));
    leaver.leave();
    REQUIRE(pool.until([&] { return pool.peers.size() == 1; }));
    pool.directory.answer();
    CHECK(pool.expect<wire::NamespaceOpened>(client, id).namespace_id == 1);
    (void)client.ask(wire::OpenNamespace{.spec = {.model = "other"}});
    REQUIRE(pool.until([&] { return pool.directory.held.size() == 1; }));
    pool.server.reset();
    pool.peers.clear();
    pool.directory.answer();  // reached into the server that was
}

TEST_CASE("a client opens so many namespaces and no more") {
    TestPool pool(Over::Tcp);
    Client& client = pool.join();
    pool.directory.hold = true;  // those that are being opened count
    std::vector<std::uint64_t> ids;
    for (std::size_t at = 1; at <= kNamespacesPerPeerMax; ++at)
        ids.push_back(client.ask(wire::OpenNamespace{.spec = {.model = std::to_string(at)}}));
    CHECK(pool.refused(client, ids.back()) == Errc::NoCapacity);
    pool.directory.answer();
    for (const auto id : std::span(ids).first(ids.size() - 1))
        (void)pool.expect<wire::NamespaceOpened>(client, id);
}

TEST_CASE("tenants share neither blocks nor memory") {
    TestPool pool(Over::Tcp);
    Client& one = pool.join();
    Client& other = pool.connect();
    (void)pool.expect<wire::Welcome>(other, other.ask(wire::Hello{}));
    const std::uint32_t space = pool.open(other, {.tenant = "another", .model = "m"});
    CHECK(space == 2);
    CHECK(put(pool, one, blocks(1, 1, 100)) == AllOk{Outcome::Ok});
    const auto some = digests_of(1, 1);
    CHECK(pool.outcomes(other, other.ask(wire::Exists{space, some})) == AllOk{Outcome::Miss});
    CHECK(pool.stat("domains") == 2);
}

// ---- clients that misbehave ----

TEST_CASE("a client that takes no answers is asked nothing more, then dropped, and lets go of all") {
    on_both([](Over over) {
        TestPool pool(over, {.capacity_bytes = 64 * MiB});
        Client& other = pool.join();
        Client& slow = pool.join();
        REQUIRE(put(pool, other, blocks(1, 30, 1 * MiB)) == AllOk(30, Outcome::Ok));
        slow.reads = false;
        for (int round = 0; round < 1500; ++round) {
            (void)ask_get(slow, digests_of(1, 1), 1 * MiB);
            if (round % 20 == 0) pool.step();
        }
        for (int round = 0; round < 50; ++round) (void)exists(pool, other, digests_of(1, 1));
        // The lane is full of answers, and what one more receive() brought has been read.
        CHECK(pool.stat("messages_Get") >= 1024);
        CHECK(pool.stat("messages_Get") < 1200);
        CHECK(pool.stat("clients") == 2);
        pool.tick(kSendDeadline - std::chrono::milliseconds(1));
        CHECK(pool.stat("clients") == 2);
        pool.tick(std::chrono::milliseconds(1));
        CHECK(pool.stat("clients") == 1);
        CHECK(pool.stat("clients_stuck") == 1);
        // Nothing is held any more: all of the memory can be had.
        CHECK(put(pool, other, blocks(100, 56, 1 * MiB)) == AllOk(56, Outcome::Ok));
        CHECK(pool.stat("doomed_bytes") == 0);
    });
}

TEST_CASE("a message that cannot be decoded ends its own lane only") {
    on_both([](Over over) {
        TestPool pool(over);
        Client& good = pool.join();
        Rng rng(3);
        for (int round = 0; round < 20; ++round) {
            Client& bad = pool.join();
            std::vector<std::byte> garbage(rng.below(300));
            for (auto& byte : garbage) byte = static_cast<std::byte>(rng.next());
            bad.send(garbage);
            REQUIRE(pool.until([&] { return bad.down; }));
            CHECK(pool.peers.size() == 1);
        }
        CHECK(pool.stat("clients_broken") == 20);
        CHECK(put(pool, good, blocks(1, 1, 10)) == AllOk{Outcome::Ok});
    });
}

TEST_CASE("one client more than the limit is told so, until another has left") {
    TestPool pool(Over::Tcp, {.capacity_bytes = 8 * MiB, .clients_max = 2});
    Client& first = pool.join();
    (void)pool.join();
    Client& third = pool.connect();
    const auto refused = pool.expect<wire::Failed>(third, third.ask(wire::Hello{.client = "test"}));
    CHECK(refused.code == Errc::NoCapacity);
    CHECK(refused.detail.find("at most 2 clients") != std::string::npos);
    CHECK(pool.stat("clients_refused") == 1);
    // Who is there may greet again.
    (void)pool.expect<wire::Welcome>(first, first.ask(wire::Hello{.client = "test"}));
    first.leave();
    REQUIRE(pool.until([&] { return pool.stat("clients") == 2; }));
    (void)pool.expect<wire::Welcome>(third, third.ask(wire::Hello{.client = "test"}));
}

// Whoever opens connections and says nothing takes no place from those who talk.
TEST_CASE(
    "a lane on which nobody says Hello is dropped in time, one that was greeted may be silent for ever") {
    TestPool pool(Over::Tcp);
    Client& quiet = pool.join();
    Client& silent = pool.connect();
    pool.tick(kHelloWithinDefault - std::chrono::milliseconds(1));
    CHECK(pool.stat("clients") == 2);
    pool.tick(std::chrono::milliseconds(1));
    CHECK(pool.stat("clients") == 1);
    CHECK(pool.stat("clients_silent") == 1);
    REQUIRE(pool.until([&] { return silent.down; }));
    pool.tick(std::chrono::hours(1));
    CHECK_FALSE(pool.expect<wire::Stats>(quiet, quiet.ask(wire::StatsRequest{})).stats.empty());
}

namespace {

/// Does nothing: for counting.
class NoLane final : public transport::Lane {
public:
    Result<std::size_t> post(std::span<const transport::Op> batch) override { return batch.size(); }
    Result<void> import(const transport::Descriptor&, transport::Token, std::uint64_t) override { return {}; }
    std::unique_ptr<transport::RemoteSegment> imported(std::uint64_t) override { return nullptr; }
    std::size_t poll(std::span<transport::Completion>) override { return 0; }
    Result<std::size_t> receive(transport::Receiver&) override { return 0; }
    void discard_landing() noexcept override {}
    [[nodiscard]] int event_fd() const noexcept override { return -1; }
    [[nodiscard]] bool wants_write() const noexcept override { return false; }
    Result<void> quiesce(Nanos) override { return {}; }
    [[nodiscard]] std::size_t free_slots() const noexcept override { return 0; }
    [[nodiscard]] const transport::Caps& caps() const noexcept override { return caps_; }
    [[nodiscard]] const transport::PeerIdentity& peer() const noexcept override { return identity_; }

private:
    transport::Caps caps_;
    transport::PeerIdentity identity_;
};

}  // namespace

TEST_CASE("of many silent lanes the oldest goes for a new one, and a client is served all the same") {
    TestPool pool(Over::Tcp);
    Client& client = pool.join();
    std::vector<Server::PeerId> ids;
    for (std::size_t at = 0; at < kSilentMax; ++at)
        ids.push_back(pool.server->add(std::make_unique<NoLane>()));
    CHECK(pool.stat("clients_silent") == 0);
    const auto more = pool.server->add(std::make_unique<NoLane>());
    CHECK(pool.stat("clients_silent") == 1);
    CHECK(pool.server->lane_of(ids.front()) == nullptr);
    CHECK_FALSE(pool.server->serve(ids.front()).alive);
    CHECK(pool.server->lane_of(ids[1]) != nullptr);
    CHECK(pool.server->lane_of(more) != nullptr);
    CHECK(put(pool, client, blocks(1, 1, 10)) == AllOk{Outcome::Ok});
    (void)pool.join();
}
