#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <cmpool/base/rng.h>
#include <cmpool/loop/messages.h>

#include <doctest/doctest.h>

using namespace cmpool;
using namespace cmpool::loop;

namespace {

Message full() {
    return {.kind = Kind::Prefill,
            .id = 1,
            .session = 2,
            .secret = 3,
            .tokens = {4, 5},
            .pages = {6},
            .stop_tokens = {7},
            .output_max = 8,
            .finish = 2,
            .code = 9,
            .text = "why",
            .reused = 10,
            .pending = 11,
            .descriptor = {std::byte{12}},
            .names = {"pages"},
            .values = {13}};
}

}  // namespace

TEST_CASE("a message comes back as it went") {
    CHECK(decode(encode(full())) == full());
    CHECK(decode(encode({.kind = Kind::StatsAsk})) == Message{.kind = Kind::StatsAsk});
}

TEST_CASE("what is beyond a limit is refused") {
    auto long_prompt = full();
    long_prompt.tokens.resize(kTokensMax);
    CHECK(decode(encode(long_prompt)));
    long_prompt.tokens.resize(kTokensMax + 1);
    CHECK(decode(encode(long_prompt)).error().code == Errc::Invalid);
    auto askew = full();
    askew.values.clear();
    CHECK_FALSE(decode(encode(askew)));
    auto unknown = full();
    unknown.kind = static_cast<Kind>(99);
    CHECK_FALSE(decode(encode(unknown)));
    CHECK_FALSE(decode({}));
}

// A worker's port may be reached by anybody on the host.
TEST_CASE("damaged bytes are refused or read as something sound, and never more") {
    const auto sound = encode(full());
    Rng rng(1);
    for (int round = 0; round < 20'000; ++round) {
        auto bytes = sound;
        for (std::uint64_t left = 1 + rng.below(4); left > 0; --left)
            bytes[rng.below(bytes.size())] = static_cast<std::byte>(rng.next());
        if (rng.chance(0.2)) bytes.resize(rng.below(bytes.size()));
        const auto message = decode(bytes);
        if (message) CHECK(decode(encode(*message)) == *message);
    }
}

// CMPOOL_WRITE_CORPUS=tests/fuzz/corpus/loop makes the fuzzer's first inputs anew.
TEST_CASE("the fuzzer's first inputs are one message of each kind") {
    const char* folder = std::getenv("CMPOOL_WRITE_CORPUS");
    for (auto kind = std::uint8_t(Kind::Hello); kind <= std::uint8_t(Kind::Stats); ++kind) {
        auto message = full();
        message.kind = static_cast<Kind>(kind);
        const auto bytes = encode(message);
        CHECK(decode(bytes) == message);
        if (folder == nullptr) continue;
        std::ofstream file(std::filesystem::path(folder) / fmt::format("kind-{}", kind), std::ios::binary);
        file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        CHECK(file);
    }
}
