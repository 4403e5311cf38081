// Sealing by itself: what was sealed opens, whole and in parts, and nothing else does.
#include "seal.h"

#include <array>
#include <fstream>

#include <cmpool/testing/pool.h>
#include <cmpool/testing/temp_folder.h>

#include <sys/stat.h>

using namespace cmpool;
using namespace cmpool::client;
using testing::pattern;

namespace {

SealKey key_of(std::uint8_t seed) {
    SealKey key;
    for (std::size_t at = 0; at < key.size(); ++at) key[at] = static_cast<std::byte>(seed + at);
    return key;
}

Digest digest_of(std::uint8_t seed) {
    Digest digest;
    digest.bytes.fill(static_cast<std::byte>(seed));
    return digest;
}

NamespaceSpec sealed_spec(std::string model = "test") {
    auto spec = testing::plain_namespace(std::move(model));
    spec.sealed = true;
    return spec;
}

struct Fixture {
    SeededEntropy entropy{7};
    Sealer sealer{key_of(1), sealed_spec(), entropy};
    Digest digest = digest_of(9);

    std::vector<std::byte> seal(Bytes plain, const Digest& as) {
        std::vector<std::byte> sealed(sealed_bytes(plain.size()));
        const auto sum = sealer.seal(as, {&plain, 1}, sealed);
        CHECK(sum == model::checksum(sealed));
        return sealed;
    }
    /// As it comes from mapped memory; nothing where it does not open.
    static std::optional<std::vector<std::byte>> open(Sealer& with, Bytes stored, const Digest& as,
                                                      const SealedCut& cut) {
        std::vector<std::byte> out(cut.length);
        const MutableBytes into(out);
        if (!with.open_from(stored, as, cut, {&into, 1})) return std::nullopt;
        return out;
    }
    std::optional<std::vector<std::byte>> open(Bytes stored, const SealedCut& cut) {
        return open(sealer, stored, digest, cut);
    }
    /// As it comes over a network: where it landed.
    std::optional<std::vector<std::byte>> open_landed(Bytes stored, const SealedCut& cut, std::size_t split) {
        std::vector<std::byte> out(cut.length);
        const std::array<MutableBytes, 3> into{MutableBytes(out).first(split), MutableBytes{},
                                               MutableBytes(out).subspan(split)};
        std::vector<std::byte> aside(cut.aside_bytes());
        std::vector<MutableBytes> places;
        Sealer::land(cut, into, aside, places);
        for (const MutableBytes place : places) {
            REQUIRE(place.size() <= stored.size());
            std::copy_n(stored.begin(), place.size(), place.begin());
            stored = stored.subspan(place.size());
        }
        REQUIRE(stored.empty());
        if (!sealer.open(digest, cut, into, aside)) return std::nullopt;
        return out;
    }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "what was sealed opens, in whatever sizes and pieces") {
    for (const std::size_t bytes : {1U, 15U, 16U, 4097U, kSealChunkBytes - 1, kSealChunkBytes,
                                    kSealChunkBytes + 1, 5 * kSealChunkBytes, 5 * kSealChunkBytes + 77}) {
        CAPTURE(bytes);
        const auto plain = pattern(bytes, bytes);
        const Bytes all(plain);
        const std::array<Bytes, 3> pieces{all.first(bytes / 3), Bytes{}, all.subspan(bytes / 3)};
        std::vector<std::byte> sealed(sealed_bytes(bytes));
        const auto sum = sealer.seal(digest, pieces, sealed);
        CHECK(sum == model::checksum(sealed));
        CHECK(plain_bytes(sealed.size()) == bytes);
        const auto cut = SealedCut::all(static_cast<std::uint32_t>(bytes));
        CHECK(open(sealed, cut) == plain);
        CHECK(open_landed(sealed, cut, bytes / 2) == plain);
        // Nothing of the plain text shows, and the same block looks otherwise each time.
        if (bytes >= 16)
            CHECK(std::search(sealed.begin(), sealed.end(), plain.begin(), plain.begin() + 16) ==
                  sealed.end());
        CHECK(seal(plain, digest) != sealed);
    }
}

// Loads layer by layer ask for a range, over messages without knowing how long the block is.
TEST_CASE_FIXTURE(Fixture, "any range of a block opens by itself, with the bytes that stand there") {
    constexpr std::uint32_t kBytes = 3 * kSealChunkBytes + 1000;
    const auto plain = pattern(kBytes, 1);
    const auto sealed = seal(plain, digest);
    Rng rng(11);
    for (int round = 0; round < 300; ++round) {
        const auto offset = static_cast<std::uint32_t>(rng.below(kBytes));
        const auto length = 1 + static_cast<std::uint32_t>(rng.below(kBytes - offset));
        CAPTURE(offset);
        CAPTURE(length);
        const bool known = rng.chance(0.5) || offset + length > 3 * kSealChunkBytes;
        const auto cut = SealedCut::of({offset, length}, known ? std::optional(kBytes) : std::nullopt);
        const auto stored = Bytes(sealed).subspan(cut.stored().offset, cut.stored().length);
        const std::vector<std::byte> wanted(plain.begin() + offset, plain.begin() + offset + length);
        CHECK(open(stored, cut) == wanted);
        CHECK(open_landed(stored, cut, rng.below(length + 1)) == wanted);
    }
}

TEST_CASE_FIXTURE(Fixture, "no byte can be changed, wherever it stands") {
    const auto plain = pattern(2 * kSealChunkBytes + 40, 2);
    auto sealed = seal(plain, digest);
    const auto cut = SealedCut::all(static_cast<std::uint32_t>(plain.size()));
    Rng rng(3);
    std::vector<std::size_t> places{0, sealed.size() - 1};
    for (std::uint32_t at = 0; at < kSealTrailerBytes; ++at) {  // every byte of every trailer
        places.push_back(kSealChunkBytes + at);
        places.push_back(2 * kSealChunkBytes + kSealTrailerBytes + at);
        places.push_back(sealed.size() - 1 - at);
    }
    for (int more = 0; more < 100; ++more) places.push_back(rng.below(sealed.size()));
    for (const std::size_t at : places) {
        CAPTURE(at);
        const auto bit = static_cast<std::byte>(1U << rng.below(8));
        sealed[at] ^= bit;
        CHECK_FALSE(open(sealed, cut));
        CHECK_FALSE(open_landed(sealed, cut, 5));
        sealed[at] ^= bit;
    }
    CHECK(open(sealed, cut) == plain);
}

TEST_CASE_FIXTURE(Fixture, "chunks keep their place, their block, their put and their namespace") {
    constexpr std::uint32_t kBytes = 4 * kSealChunkBytes;
    const auto plain = pattern(kBytes, 4);
    const auto sealed = seal(plain, digest);
    const auto cut = SealedCut::all(kBytes);
    REQUIRE(open(sealed, cut));
    const auto chunk = [](std::vector<std::byte>& of, std::size_t at) {
        return of.begin() + static_cast<std::ptrdiff_t>(at * kSealStrideBytes);
    };

    auto swapped = sealed;
    std::swap_ranges(chunk(swapped, 1), chunk(swapped, 2), chunk(swapped, 2));
    CHECK_FALSE(open(swapped, cut));
    // Two chunks in the place of one range.
    const auto middle = SealedCut::of({kSealChunkBytes, kSealChunkBytes}, std::nullopt);
    CHECK(open(Bytes(sealed).subspan(kSealStrideBytes, kSealStrideBytes), middle));
    CHECK_FALSE(open(Bytes(sealed).first(kSealStrideBytes), middle));

    // The same block, put twice with other bytes: each opens, no mixture of the two does.
    const auto again = seal(pattern(kBytes, 5), digest);
    CHECK(open(again, cut) == pattern(kBytes, 5));
    auto mixed = sealed;
    std::copy_n(again.begin() + kSealStrideBytes, kSealStrideBytes, chunk(mixed, 1));
    CHECK_FALSE(open(mixed, cut));
    std::copy_n(again.begin(), kSealStrideBytes, chunk(mixed, 0));
    CHECK_FALSE(open(mixed, cut));

    // Cut short, or longer, at a chunk's end.
    CHECK_FALSE(open(Bytes(sealed).first(3 * kSealStrideBytes), SealedCut::all(3 * kSealChunkBytes)));
    auto longer = sealed;
    longer.insert(longer.end(), sealed.begin(), sealed.begin() + kSealStrideBytes);
    CHECK_FALSE(open(longer, SealedCut::all(5 * kSealChunkBytes)));
    CHECK_FALSE(open(Bytes(sealed).subspan(3 * kSealStrideBytes),
                     SealedCut::of({3 * kSealChunkBytes, 100}, 3 * kSealChunkBytes + 100)));

    CHECK_FALSE(open(sealer, sealed, digest_of(8), cut));
    Sealer other_key(key_of(2), sealed_spec(), entropy);
    CHECK_FALSE(open(other_key, sealed, digest, cut));
    Sealer other_namespace(key_of(1), sealed_spec("other"), entropy);
    CHECK_FALSE(open(other_namespace, sealed, digest, cut));
    auto tenant = sealed_spec();
    tenant.tenant = "other";
    Sealer other_tenant(key_of(1), tenant, entropy);
    CHECK_FALSE(open(other_tenant, sealed, digest, cut));
    Sealer same(key_of(1), sealed_spec(), entropy);
    CHECK(open(same, sealed, digest, cut) == plain);
}

TEST_CASE_FIXTURE(Fixture, "scratch is used again, but what is seldom needed is given back") {
    auto one = sealer.borrow(1 * MiB);
    const auto* const where = one.memory.get();
    sealer.give_back(std::move(one));
    CHECK(sealer.borrow(1000).memory.get() == where);
    auto large = sealer.borrow(64 * MiB);
    const auto* const far = large.memory.get();
    sealer.give_back(std::move(large));
    CHECK(sealer.borrow(16).memory.get() != far);
}

// The key is worth as much as everything sealed with it.
TEST_CASE("a key file is read if it holds a key that nobody else may read") {
    const testing::TempFolder folder;
    const auto write = [&](const std::string& text, mode_t mode) {
        std::string path = folder / "key";
        std::ofstream(path, std::ios::trunc | std::ios::binary) << text;
        REQUIRE(::chmod(path.c_str(), mode) == 0);
        return path;
    };
    const SealKey key = key_of('A');
    const std::string raw(as_text(key));
    CHECK(read_seal_key(write(raw, 0600)) == key);
    CHECK(read_seal_key(write(to_hex(key), 0400)) == key);
    CHECK(read_seal_key(write(to_hex(key) + "\n", 0600)) == key);
    CHECK(read_seal_key(write(raw, 0640)).error().code == Errc::Denied);
    CHECK(read_seal_key(write(raw, 0602)).error().detail.find("602") != std::string::npos);
    for (const auto& wrong :
         {std::string(), raw + "x", raw.substr(1), to_hex(key) + "00", to_hex(key) + "\n\n\n"}) {
        const auto read = read_seal_key(write(wrong, 0600));
        REQUIRE_FALSE(read);
        CHECK(read.error().code == Errc::Invalid);
        CHECK(read.error().detail.find("64 hexadecimal") != std::string::npos);
    }
    CHECK(read_seal_key(folder / "absent").error().code == Errc::Invalid);
    CHECK(read_seal_key(folder.path()).error().detail.find("no plain file") != std::string::npos);
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    CHECK(read_seal_key(folder / "pipe").error().code == Errc::Invalid);
}
