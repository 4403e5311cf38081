// One-sided traffic: what every back end promises about segments, rights and words.
#include "net.h"

#include <cmpool/testing/process_window.h>

using namespace cmpool;
using namespace cmpool::testing;

namespace {

/// A pair of lanes and a segment of the server that the client has imported.
struct Shared {
    Shared(Net& over, Access access, std::uint64_t bytes = 64 * KiB) : net(over), pair(over.pair()) {
        auto made = net.server().allocate({.bytes = bytes, .access = access, .name = "contract"});
        REQUIRE(made);
        segment = std::move(*made);
        auto got = import(net, *pair.client, *pair.server, segment->descriptor(), segment->token());
        REQUIRE(got);
        remote = std::move(*got);
        REQUIRE(remote);
    }
    Result<Completion> run(const Op& op) { return testing::run(net, *pair.client, *pair.server, op); }
    std::uint64_t& word(std::uint64_t offset) {
        return *reinterpret_cast<std::uint64_t*>(segment->bytes().data() + offset);
    }

    Net& net;
    std::unique_ptr<Segment> segment;
    Net::Pair pair;
    std::unique_ptr<RemoteSegment> remote;
};

}  // namespace

TEST_CASE("a read brings the segment's bytes, scattered over several buffers") {
    on_each([](Net& net) {
        Shared shared(net, Access::Read);
        const auto bytes = pattern(64 * KiB);
        std::copy(bytes.begin(), bytes.end(), shared.segment->bytes().begin());
        std::vector<std::byte> first(1001), second(9000);
        const MutableBytes scatter[] = {first, second};
        const auto done = shared.run(
            {.kind = OpKind::Read, .remote = shared.remote.get(), .offset = 777, .scatter = scatter});
        REQUIRE(done);
        CHECK(done->bytes == 10'001);
        CHECK(std::equal(first.begin(), first.end(), bytes.begin() + 777));
        CHECK(std::equal(second.begin(), second.end(), bytes.begin() + 777 + 1001));
    });
}

TEST_CASE("large reads and writes, at odd offsets, move every byte") {
    on_each([](Net& net) {
        Shared shared(net, Access::ReadWrite, 8 * MiB);
        const auto bytes = pattern(5 * MiB + 3);
        const Bytes gather[] = {Bytes(bytes).first(12'345), Bytes(bytes).subspan(12'345)};
        REQUIRE(shared.run({.kind = OpKind::Write,
                            .delivered = true,
                            .remote = shared.remote.get(),
                            .offset = 13,
                            .gather = gather}));
        CHECK(std::equal(bytes.begin(), bytes.end(), shared.segment->bytes().begin() + 13));
        std::vector<std::byte> back(bytes.size());
        const MutableBytes scatter[] = {back};
        REQUIRE(shared.run(
            {.kind = OpKind::Read, .remote = shared.remote.get(), .offset = 13, .scatter = scatter}));
        CHECK(back == bytes);
    });
}

TEST_CASE("a wrong token opens nothing") {
    on_each([](Net& net) {
        Shared shared(net, Access::ReadWrite);
        const Token wrong{shared.segment->token().value ^ 1};
        auto got = import(net, *shared.pair.client, *shared.pair.server, shared.segment->descriptor(), wrong);
        if (!got) {
            CHECK(got.error().code == Errc::Denied);
            return;
        }
        std::byte byte{0x11};
        const MutableBytes scatter[] = {MutableBytes(&byte, 1)};
        const auto refused = shared.run({.kind = OpKind::Read, .remote = got->get(), .scatter = scatter});
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::Denied);
        CHECK(byte == std::byte{0x11});
    });
}

TEST_CASE("a segment that peers may read cannot be written or counted in") {
    on_each([](Net& net) {
        for (const OpKind kind : {OpKind::Write, OpKind::WriteNotify, OpKind::FetchAdd, OpKind::Cas}) {
            Shared shared(net, Access::Read);
            const std::uint64_t word = 1;
            const Bytes gather[] = {std::as_bytes(std::span(&word, 1))};
            // Unsignalled, and told all the same.
            const auto refused = shared.run({.kind = kind,
                                             .signal = false,
                                             .remote = shared.remote.get(),
                                             .gather = gather,
                                             .operand = 1});
            REQUIRE_FALSE(refused);
            CHECK(refused.error().code == Errc::Denied);
            CHECK(shared.word(0) == 0);
        }
    });
}

TEST_CASE("a range that leaves the segment is refused before anything moves") {
    on_each([](Net& net) {
        Shared shared(net, Access::Atomic);
        std::vector<std::byte> two(2);
        const MutableBytes scatter[] = {two};
        for (const std::uint64_t offset : {shared.remote->size() - 1, shared.remote->size(), UINT64_MAX}) {
            const auto refused = shared.run(
                {.kind = OpKind::Read, .remote = shared.remote.get(), .offset = offset, .scatter = scatter});
            REQUIRE_FALSE(refused);
            CHECK(refused.error().code == Errc::Invalid);
        }
        const auto crooked =
            shared.run({.kind = OpKind::FetchAdd, .remote = shared.remote.get(), .offset = 4, .operand = 1});
        REQUIRE_FALSE(crooked);
        CHECK(crooked.error().code == Errc::Invalid);
        const Op good{.kind = OpKind::Read, .remote = shared.remote.get(), .scatter = scatter};
        Op wrong = good;
        wrong.offset = UINT64_MAX;
        const Op batch[] = {good, wrong, good};  // what leads is taken, the rest is the caller's again
        Result<std::size_t> taken = 0;
        for (int tries = 0; tries < 100 && !(taken && *taken == 1); ++tries) {
            taken = shared.pair.client->lane().post(batch);
        }
        CHECK(taken == 1);
    });
}

TEST_CASE("the word of a write_notify is visible only after its payload") {
    on_each([](Net& net) {
        Shared shared(net, Access::ReadWrite);
        const auto bytes = pattern(32 * KiB);
        const Bytes gather[] = {bytes};
        REQUIRE(post(net, *shared.pair.client, *shared.pair.server,
                     {.kind = OpKind::WriteNotify,
                      .remote = shared.remote.get(),
                      .offset = 4096,
                      .gather = gather,
                      .operand = 99,
                      .notify_offset = 8}));
        REQUIRE(net.until({shared.pair.client.get(), shared.pair.server.get()},
                          [&] { return std::atomic_ref(shared.word(8)).load() == 99; }));
        CHECK(std::equal(bytes.begin(), bytes.end(), shared.segment->bytes().begin() + 4096));
    });
}

TEST_CASE("atomics give the word before and change it once") {
    on_each([](Net& net) {
        if (net.client().caps().atomics == Atomics::None) return;
        Shared shared(net, Access::Atomic);
        shared.word(64) = 40;
        const Op add{.kind = OpKind::FetchAdd, .remote = shared.remote.get(), .offset = 64, .operand = 2};
        CHECK(shared.run(add)->value == 40);
        Op swap{
            .kind = OpKind::Cas, .remote = shared.remote.get(), .offset = 64, .operand = 7, .compare = 42};
        CHECK(shared.run(swap)->value == 42);
        CHECK(shared.run(swap)->value == 7);  // no longer what was expected: unchanged
        CHECK(shared.word(64) == 7);
    });
}

// Without the fence the write may overtake the read; with it, the read sees what was there before.
TEST_CASE("a fenced write waits for the read before it") {
    on_each([](Net& net) {
        Shared shared(net, Access::ReadWrite, 4 * MiB);
        std::fill(shared.segment->bytes().begin(), shared.segment->bytes().end(), std::byte{1});
        std::vector<std::byte> seen(4 * MiB);
        const std::vector<std::byte> fresh(4 * MiB, std::byte{2});
        const MutableBytes scatter[] = {seen};
        const Bytes gather[] = {fresh};
        auto& [listener, client, server] = shared.pair;
        REQUIRE(post(net, *client, *server,
                     {.kind = OpKind::Read, .remote = shared.remote.get(), .scatter = scatter, .cookie = 1}));
        REQUIRE(post(net, *client, *server,
                     {.kind = OpKind::Write,
                      .fence = true,
                      .delivered = true,
                      .remote = shared.remote.get(),
                      .gather = gather,
                      .cookie = 2}));
        REQUIRE(net.until({client.get(), server.get()},
                          [&] { return client->completion(1) && client->completion(2); }));
        CHECK(std::count(seen.begin(), seen.end(), std::byte{1}) == 4 * MiB);
        CHECK(std::equal(fresh.begin(), fresh.end(), shared.segment->bytes().begin()));
    });
}

TEST_CASE("an import is handed over once, and a window or a segment knows its size and rights") {
    on_each([](Net& net) {
        Shared shared(net, Access::Read, 5000);
        CHECK(shared.remote->size() == 8192);  // whole pages
        CHECK(shared.remote->access() == Access::Read);
        CHECK(shared.pair.client->lane().imported(12345) == nullptr);
        const Descriptor garbage{std::vector<std::byte>(17)};
        const auto refused = shared.pair.client->lane().import(garbage, Token{}, 1);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::Invalid);
    });
}

TEST_CASE("mapped memory shows the owner's stores, where memory can be mapped") {
    on_each([](Net& net) {
        Shared shared(net, Access::Read);
        auto mapped = shared.remote->map();
        if (net.client().caps().map == MapKind::None) {
            REQUIRE_FALSE(mapped);
            CHECK(mapped.error().code == Errc::Unsupported);
            return;
        }
        REQUIRE(mapped);
        shared.word(128) = 0x1234;
        CHECK(*reinterpret_cast<const std::uint64_t*>(mapped->data() + 128) == 0x1234);
        shared.segment->punch();
        CHECK(*reinterpret_cast<const std::uint64_t*>(mapped->data() + 128) == 0);  // zeros, not a fault
        shared.segment.reset();
        CHECK(*reinterpret_cast<const std::uint64_t*>(mapped->data() + 128) == 0);
    });
}

// A borrowed view must survive the owner's clean stop.
TEST_CASE("mapped memory stays as it was when its segment ends") {
    on_each([](Net& net) {
        Shared shared(net, Access::Read);
        auto mapped = shared.remote->map();
        if (!mapped) return;
        shared.word(128) = 0x1234;
        shared.segment.reset();
        CHECK(*reinterpret_cast<const std::uint64_t*>(mapped->data() + 128) == 0x1234);
    });
}

TEST_CASE("memory that exists already is read by a peer, through a window or by the lane") {
    on_each([](Net& net) {
        if (net.client().caps().pull && !reads_processes()) return;
        auto pair = net.pair();
        alignas(8) static std::array<std::byte, 100'000> memory;
        const auto bytes = pattern(memory.size(), 5);
        std::copy(bytes.begin(), bytes.end(), memory.begin());
        auto window = net.server().register_memory(memory, Access::Read);
        REQUIRE(window);
        auto remote = import(net, *pair.client, *pair.server, (*window)->descriptor(), (*window)->token());
        REQUIRE(remote);
        std::vector<std::byte> seen(50'000);
        const MutableBytes scatter[] = {MutableBytes(seen).first(1), MutableBytes(seen).subspan(1)};
        REQUIRE(run(net, *pair.client, *pair.server,
                    {.kind = OpKind::Read, .remote = remote->get(), .offset = 333, .scatter = scatter}));
        CHECK(std::equal(seen.begin(), seen.end(), bytes.begin() + 333));
        if (!net.client().caps().pull) return;
        const Bytes gather[] = {seen};
        const auto refused = run(net, *pair.client, *pair.server,
                                 {.kind = OpKind::Write, .remote = remote->get(), .gather = gather});
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::Denied);
        CHECK_FALSE((*remote)->map());
    });
}

TEST_CASE("a segment that is destroyed while a peer knows it refuses the peer, and nothing crashes") {
    on_each([](Net& net) {
        Shared shared(net, Access::Read);
        shared.segment.reset();
        std::vector<std::byte> seen(100, std::byte{9});
        const MutableBytes scatter[] = {seen};
        const auto read =
            shared.run({.kind = OpKind::Read, .remote = shared.remote.get(), .scatter = scatter});
        // Where it was handed over as a descriptor, it can still be mapped, and reads zeros.
        if (read) CHECK(std::count(seen.begin(), seen.end(), std::byte{0}) == 100);
        if (!read) CHECK(read.error().code == Errc::Denied);
    });
}
