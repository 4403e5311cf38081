#include <array>

#include <cmpool/base/bytes.h>
#include <cmpool/base/rarely.h>
#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>

using namespace cmpool;

TEST_CASE("sizes are read with binary units, and anything else is refused with what was seen") {
    CHECK(parse_bytes("4096") == 4096);
    CHECK(parse_bytes("64k") == 64 * KiB);
    CHECK(parse_bytes("256MiB") == 256 * MiB);
    CHECK(parse_bytes("8G") == 8 * GiB);
    for (const char* wrong : {"", "k", "12x", "1.5G", "-1", "99999999999999999999", "99999999999T"}) {
        const auto parsed = parse_bytes(wrong);
        REQUIRE_FALSE(parsed);
        CHECK(parsed.error().detail.find(wrong) != std::string::npos);
    }
}

TEST_CASE("sizes are printed as a person would write them") {
    CHECK(format_bytes(0) == "0 B");
    CHECK(format_bytes(64 * KiB) == "64 KiB");
    CHECK(format_bytes(MiB + MiB / 2) == "1.5 MiB");
}

TEST_CASE("hexadecimal survives the round trip and rejects other lengths and letters") {
    const std::array<std::byte, 3> bytes{std::byte{0}, std::byte{0x7f}, std::byte{0xff}};
    CHECK(to_hex(bytes) == "007fff");
    std::array<std::byte, 3> back{};
    REQUIRE(from_hex("007fff", back));
    CHECK(back == bytes);
    CHECK_FALSE(from_hex("007ff", back));
    CHECK_FALSE(from_hex("007fxg", back));
}

TEST_CASE("the same seed gives the same run") {
    Rng one(42);
    Rng other(42);
    for (int round = 0; round < 100; ++round) CHECK(one.next() == other.next());
    CHECK(Rng(1).next() != Rng(2).next());
    for (int round = 0; round < 1000; ++round) CHECK(one.below(7) < 7);
}

TEST_CASE("of many log lines one in a while is let through, and says for how many it stands") {
    Rarely said(std::chrono::seconds(1));
    CHECK(said.happened(Instant{}) == 1);
    for (int ns = 1; ns <= 1000; ++ns) CHECK_FALSE(said.happened(Instant{ns}));
    CHECK(said.happened(Instant{1'000'000'000}) == 1001);
    CHECK_FALSE(said.happened(Instant{1'000'000'001}));
    CHECK(said.happened(Instant{9'000'000'000}) == 2);
}
