#include <array>

#include <cmpool/base/rng.h>
#include <cmpool/model/digest.h>

using namespace cmpool;
using model::Digest;
using model::Digester;

namespace {

model::Secret counting_secret() {
    model::Secret secret;
    for (std::size_t index = 0; index < secret.size(); ++index) secret[index] = static_cast<std::byte>(index);
    return secret;
}

std::string hex(const Digest& digest) { return to_hex(digest.bytes); }

}  // namespace

// Known answers from Python: hashlib.blake2b(key=bytes(range(32)), digest_size=32) over
// bytes([kind]) + parent + body, without a line of this project.
TEST_CASE("a block's digest is keyed BLAKE2b over kind, parent and tokens") {
    const Digester digester(counting_secret());
    const std::array<std::uint32_t, 4> first{1, 2, 3, 4};
    const std::array<std::uint32_t, 4> second{5, 6, 7, 0xffffffff};
    const auto root = digester.block(model::kNoParent, first);
    CHECK(hex(root) == "3c98e8f3fb42a69ceb97185e0cfada49f233ec5b651281fa2773c664f22434ee");
    CHECK(hex(digester.block(root, second)) ==
          "066cd83ff338215dd276e392dc6f5f5e50fd2c18c0e4d48cb1f1d4ba22739be7");
    CHECK(hex(digester.opaque(as_bytes("vllm-key"))) ==
          "f5919525e62cead57a572742234bb7970e0981a45df83dca10ab55478b5283f6");
    CHECK(hex(digester.opaque({})) == "3dd308ea19be20f4c4fdd3b24bd6f732f529a3ef7dacc64f7580929479ccbc84");
}

// As above, without a key.
TEST_CASE("unkeyed digests are BLAKE2b over kind and bytes") {
    CHECK(hex(model::plain_digest(model::DigestKind::Content, as_bytes("abc"))) ==
          "80a62987dc63bde9688f212f92d85c8cc0bf011bf1e9e07b07126851a82a82d9");
    CHECK(hex(model::plain_digest(model::DigestKind::Credential, as_bytes("tenant key"))) ==
          "f53ecc8744aac213590f86ef405f2fd6c637daf7320f753e7382ae00ac458089");
}

TEST_CASE("a chain is its blocks one after the other, and its incomplete tail has no digest") {
    const Digester digester(counting_secret());
    std::vector<std::uint32_t> tokens(16 * 5 + 7);
    for (std::size_t index = 0; index < tokens.size(); ++index)
        tokens[index] = static_cast<std::uint32_t>(index);
    const auto chain = digester.chain(tokens, 16);
    REQUIRE(chain.size() == 5);
    Digest parent = model::kNoParent;
    for (std::size_t position = 0; position < chain.size(); ++position) {
        parent = digester.block(parent, std::span(tokens).subspan(position * 16, 16));
        CHECK(chain[position] == parent);
    }
    CHECK(digester.chain(std::span(tokens).first(15), 16).empty());
    CHECK(digester.chain({}, 16).empty());

    // A different first token changes every block behind it.
    tokens[0] ^= 1;
    const auto other = digester.chain(tokens, 16);
    for (std::size_t position = 0; position < chain.size(); ++position) {
        CHECK(other[position] != chain[position]);
    }
}

// Else a caller with keys of its own could name a prefix that it has not seen.
TEST_CASE("an opaque key never names a prefix") {
    const Digester digester(counting_secret());
    const std::array<std::uint32_t, 4> tokens{1, 2, 3, 4};
    CHECK(digester.opaque(std::as_bytes(std::span(tokens))) != digester.block(model::kNoParent, tokens));
}

TEST_CASE("the same tokens under another secret are another block") {
    auto secret = counting_secret();
    const Digester one(secret);
    secret[31] ^= std::byte{1};
    const Digester other(secret);
    const std::array<std::uint32_t, 2> tokens{1, 2};
    CHECK(one.block(model::kNoParent, tokens) != other.block(model::kNoParent, tokens));
}

// Source: the sanity test of xxHash 0.8 (tests/sanity_test.c, XXH3-64 with seed 0) over its own buffer.
TEST_CASE("checksums are XXH3-64") {
    std::array<std::byte, 2048> buffer;
    std::uint64_t generator = 2654435761;
    for (auto& byte : buffer) {
        byte = static_cast<std::byte>(generator >> 56);
        generator *= 0x9E3779B185EBCA8D;
    }
    const auto sum = [&](std::size_t length) { return model::checksum(std::span(buffer).first(length)); };
    CHECK(sum(0) == 0x2D06800538D394C2);
    CHECK(sum(1) == 0xC44BDFF4074EECDB);
    CHECK(sum(6) == 0x27B56A84CD2D7325);
    CHECK(sum(12) == 0xA713DAF0DFBB77E7);
    CHECK(sum(24) == 0xA3FE70BF9D3510EB);
    CHECK(sum(48) == 0x397DA259ECBA1F11);
    CHECK(sum(80) == 0xBCDEFBBB2C47C90A);
    CHECK(sum(195) == 0xCD94217EE362EC3A);
    CHECK(sum(403) == 0xCDEB804D65C6DEA4);
    CHECK(sum(2048) == 0xDD59E2C3A5F038E0);
}

TEST_CASE("a payload in pieces has the checksum of the whole, wherever it is cut") {
    constexpr std::uint64_t kSeed = 3;
    CAPTURE(kSeed);
    Rng rng(kSeed);
    std::vector<std::byte> payload(5000);
    for (auto& byte : payload) byte = static_cast<std::byte>(rng.next());
    for (int round = 0; round < 100; ++round) {
        model::ChecksumStream stream;
        for (std::size_t at = 0; at < payload.size();) {
            const auto piece = std::min<std::size_t>(rng.below(900), payload.size() - at);
            stream.update(std::span(payload).subspan(at, piece));
            at += piece;
        }
        CHECK(stream.digest() == model::checksum(payload));
    }
}
