// The stream's own format: golden bytes, and lengths that a peer may lie about.
#include "frame.h"

#include "descriptor.h"
#include "net.h"
#include "verbs_queue.h"

#include <cmpool/base/bytes.h>

using namespace cmpool;
using namespace cmpool::transport;

TEST_CASE("a frame header's bytes are these, until the magic changes") {
    const auto bytes = encode_frame({.kind = FrameKind::Message,
                                     .head_bytes = 0x11223,
                                     .payload_bytes = 0x3000001,
                                     .cookie = 0x0102030405060708,
                                     .value = 0xff});
    CHECK(to_hex(bytes) ==
          "434d503101000000231201000000000001000003000000000807060504030201ff00000000000000");
    CHECK(to_hex(encode_request(
              {.segment = 1, .token = 2, .offset = 3, .length = 4, .operand = 5, .extra = 6})) ==
          "010000000000000002000000000000000300000000000000"
          "040000000000000005000000000000000600000000000000");
}

TEST_CASE("every header that is written is read back the same") {
    const FrameHeader headers[] = {
        {.kind = FrameKind::Message, .head_bytes = kHeadBytesMax, .payload_bytes = kPayloadBytesMax},
        {.kind = FrameKind::Read, .head_bytes = kRequestBytes, .cookie = UINT64_MAX},
        {.kind = FrameKind::WriteNotify, .head_bytes = kRequestBytes, .payload_bytes = kOpBytesMax},
        {.kind = FrameKind::ReadData, .last = true, .payload_bytes = kReplyChunkBytes},
        {.kind = FrameKind::Reply, .carries_fd = true, .status = 0, .value = 7},
        {.kind = FrameKind::Reply, .status = static_cast<std::uint16_t>(Errc::Invalid)},
    };
    for (const auto& header : headers) {
        const auto parsed = parse_frame(encode_frame(header));
        REQUIRE(parsed);
        CHECK(*parsed == header);
    }
}

TEST_CASE("random headers are refused or obey every bound") {
    Rng rng(99);
    for (int round = 0; round < 100'000; ++round) {
        auto bytes = encode_frame({.kind = static_cast<FrameKind>(rng.below(12)),
                                   .status = static_cast<std::uint16_t>(rng.below(13)),
                                   .head_bytes = static_cast<std::uint32_t>(rng.next() >> rng.below(64)),
                                   .payload_bytes = rng.next() >> rng.below(64)});
        if (rng.chance(0.3)) bytes[rng.below(bytes.size())] = static_cast<std::byte>(rng.next());
        const auto parsed = parse_frame(bytes);
        if (!parsed) continue;
        CHECK(parsed->head_bytes <= kHeadBytesMax);
        CHECK(parsed->payload_bytes <= kPayloadBytesMax);
        CHECK(encode_frame(*parsed) == bytes);
    }
    CHECK_FALSE(parse_frame(Bytes{}));
}

TEST_CASE("a setup says where a queue pair is, and one that cannot be is refused") {
    VerbsEnd end{.number = 0x123456, .sequence = 7, .lid = 3, .mtu = 5, .reads = 16, .status = 0};
    end.gid[15] = 9;
    const auto bytes = encode_setup(end);
    CHECK(to_hex(bytes) ==
          "010000005634120007000000030005100000000000000000000000000000000900000000"
          "00000000");
    const auto back = parse_setup(bytes);
    REQUIRE(back);
    CHECK(encode_setup(*back) == bytes);
    CHECK(parse_setup(Bytes(bytes).first(39)).error().code == Errc::Invalid);
    for (const auto& [at, value, code] :
         {std::tuple{0, 2, Errc::Mismatch}, std::tuple{7, 1, Errc::Invalid}, std::tuple{11, 1, Errc::Invalid},
          std::tuple{14, 0, Errc::Invalid}, std::tuple{14, 6, Errc::Invalid},
          std::tuple{33, 1, Errc::Invalid}}) {
        CAPTURE(at);
        auto wrong = bytes;
        wrong[static_cast<std::size_t>(at)] = static_cast<std::byte>(value);
        const auto parsed = parse_setup(wrong);
        REQUIRE_FALSE(parsed);
        CHECK(parsed.error().code == code);
    }
}

TEST_CASE("a descriptor of another version names both versions, any other form is Invalid") {
    auto descriptor =
        describe({.kind = SegmentKind::Tcp, .access = Access::Read, .segment = 5, .length = 4096});
    const auto name = open_descriptor(descriptor);
    REQUIRE(name);
    CHECK(name->segment == 5);
    CHECK(name->length == 4096);
    auto newer = descriptor;
    newer.bytes[4] = std::byte{2};
    CHECK(open_descriptor(newer).error().code == Errc::Mismatch);
    auto shorter = descriptor;
    shorter.bytes.pop_back();
    CHECK(open_descriptor(shorter).error().code == Errc::Invalid);
    auto wild = descriptor;
    wild.bytes[32] = std::byte{200};
    CHECK(open_descriptor(wild).error().code == Errc::Invalid);
}
