// Two-sided traffic: what every back end promises about messages.
#include "net.h"

using namespace cmpool;
using namespace cmpool::testing;

TEST_CASE("a message arrives whole, its payload scattered as place() said") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const auto payload = pattern(10'000);
        std::vector<std::byte> first(3'000), second(7'000);
        server->on_place = [&](Lane&, Bytes head, std::uint64_t bytes, std::vector<MutableBytes>& into) {
            CHECK(as_text(head) == "two places");
            CHECK(bytes == payload.size());
            into.emplace_back(first);
            into.emplace_back(second);
        };
        const Bytes gather[] = {payload};
        const auto done = run(net, *client, *server, {.gather = gather, .head = as_bytes("two places")});
        REQUIRE(done);
        CHECK(done->bytes == payload.size());
        REQUIRE(net.until({client.get(), server.get()}, [&] { return server->messages.size() == 1; }));
        CHECK(std::equal(first.begin(), first.end(), payload.begin()));
        CHECK(std::equal(second.begin(), second.end(), payload.begin() + 3'000));
    });
}

TEST_CASE("a payload gathered from many pieces arrives in their order") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const auto payload = pattern(3'000 * 7);
        std::vector<Bytes> gather;
        for (std::size_t at = 0; at < payload.size(); at += 7)
            gather.push_back(Bytes(payload).subspan(at, 7));
        gather.insert(gather.begin() + 5, Bytes{});  // an empty piece changes nothing
        REQUIRE(run(net, *client, *server, {.gather = gather, .head = as_bytes("pieces")}));
        REQUIRE(net.until({client.get(), server.get()}, [&] { return server->messages.size() == 1; }));
        CHECK(server->messages[0].payload == payload);
    });
}

// Whoever serves many lanes in one thread has others wait for as long as one receive() takes.
TEST_CASE("a large message comes over a stream in slices, of which its begin and its end are two") {
    constexpr std::uint64_t kSliceMax = 128 * KiB;
    constexpr std::size_t kMessages = 3;
    on_each([](Net& net) {
        if (!net.streams()) return;
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const auto payload = pattern(1 * MiB);
        std::vector<std::byte> landing(payload.size());
        std::size_t events = 0;
        std::size_t slices = 0;
        server->on_place = [&](Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>& into) {
            ++events;
            slices = 0;
            into.emplace_back(landing);
        };
        server->on_message = [&](Lane&, Bytes) {
            ++events;
            CHECK(slices >= payload.size() / kSliceMax);
        };
        const Bytes gather[] = {payload};
        // The server does not look before all is on its way.
        for (std::uint64_t cookie = 1; cookie <= kMessages; ++cookie)
            REQUIRE(post(net, *client, *client, {.gather = gather, .head = as_bytes("m"), .cookie = cookie}));
        const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (server->messages.size() < kMessages) {
            REQUIRE(std::chrono::steady_clock::now() < limit);
            client->pump();
            events = 0;
            ++slices;
            server->pump();
            CHECK(events <= 1);
            (void)net.idle({client.get(), server.get()}, nullptr);
        }
        CHECK(landing == payload);
    });
}

// Both sides send more than the sockets hold before either of them reads: a lane that waited for its
// own sending would stand still.
TEST_CASE("payloads larger than the socket buffers cross in both directions at once") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const auto there = pattern(20 * MiB, 1);
        const auto back = pattern(20 * MiB, 2);
        const Bytes gather_there[] = {there};
        const Bytes gather_back[] = {back};
        REQUIRE(
            post(net, *client, *server, {.gather = gather_there, .head = as_bytes("there"), .cookie = 1}));
        REQUIRE(post(net, *server, *client, {.gather = gather_back, .head = as_bytes("back"), .cookie = 2}));
        REQUIRE(net.until({client.get(), server.get()}, [&] {
            return server->messages.size() == 1 && client->messages.size() == 1 && client->completion(1) &&
                   server->completion(2);
        }));
        CHECK(server->messages[0].payload == there);
        CHECK(client->messages[0].payload == back);
    });
}

TEST_CASE("heads up to the bound travel, and one byte more is refused") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const std::string longest(net.client().caps().head_bytes_max, 'h');
        REQUIRE(run(net, *client, *server, {.head = as_bytes(longest)}));
        REQUIRE(net.until({client.get(), server.get()}, [&] { return server->messages.size() == 1; }));
        CHECK(server->messages[0].head == longest);
        const std::string longer = longest + "h";
        const auto refused = run(net, *client, *server, {.head = as_bytes(longer)});
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::Invalid);
    });
}

TEST_CASE("messages of one lane arrive in the order of posting where the back end says so") {
    on_each([](Net& net) {
        if (!net.client().caps().ordered) return;
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        for (int at = 0; at < 500; ++at) {
            const auto head = std::to_string(at);
            REQUIRE(post(net, *client, *server, {.signal = false, .head = as_bytes(head)}));
        }
        REQUIRE(net.until({client.get(), server.get()}, [&] { return server->messages.size() == 500; }));
        for (std::size_t at = 0; at < 500; ++at) CHECK(server->messages[at].head == std::to_string(at));
        CHECK(client->completions.empty());  // nothing failed, so nothing was signalled
    });
}

// A deadline passed on the receiving side: its buffer goes to another use while bytes still arrive.
TEST_CASE("after discard_landing the rest of a payload touches nothing") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const auto payload = pattern(30 * MiB);
        std::vector<std::byte> target(payload.size(), std::byte{0});
        bool placed = false;
        server->on_place = [&](Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>& into) {
            into.emplace_back(target);
            placed = true;
        };
        const Bytes gather[] = {payload};
        REQUIRE(post(net, *client, *server, {.gather = gather, .head = as_bytes("late"), .cookie = 1}));
        REQUIRE(net.until({client.get(), server.get()}, [&] { return placed; }));
        const bool landing = server->messages.empty();
        server->lane().discard_landing();
        if (landing) std::fill(target.begin(), target.end(), std::byte{0x55});
        REQUIRE(net.until({client.get(), server.get()},
                          [&] { return server->messages.size() == 1 && client->completion(1); }));
        if (landing) CHECK(std::count(target.begin(), target.end(), std::byte{0x55}) == 30 * MiB);
    });
}

TEST_CASE("post takes what fits and says Again when nothing does") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const auto payload = pattern(64 * KiB);
        const Bytes gather[] = {payload};
        const std::vector<Op> batch(net.client().caps().lane_depth + 10, Op{.gather = gather});
        std::size_t taken = 0;
        Errc full = Errc::Invalid;
        for (int tries = 0; tries < 100'000 && full != Errc::Again; ++tries) {
            auto some = client->lane().post(std::span(batch).subspan(std::min(taken, batch.size() - 1)));
            if (some) taken += *some;
            if (!some && client->lane().free_slots() == 0) full = some.error().code;
        }
        CHECK(full == Errc::Again);
        CHECK(taken == net.client().caps().lane_depth);
        REQUIRE(net.until({client.get(), server.get()}, [&] { return client->completions.size() == taken; }));
        CHECK(client->lane().free_slots() == net.client().caps().lane_depth);
        REQUIRE(net.until({client.get(), server.get()}, [&] { return server->messages.size() == taken; }));
    });
}

// The receiver answers from inside message(): the shape of every server.
TEST_CASE("a reply posted from inside message() reaches the asker") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        server->on_message = [&](Lane& lane, Bytes head) {
            const std::string reply = "re: " + std::string(as_text(head));
            const Op op{.signal = false, .head = as_bytes(reply)};
            while (!lane.post({&op, 1})) {
            }
        };
        REQUIRE(post(net, *client, *server, {.signal = false, .head = as_bytes("hello")}));
        REQUIRE(net.until({client.get(), server.get()}, [&] { return client->messages.size() == 1; }));
        CHECK(client->messages[0].head == "re: hello");
    });
}

TEST_CASE("quiesce ends every operation that is still out, with PeerDown") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const auto payload = pattern(40 * MiB);
        const Bytes gather[] = {payload};
        // The second is unsignalled: its failure is told all the same.
        REQUIRE(post(net, *client, *server, {.gather = gather, .cookie = 1}));
        REQUIRE(post(net, *client, *server, {.signal = false, .gather = gather, .cookie = 2}));
        REQUIRE(client->lane().quiesce(std::chrono::seconds(5)));
        client->collect();
        for (const std::uint64_t cookie : {1, 2}) {
            REQUIRE(client->completion(cookie));
            CHECK(client->completion(cookie)->error == Errc::PeerDown);
        }
        const Op after{};
        const auto refused = client->lane().post({&after, 1});
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::PeerDown);
    });
}

TEST_CASE("a peer that dies shows as PeerDown, and what was out completes") {
    on_each([](Net& net) {
        auto pair = net.pair();
        auto& [listener, client, server] = pair;
        const auto payload = pattern(40 * MiB);
        const Bytes gather[] = {payload};
        REQUIRE(post(net, *client, *server, {.gather = gather, .cookie = 1}));
        net.kill_server(*server);
        REQUIRE(net.until({client.get()}, [&] { return client->down.has_value(); }));
        CHECK(client->down->code == Errc::PeerDown);
        REQUIRE(client->lane().quiesce(std::chrono::seconds(5)));
        REQUIRE(net.until({client.get()}, [&] { return client->completion(1) != nullptr; }));
        // It may have left before the peer died; if not, this is the reason.
        CHECK(client->completion(1)->error.value_or(Errc::PeerDown) == Errc::PeerDown);
    });
}

TEST_CASE("a listener that is not there shows as PeerDown, with a sentence that names it") {
    on_each([](Net& net) {
        std::string address;
        {
            auto pair = net.pair();
            address = pair.listener->address();
        }
        auto lane = net.client().connect(address);
        REQUIRE(lane);
        End client(std::move(*lane));
        REQUIRE(net.until({&client}, [&] { return client.down.has_value(); }));
        CHECK(client.down->code == Errc::PeerDown);
        CHECK(client.down->detail.find(address) != std::string::npos);
    });
}

TEST_CASE("an address that is taken is refused with its name") {
    on_each([](Net& net) {
        auto first = net.server().listen(net.address());
        REQUIRE(first);
        auto second = net.server().listen((*first)->address());
        REQUIRE_FALSE(second);
        CHECK(second.error().code == Errc::PeerDown);
        CHECK(second.error().detail.find((*first)->address()) != std::string::npos);
    });
}
