// The simulated world itself: what a seed decides, and what the network does on request.
#include "net.h"

using namespace cmpool;
using namespace cmpool::testing;
using namespace std::chrono_literals;

namespace {

/// Two hosts, connected, and a log of all that their lanes showed.
struct World {
    explicit World(std::uint64_t seed, SimPlan plan = {}, SimProfile profile = SimProfile::Messages)
        : world(seed, plan), server_fabric(world.open("server", profile)) {
        client_fabric = world.open("client", profile);
        listener = std::move(*server_fabric->listen("pool:1"));
        client = std::make_unique<End>(*client_fabric->connect("pool:1"));
        for (int steps = 0; steps < 100 && !server; ++steps) {
            world.step();
            if (auto lane = listener->accept()) server = std::make_unique<End>(std::move(*lane));
        }
        REQUIRE(server);
        world.on_wake("server", [this] { woken("server", *server); });
        world.on_wake("client", [this] { woken("client", *client); });
    }
    void woken(const char* who, End& end) {
        trace += fmt::format("{} {}", world.clock().now().ns, who);
        end.messages.clear();
        end.completions.clear();
        end.pump();
        for (const auto& message : end.messages) {
            trace += " " + message.head;
            ++arrived;
        }
        for (const auto& done : end.completions) trace += fmt::format(" done {}", done.cookie);
        trace += "\n";
    }
    void say(const std::string& what, std::uint64_t cookie = 0) {
        const Op op{.head = as_bytes(what), .cookie = cookie};
        (void)client->lane().post({&op, 1});
    }
    void drain() {
        for (int steps = 0; steps < 100'000 && world.step(); ++steps) {
        }
    }

    SimWorld world;
    std::unique_ptr<Fabric> server_fabric, client_fabric;
    std::unique_ptr<Listener> listener;
    std::unique_ptr<End> client, server;
    std::string trace;
    std::size_t arrived = 0;
};

std::string trace_of(std::uint64_t seed) {
    World run(seed, {.lose_message = 0.1, .reorder_message = 0.3, .delay_long = 0.1});
    for (std::uint64_t at = 0; at < 100; ++at) run.say(std::to_string(at), at);
    run.drain();
    return run.trace;
}

}  // namespace

TEST_CASE("the same seed gives the same run, another one another") {
    const auto first = trace_of(1);
    CHECK(first == trace_of(1));
    CHECK(first != trace_of(2));
    CHECK(first.find("done 99") != std::string::npos);
}

TEST_CASE("lost messages are lost silently, reordered ones arrive all the same") {
    World lossy(3, {.lose_message = 0.5});
    for (int at = 0; at < 200; ++at) lossy.say("m");
    lossy.drain();
    CHECK(lossy.arrived > 50);
    CHECK(lossy.arrived < 150);
    CHECK_FALSE(lossy.client->down);
    World shuffled(3, {.reorder_message = 0.5});
    CHECK_FALSE(shuffled.client_fabric->caps().ordered);
    for (int at = 0; at < 200; ++at) shuffled.say(fmt::format("{:03}", at));
    shuffled.drain();
    CHECK(shuffled.arrived == 200);
    CHECK(shuffled.trace.find("007") != std::string::npos);
}

TEST_CASE("a partition swallows messages while both ends think the lane is up") {
    World cut(4);
    cut.world.partition("client", "server", true);
    cut.say("lost", 1);
    cut.drain();
    CHECK(cut.arrived == 0);
    CHECK_FALSE(cut.client->down);
    CHECK(cut.trace.find("done 1") != std::string::npos);  // it left, as far as anybody here knows
    cut.world.partition("client", "server", false);
    cut.say("heard");
    cut.drain();
    CHECK(cut.arrived == 1);
}

TEST_CASE("a frozen host sees nothing until it thaws, and then everything") {
    World cold(5);
    cold.world.freeze("server", true);
    cold.say("one");
    cold.say("two");
    cold.drain();
    CHECK(cold.arrived == 0);
    CHECK_FALSE(cold.client->down);
    cold.world.freeze("server", false);
    cold.drain();
    CHECK(cold.arrived == 2);
}

TEST_CASE("a crash breaks lanes at the other end, and the address is free for the next incarnation") {
    World crash(6);
    crash.say("before");
    crash.drain();
    crash.world.crash("server");
    CHECK_FALSE(crash.client->down);  // the news travels
    crash.drain();
    REQUIRE(crash.client->down);
    CHECK(crash.client->down->code == Errc::PeerDown);
    auto again = crash.world.open("server", SimProfile::Messages);
    CHECK(again->listen("pool:1"));
}

TEST_CASE("what a lane sent before it closed arrives before its end does") {
    World closing(7);
    closing.say("last words");
    closing.world.run_until(closing.world.clock().now() + 2us);
    REQUIRE(closing.client->lane().quiesce(0s));
    closing.drain();
    CHECK(closing.arrived == 1);
    CHECK(closing.server->down);
}

TEST_CASE("when the clock leaps, what was due happens late and in order") {
    World leap(8);
    std::string order;
    const Instant start = leap.world.clock().now();
    leap.world.at(start + 2s, [&] { order += "b"; });
    leap.world.at(start + 1s, [&] { order += "a"; });
    leap.world.jump(10s);
    CHECK(leap.world.clock().now() == start + 10s);
    leap.drain();
    CHECK(order == "ab");
    CHECK(leap.world.clock().now() == start + 10s);
}

TEST_CASE("mapped memory of a crashed or ended owner can be read, never freed memory") {
    World mapped(9, {}, SimProfile::Mapped);
    auto segment = *mapped.server_fabric->allocate({.bytes = 4096});
    segment->bytes()[5] = std::byte{5};
    REQUIRE(mapped.client->lane().import(segment->descriptor(), segment->token(), 1));
    mapped.drain();
    auto remote = mapped.client->lane().imported(1);
    REQUIRE(remote);
    mapped.world.crash("server");
    CHECK((*remote->map())[5] == std::byte{5});
    segment.reset();
    CHECK((*remote->map())[5] == std::byte{5});
}
