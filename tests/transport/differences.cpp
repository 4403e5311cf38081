// The ten places where fabrics differ. Each test holds a caller to what all of them promise, and
// checks that no back end hides what one of them does not.
#include "net.h"

#include <atomic>
#include <thread>

using namespace cmpool;
using namespace cmpool::testing;
using namespace std::chrono_literals;

namespace {

struct Shared {
    Shared(Net& net, Access access, std::uint64_t bytes) : pair(net.pair()) {
        auto made = net.server().allocate({.bytes = bytes, .access = access});
        REQUIRE(made);
        segment = std::move(*made);
        auto got = import(net, *pair.client, *pair.server, segment->descriptor(), segment->token());
        REQUIRE(got);
        remote = std::move(*got);
    }
    [[nodiscard]] std::atomic_ref<std::uint64_t> word(std::uint64_t offset) const {
        return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(segment->bytes().data() + offset));
    }
    std::unique_ptr<Segment> segment;
    Net::Pair pair;
    std::unique_ptr<RemoteSegment> remote;
};

// Both halves are equal in every word that was ever stored.
constexpr std::uint64_t twin(std::uint32_t half) { return std::uint64_t{half} << 32 | half; }
constexpr bool whole(std::uint64_t word) { return word >> 32 == (word & UINT32_MAX); }

}  // namespace

TEST_CASE("1: an aligned 8-byte word is never torn, whoever writes it meanwhile") {
    on_each([](Net& net) {
        Shared shared(net, Access::Read, 64 * KiB);
        std::atomic<bool> stop{false};
        std::thread owner([&] {
            for (std::uint32_t round = 0; !stop; ++round) {
                for (std::uint64_t at = 0; at < 64 * KiB; at += 8) {
                    shared.word(at).store(twin(round), std::memory_order_relaxed);
                }
            }
        });
        std::vector<std::uint64_t> seen(8 * KiB);
        // An odd start: what the reader gets of the first word is a piece, all others are whole.
        const MutableBytes scatter[] = {std::as_writable_bytes(std::span(seen))};
        bool all_whole = true;
        for (int round = 0; round < 30 && all_whole; ++round) {
            const auto read = run(net, *shared.pair.client, *shared.pair.server,
                                  {.kind = OpKind::Read, .remote = shared.remote.get(), .scatter = scatter});
            all_whole = read && std::all_of(seen.begin(), seen.end(), whole);
        }
        stop = true;
        owner.join();
        CHECK(all_whole);
    });
}

TEST_CASE("2 and 3: bytes of one large access come in no order: only notify orders payload and word") {
    // What may happen is shown by the simulation, which is as unkind as a fabric may be.
    SimWorld world(5, {.delay_min = 1000ns, .delay_max = 9000ns});
    auto server_fabric = world.open("server", SimProfile::OneSided);
    auto client_fabric = world.open("client", SimProfile::OneSided);
    auto listener = *server_fabric->listen("a");
    End client(*client_fabric->connect("a"));
    while (world.step()) {
    }
    End server(*listener->accept());
    auto segment = *server_fabric->allocate({.bytes = 4096, .access = Access::ReadWrite});
    REQUIRE(client.lane().import(segment->descriptor(), segment->token(), 1));
    client.collect();
    auto remote = client.lane().imported(1);
    const std::vector<std::byte> ones(1024, std::byte{1});
    const Bytes gather[] = {ones};
    bool last_before_first = false;
    for (int round = 0; round < 40; ++round) {
        std::fill(segment->bytes().begin(), segment->bytes().end(), std::byte{0});
        const Op write{.kind = OpKind::Write, .delivered = true, .remote = remote.get(), .gather = gather};
        REQUIRE(client.lane().post({&write, 1}));
        while (world.step()) {
            last_before_first |=
                segment->bytes()[1023] == std::byte{1} && segment->bytes()[0] == std::byte{0};
        }
        client.collect();
    }
    CHECK(last_before_first);
}

TEST_CASE("4: a read under stores may mix old and new words") {
    SimWorld world(6);
    auto server_fabric = world.open("server", SimProfile::OneSided);
    auto client_fabric = world.open("client", SimProfile::OneSided);
    auto listener = *server_fabric->listen("a");
    End client(*client_fabric->connect("a"));
    while (world.step()) {
    }
    auto segment = *server_fabric->allocate({.bytes = 4096, .access = Access::Read});
    REQUIRE(client.lane().import(segment->descriptor(), segment->token(), 1));
    auto remote = client.lane().imported(1);
    std::vector<std::byte> seen(1024);
    const MutableBytes scatter[] = {seen};
    const Op read{.kind = OpKind::Read, .remote = remote.get(), .scatter = scatter};
    REQUIRE(client.lane().post({&read, 1}));
    for (int half = 0; half < 8; ++half) REQUIRE(world.step());
    std::fill(segment->bytes().begin(), segment->bytes().end(), std::byte{1});
    while (world.step()) {
    }
    const auto fresh = std::count(seen.begin(), seen.end(), std::byte{1});
    CHECK(fresh > 0);
    CHECK(fresh < 1024);
}

TEST_CASE("5: a write that asked for delivery is visible when it completes; another one may not be") {
    on_each([](Net& net) {
        Shared shared(net, Access::ReadWrite, 64 * KiB);
        const auto bytes = pattern(64 * KiB);
        const Bytes gather[] = {bytes};
        REQUIRE(
            run(net, *shared.pair.client, *shared.pair.server,
                {.kind = OpKind::Write, .delivered = true, .remote = shared.remote.get(), .gather = gather}));
        CHECK(std::equal(bytes.begin(), bytes.end(), shared.segment->bytes().begin()));
        // Complete means that the buffer is ours again, even where the bytes are still under way.
        auto reused = pattern(64 * KiB, 8);
        const auto sent = reused;
        const Bytes again[] = {reused};
        REQUIRE(run(net, *shared.pair.client, *shared.pair.server,
                    {.kind = OpKind::Write, .remote = shared.remote.get(), .gather = again}));
        std::fill(reused.begin(), reused.end(), std::byte{0xee});
        REQUIRE(net.until({shared.pair.client.get(), shared.pair.server.get()}, [&] {
            return std::equal(sent.begin(), sent.end(), shared.segment->bytes().begin());
        }));
    });
}

TEST_CASE("6: after a hard revoke nothing is read or lands; a pending one refuses new imports") {
    on_each([](Net& net) {
        Shared shared(net, Access::ReadWrite, 4096);
        const auto revoked = shared.segment->revoke();
        CHECK((revoked == Revocation::Hard) == net.server().caps().hard_revoke);
        const auto again = import(net, *shared.pair.client, *shared.pair.server, shared.segment->descriptor(),
                                  shared.segment->token());
        if (revoked == Revocation::Pending) {
            REQUIRE_FALSE(again);
            CHECK(again.error().code == Errc::Denied);
            return;
        }
        const std::vector<std::byte> ones(64, std::byte{1});
        const Bytes gather[] = {ones};
        const auto write = run(net, *shared.pair.client, *shared.pair.server,
                               {.kind = OpKind::Write, .remote = shared.remote.get(), .gather = gather});
        REQUIRE_FALSE(write);
        CHECK(write.error().code == Errc::Denied);
        CHECK(shared.segment->bytes()[0] == std::byte{0});
    });
}

TEST_CASE("6: a segment can go away in the middle of a large read, and the lane lives on") {
    on_each([](Net& net) {
        Shared shared(net, Access::Read, 32 * MiB);
        auto& [listener, client, server] = shared.pair;
        std::vector<std::byte> seen(32 * MiB);
        const MutableBytes scatter[] = {seen};
        REQUIRE(post(net, *client, *server,
                     {.kind = OpKind::Read, .remote = shared.remote.get(), .scatter = scatter, .cookie = 1}));
        server->pump();
        client->pump();
        shared.segment.reset();
        REQUIRE(net.until({client.get(), server.get()}, [&] { return client->completion(1) != nullptr; }));
        CHECK(client->completion(1)->error.value_or(Errc::Denied) == Errc::Denied);
        if (net.client().caps().atomics == Atomics::Device) return;  // like queue pairs, it ends there
        REQUIRE(run(net, *client, *server, {.head = as_bytes("still here")}));
    });
}

TEST_CASE("7: when a peer dies, one-sided operations end by completion or by quiesce") {
    on_each([](Net& net) {
        Shared shared(net, Access::ReadWrite, 16 * MiB);
        auto& [listener, client, server] = shared.pair;
        const auto bytes = pattern(16 * MiB);
        const Bytes gather[] = {bytes};
        for (std::uint64_t cookie = 1; cookie <= 4; ++cookie) {
            REQUIRE(post(net, *client, *server,
                         {.kind = OpKind::Write,
                          .signal = cookie == 4,
                          .remote = shared.remote.get(),
                          .gather = gather,
                          .cookie = cookie}));
        }
        net.kill_server(*server);
        REQUIRE(net.until({client.get(), server.get()}, [&] { return client->down.has_value(); }));
        REQUIRE(client->lane().quiesce(5s));
        REQUIRE(net.until({client.get()}, [&] { return client->completion(4) != nullptr; }));
        CHECK(client->lane().free_slots() == net.client().caps().lane_depth);
    });
}

// The target is slow: its socket holds a write when the writer gives up. A timer would call it over.
TEST_CASE("8: quiesce does not return while a write of ours can still land") {
    on_each([](Net& net) {
        Shared shared(net, Access::ReadWrite, 64 * KiB);
        auto& [listener, client, server] = shared.pair;
        const auto bytes = pattern(64 * KiB);
        const Bytes gather[] = {bytes};
        REQUIRE(post(net, *client, *server,
                     {.kind = OpKind::Write, .remote = shared.remote.get(), .gather = gather, .cookie = 1}));
        auto quiesced = client->lane().quiesce(0s);
        if (!quiesced) {
            CHECK(quiesced.error().code == Errc::Deadline);
            // Only once the target has gone past it, nothing of it can land any more.
            REQUIRE(net.until({server.get()}, [&] { return server->down.has_value(); }));
            quiesced = client->lane().quiesce(5s);
        }
        REQUIRE(quiesced);
        std::fill(shared.segment->bytes().begin(), shared.segment->bytes().end(), std::byte{0x33});
        (void)net.until({server.get()}, [&] { return server->down.has_value(); });
        CHECK(std::count(shared.segment->bytes().begin(), shared.segment->bytes().end(), std::byte{0x33}) ==
              64 * KiB);
    });
}

TEST_CASE("9: an import that succeeds says nothing about the peer: the first access does") {
    on_each([](Net& net) {
        Shared shared(net, Access::Read, 4096);
        auto& [listener, client, server] = shared.pair;
        net.kill_server(*server);
        REQUIRE(net.until({client.get()}, [&] { return client->down.has_value(); }));
        auto late = client->lane().import(shared.segment->descriptor(), shared.segment->token(), 77);
        std::byte byte;
        const MutableBytes scatter[] = {MutableBytes(&byte, 1)};
        const auto read = run(net, *client, *server,
                              {.kind = OpKind::Read, .remote = shared.remote.get(), .scatter = scatter});
        REQUIRE_FALSE(read);
        CHECK(read.error().code == Errc::PeerDown);
        if (!late) CHECK(late.error().code == Errc::PeerDown);
    });
}

TEST_CASE("10: an operation above the caps is refused whole, not cut") {
    on_each([](Net& net) {
        const auto most = net.client().caps().op_bytes_max;
        Shared shared(net, Access::ReadWrite, most + 4096);
        std::vector<std::byte> bytes(most + 1);
        const MutableBytes scatter[] = {bytes};
        const Bytes gather[] = {bytes};
        for (const Op& op : {Op{.kind = OpKind::Read, .remote = shared.remote.get(), .scatter = scatter},
                             Op{.kind = OpKind::Write, .remote = shared.remote.get(), .gather = gather}}) {
            const auto refused = run(net, *shared.pair.client, *shared.pair.server, op);
            REQUIRE_FALSE(refused);
            CHECK(refused.error().code == Errc::Invalid);
        }
        const MutableBytes fits[] = {MutableBytes(bytes).first(most)};
        CHECK(run(net, *shared.pair.client, *shared.pair.server,
                  {.kind = OpKind::Read, .remote = shared.remote.get(), .scatter = fits}));
    });
}
