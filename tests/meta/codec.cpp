#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include <cmpool/base/rng.h>
#include <cmpool/testing/messages.h>
#include <cmpool/wire/messages.h>

using namespace cmpool;
using testing::SampleMessages;

namespace {

// A decoded message, encoded again, tells every field that got lost on the way: comparing bytes
// compares everything.
std::vector<std::byte> encode(const wire::Message& message) {
    wire::Encoder encoder;
    const auto bytes = encoder.encode(message);
    return {bytes.begin(), bytes.end()};
}

/// A buffer's bytes at an 8-byte boundary, as a lane hands them over.
class Aligned {
public:
    explicit Aligned(Bytes bytes) : words_(bytes.size() / 8 + 1), size_(bytes.size()) {
        if (!bytes.empty()) std::memcpy(words_.data(), bytes.data(), bytes.size());
    }
    [[nodiscard]] MutableBytes bytes() { return std::as_writable_bytes(std::span(words_)).first(size_); }

private:
    std::vector<std::uint64_t> words_;
    std::size_t size_;
};

// Reads everything that a decoded message shows, so that a sanitizer sees what a caller would touch.
void touch(const wire::Message& message) { CHECK(encode(message).size() > 0); }

void check_refused_or_read(wire::Decoder& decoder, Bytes buffer) {
    const auto decoded = decoder.decode(buffer);
    if (decoded) {
        touch(*decoded);
    } else {
        CHECK(decoded.error().code == Errc::Invalid);
        CHECK_FALSE(decoded.error().detail.empty());
    }
}

}  // namespace

TEST_CASE("there is a sample of every message") {
    const SampleMessages samples;
    REQUIRE(samples.all().size() == wire::kBodies);
    for (std::size_t kind = 0; kind < samples.all().size(); ++kind) {
        CHECK(samples.all()[kind].body.index() == kind);
    }
}

TEST_CASE("every message comes back as it was sent") {
    const SampleMessages samples;
    for (const auto& message : samples.all()) {
        CAPTURE(wire::name_of(message.body));
        const auto bytes = encode(message);
        Aligned buffer(bytes);
        wire::Decoder decoder;
        const auto decoded = decoder.decode(buffer.bytes());
        REQUIRE(decoded);
        CHECK(decoded->request_id == message.request_id);
        CHECK(decoded->epoch == message.epoch);
        CHECK(decoded->body.index() == message.body.index());
        CHECK(encode(*decoded) == bytes);
    }
}

TEST_CASE("the fields of a message are not mistaken for each other") {
    const SampleMessages samples;
    wire::Decoder decoder;
    const auto read = [&](std::size_t kind) {
        Aligned buffer(encode(samples.all()[kind]));
        // The decoder copies what is not aligned, so this copy keeps the spans alive.
        static thread_local std::vector<std::byte> kept;
        kept.assign(buffer.bytes().size() + 1, std::byte{0});
        std::memcpy(kept.data() + 1, buffer.bytes().data(), buffer.bytes().size());
        auto decoded = decoder.decode(Bytes(kept).subspan(1));
        REQUIRE(decoded);
        return *decoded;
    };
    const auto opened = read(2);
    const auto& open = std::get<wire::OpenNamespace>(opened.body);
    CHECK(open.spec == SampleMessages::spec());
    CHECK(open.tenant_key == "tenant key");
    CHECK(open.fingerprint == SampleMessages::digest(1));
    const auto put = read(13);
    const auto& items = std::get<wire::Put>(put.body).items;
    REQUIRE(items.size() == 2);
    CHECK(items[0].checksum == 0x1122334455667788);
    CHECK(items[0].window_offset == 3);
    CHECK(items[0].cost_us == 6);
    CHECK(items[0].parent == SampleMessages::digest(8));
    CHECK(items[1].digest == SampleMessages::digest(11));
    const auto got = read(12);
    CHECK(std::get<wire::Outcomes>(got.body).outcomes[2] == wire::Outcome::Later);
    CHECK(std::get<wire::Outcomes>(got.body).checksums[2] == 23);
    const auto get = read(10);
    CHECK(std::get<wire::Get>(get.body).ranges[0] == model::ByteRange{5, 6});
}

TEST_CASE("where memory can be read one-sided, and where blocks lie in it, comes back as it was sent") {
    const std::vector<std::string> planes{"verbs://10.0.0.1:7412", "sim://pool"};
    const std::vector<wire::Place> places{{1, 2, 3, 4}, {5, 6, 7, 8}};
    wire::Decoder decoder;
    const auto back = [&](wire::Body body) {
        static std::optional<Aligned> buffer;
        buffer.emplace(encode({.request_id = 1, .body = std::move(body)}));
        auto decoded = decoder.decode(buffer->bytes());
        if (decoded) touch(*decoded);
        return decoded;
    };
    const auto welcome = back(wire::Welcome{.planes = planes});
    REQUIRE(welcome);
    CHECK(std::get<wire::Welcome>(welcome->body).planes == planes);
    CHECK_FALSE(std::get<wire::Welcome>(welcome->body).keeps_near);
    CHECK(std::get<wire::Welcome>(back(wire::Welcome{.keeps_near = true})->body).keeps_near);
    CHECK(std::get<wire::Put>(back(wire::Put{.near = true})->body).near);
    CHECK_FALSE(std::get<wire::Put>(back(wire::Put{})->body).near);
    CHECK_FALSE(back(wire::Welcome{.planes = std::vector<std::string>(wire::kPlanesMax + 1, "x://y")}));
    CHECK(std::get<wire::Match>(back(wire::Match{.places = true})->body).places);
    const auto matched = back(wire::Matched{.blocks = 2, .places = places});
    REQUIRE(matched);
    const auto seen = std::get<wire::Matched>(matched->body).places;
    REQUIRE(seen.size() == 2);
    CHECK(seen[1].tag_word == 5);
    CHECK(seen[1].location_word == 6);
    CHECK(seen[1].slot == 7);
    CHECK(seen[1].length == 8);
    CHECK_FALSE(back(wire::Matched{.blocks = 3, .places = places}));  // a place would be another block's
}

TEST_CASE("what a namespace can count on, and how busy who answers is, comes back as it was sent") {
    wire::Decoder decoder;
    const auto back = [&](wire::Body body, std::uint8_t load = 0) {
        static std::optional<Aligned> buffer;
        buffer.emplace(encode({.request_id = 1, .body = std::move(body), .load = load}));
        return decoder.decode(buffer->bytes());
    };
    CHECK(back(wire::Listed{})->load == 0);
    CHECK(back(wire::Listed{}, 255)->load == 255);
    const model::Quota quota{1ULL << 40, model::kPriorityMax, model::kTtlMax};
    const auto resolved = back(wire::Resolved{.quota = quota});
    REQUIRE(resolved);
    CHECK(std::get<wire::Resolved>(resolved->body).quota == quota);
    CHECK_FALSE(back(wire::Resolved{.quota = {0, model::kPriorityMax + 1, 0}}));
    CHECK_FALSE(back(wire::Resolved{.quota = {0, 0, model::kTtlMax + 1}}));
    // What is not said stays as it is; zero is something to say.
    const auto some =
        std::get<wire::ChangeNamespace>(back(wire::ChangeNamespace{.quota = {.ttl_s = 0}})->body);
    CHECK(some.quota.ttl_s == 0);
    CHECK_FALSE(some.quota.bytes);
    CHECK_FALSE(some.quota.priority);
}

// XXH3-64 of each sample's bytes, taken once. One that changes means that peers of yesterday read
// something else than we wrote: raise kProtocolVersion, then take it again.
TEST_CASE("the bytes of every message are the ones they always were") {
    static constexpr std::uint64_t kGolden[]{
        0xfe6ad1797057b413, 0x03d9c322937b068f, 0x3ac193b83459aed6, 0x10cb214e7a9bf524, 0xdd931e794bcbb058,
        0x601a0abaa3dbd0a6, 0x615f96bc405670a4, 0x18311fd9cb7e4eb8, 0x0a3729a65a474fd2, 0xf278e0a983522c1b,
        0x7a4586e9a651e9e9, 0xca6976b769ff4147, 0xdf14cacef090bcf1, 0x4099e7b4ea107378, 0x50249963943f26bc,
        0xf410dbea1f4c4dba, 0x922be82017b6241f, 0x7ba584a387087a5f, 0xdf5fe42bb3ef6288, 0xace56162cd58d9aa,
        0x8b022ad67fefab7b, 0x8eb068a9858211fa, 0x60f14f833fa60866, 0xad3662fc3232cc61, 0xabb1373d4d7ebebc,
        0xad5610fd4f8a5c22, 0xeef6839f3081ae9d, 0xa6d8a291fd1a9304, 0x0a44573ad20201ca, 0x0449c9d9a89f455d,
        0xca94950b3b1a9f3b, 0x23c43938824b57b1, 0x47fdb02e1d7948c2};
    const SampleMessages samples;
    REQUIRE(std::size(kGolden) == samples.all().size());
    for (std::size_t kind = 0; kind < samples.all().size(); ++kind) {
        CAPTURE(wire::name_of(samples.all()[kind].body));
        CHECK(fmt::format("{:#018x}", model::checksum(encode(samples.all()[kind]))) ==
              fmt::format("{:#018x}", kGolden[kind]));
    }
    // The shortest one in full, as what a reader of a packet dump would look for.
    CHECK(to_hex(encode(samples.all()[14])) ==
          "14000000434d50310c001c000c001400070008000c0000000000000f180000000f00000000000000050000000000000004"
          "00040004000000");
}

TEST_CASE("a message cut off anywhere is refused") {
    const SampleMessages samples;
    wire::Decoder decoder;
    for (const auto& message : samples.all()) {
        CAPTURE(wire::name_of(message.body));
        const auto whole = encode(message);
        for (std::size_t length = 0; length < whole.size(); ++length) {
            CAPTURE(length);
            Aligned buffer(Bytes(whole).first(length));
            check_refused_or_read(decoder, buffer.bytes());
        }
    }
}

TEST_CASE("flipped bits never break the decoder: it refuses, or reads what is there") {
    constexpr std::uint64_t kSeed = 7;
    CAPTURE(kSeed);
    const SampleMessages samples;
    Rng rng(kSeed);
    wire::Decoder decoder;
    std::vector<std::vector<std::byte>> wholes;
    for (const auto& message : samples.all()) wholes.push_back(encode(message));
    int refused = 0;
    for (int round = 0; round < 100'000; ++round) {
        Aligned buffer(wholes[rng.below(wholes.size())]);
        auto bytes = buffer.bytes();
        for (std::uint64_t flips = 1 + rng.below(4); flips > 0; --flips) {
            bytes[rng.below(bytes.size())] ^= static_cast<std::byte>(1U << rng.below(8));
        }
        const auto decoded = decoder.decode(bytes);
        if (!decoded) ++refused;
        if (decoded) {
            wire::Encoder encoder;
            (void)encoder.encode(*decoded);
        } else if (decoded.error().code != Errc::Invalid) {
            FAIL("round ", round);
        }
    }
    CHECK(refused > 1000);
}

TEST_CASE("a buffer that begins anywhere in memory is read alike") {
    const SampleMessages samples;
    wire::Decoder decoder;
    for (const auto& message : samples.all()) {
        const auto whole = encode(message);
        for (std::size_t shift = 0; shift < 8; ++shift) {
            CAPTURE(shift);
            std::vector<std::byte> room(whole.size() + 16);
            const auto base = reinterpret_cast<std::uintptr_t>(room.data()) % 8;
            auto* begin = room.data() + (8 - base) % 8 + shift;
            std::memcpy(begin, whole.data(), whole.size());
            const auto decoded = decoder.decode(Bytes(begin, whole.size()));
            REQUIRE(decoded);
            CHECK(encode(*decoded) == whole);
        }
    }
}

TEST_CASE("lists and texts above their limits are refused, at their limits they are read") {
    wire::Decoder decoder;
    const auto decodes = [&](wire::Body body) {
        const auto bytes = encode({1, 0, std::move(body)});
        Aligned buffer(bytes);
        const auto decoded = decoder.decode(buffer.bytes());
        if (!decoded) CHECK(decoded.error().code == Errc::Invalid);
        return decoded.has_value();
    };
    const std::vector<model::Digest> digests(model::kBatchMax + 1);
    const std::vector<std::uint32_t> rooms(model::kBatchMax + 1);
    const std::vector<model::ByteRange> ranges(model::kBatchMax + 1);
    const std::vector<wire::PutItem> items(model::kBatchMax + 1);
    const std::vector<wire::ListedBlock> listed(wire::kListMax + 1);
    const std::vector<std::uint64_t> leases(model::kBatchMax + 1);
    for (const std::size_t extra : {0, 1}) {
        const bool fits = extra == 0;
        const auto keys = std::span(digests).first(model::kBatchMax + extra);
        const auto room = std::span(rooms).first(model::kBatchMax + extra);
        CHECK(decodes(wire::Match{1, keys, 1}) == fits);
        CHECK(decodes(wire::Exists{1, keys}) == fits);
        CHECK(decodes(wire::Get{1, keys, room, false, {}}) == fits);
        CHECK(decodes(wire::Get{1, keys, room, false, std::span(ranges).first(keys.size())}) == fits);
        CHECK(decodes(wire::Remove{1, keys}) == fits);
        CHECK(decodes(wire::Put{1, std::span(items).first(model::kBatchMax + extra), {}}) == fits);
        CHECK(decodes(wire::Release{std::span(leases).first(model::kBatchMax + extra)}) == fits);
        CHECK(decodes(wire::Sums{std::span(leases).first(model::kBatchMax + extra)}) == fits);
        CHECK(decodes(wire::Listed{std::span(listed).first(wire::kListMax + extra), 0}) == fits);
        CHECK(decodes(wire::Hello{.client = std::string(wire::kTextBytesMax + extra, 'a')}) == fits);
        CHECK(decodes(wire::OpenNamespace{
                  {.model = std::string(model::kNameBytesMax + extra, 'm')}, "", {}}) == fits);
        const std::vector<wire::Stat> stats(wire::kStatsMax + extra, {"name", 1});
        CHECK(decodes(wire::Stats{stats}) == fits);
        const auto adds = static_cast<wire::Adds>(static_cast<unsigned>(wire::Adds::Least) + extra);
        CHECK(decodes(wire::Stats{{{"name", 1, adds}}}) == fits);
        auto grant = SampleMessages::grant(1);
        const std::vector<wire::Grant> grants(wire::kGrantsMax + extra, grant);
        CHECK(decodes(wire::Attached{1, 1, grant, grant, grants}) == fits);
        grant.descriptor.assign(wire::kDescriptorBytesMax + extra, std::byte{1});
        CHECK(decodes(wire::Put{1, std::span(items).first(1), {grant}}) == fits);
    }
}

TEST_CASE("lists of one message that belong together have one length") {
    const SampleMessages samples;
    const std::vector<model::Digest> digests(2);
    const std::vector<std::uint32_t> rooms(3);
    const std::vector<wire::Outcome> outcomes(2);
    wire::Decoder decoder;
    CHECK_FALSE(decoder.decode(encode({1, 0, wire::Get{1, digests, rooms, false, {}}})));
    const std::vector<model::ByteRange> ranges(3, {1, 2});
    const auto two = std::span(rooms).first(2);
    CHECK(decoder.decode(encode({1, 0, wire::Get{1, digests, two, false, {}}})));
    CHECK(decoder.decode(encode({1, 0, wire::Get{1, digests, two, false, std::span(ranges).first(2)}})));
    CHECK_FALSE(decoder.decode(encode({1, 0, wire::Get{1, digests, two, false, ranges}})));
    CHECK_FALSE(decoder.decode(encode({1, 0, wire::Outcomes{outcomes, rooms, {}}})));
}

TEST_CASE("an outcome or a failure that has no name is refused") {
    const std::vector<wire::Outcome> outcomes{static_cast<wire::Outcome>(9)};
    wire::Decoder decoder;
    CHECK_FALSE(decoder.decode(encode({1, 0, wire::Outcomes{outcomes, {}, {}}})));
    CHECK_FALSE(decoder.decode(encode({1, 0, wire::Failed{static_cast<Errc>(11), "?"}})));
    CHECK_FALSE(decoder.decode(encode({1, 0, wire::Failed{static_cast<Errc>(0), "?"}})));
}

// FlatBuffers' verifier lets both of these through: a union that names its type without its table,
// which was then read through a null pointer, and a list whose 8-byte elements begin at 4 mod 8.
TEST_CASE("a body without a table and a list that lies askew are refused") {
    wire::Decoder decoder;
    // root offset, "CMP1", vtable {10 bytes, table of 8, id 0, id 1 absent, body_type at 4}, table.
    static constexpr std::uint8_t kNoBody[]{20, 0, 0, 0, 'C', 'M', 'P', '1', 10, 0, 8, 0, 0, 0,
                                            0,  0, 4, 0, 0,   0,   12,  0,   0,  0, 1, 0, 0, 0};
    Aligned no_body(std::as_bytes(std::span(kNoBody)));
    const auto refused = decoder.decode(no_body.bytes());
    REQUIRE_FALSE(refused);
    CHECK(refused.error().detail.find("without a body") != std::string::npos);

    // A Release's list of lease ids, moved by four bytes: everything behind its length shifts.
    const std::vector<std::uint64_t> lease_ids{1, 2, 3};
    const auto straight = encode({1, 0, wire::Release{lease_ids}});
    std::size_t askew_seen = 0;
    for (std::size_t at = 0; at + 4 <= straight.size(); at += 4) {
        // Whatever offset field is enlarged by 4, the buffer is refused or read, never misread.
        auto moved = straight;
        moved[at] = static_cast<std::byte>(std::to_integer<unsigned>(moved[at]) + 4);
        Aligned buffer(moved);
        const auto decoded = decoder.decode(buffer.bytes());
        if (!decoded && decoded.error().detail == "a list lies askew") ++askew_seen;
        if (decoded) touch(*decoded);
    }
    CHECK(askew_seen > 0);
}

// CMPOOL_WRITE_CORPUS=tests/fuzz/corpus/messages makes the fuzzer's first inputs anew.
// An empty namespace was listed, and the client refused the answer: the builder does not align what has
// no elements.
TEST_CASE("lists without elements are read wherever they lie") {
    for (std::size_t pad = 0; pad < 16; ++pad) {
        wire::Encoder encoder;
        wire::Decoder decoder;
        const wire::Message empty[] = {
            {.request_id = 1, .epoch = 0, .body = wire::Listed{}},
            {.request_id = pad == 0 ? 0u : 1u, .epoch = pad, .body = wire::Release{}},
            {.request_id = 0, .epoch = pad, .body = wire::Put{}},
        };
        for (const auto& message : empty) CHECK(decoder.decode(encoder.encode(message)));
    }
}

TEST_CASE("one file of each message is written where the fuzzer's corpus is wanted") {
    const char* folder = std::getenv("CMPOOL_WRITE_CORPUS");
    if (folder == nullptr) return;
    const SampleMessages samples;
    for (const auto& message : samples.all()) {
        const auto bytes = encode(message);
        std::ofstream file(std::filesystem::path(folder) / std::string(wire::name_of(message.body)),
                           std::ios::binary);
        file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        CHECK(file);
    }
}
