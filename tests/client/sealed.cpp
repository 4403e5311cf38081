// Sealed namespaces against a real cmpoold: what it holds is ciphertext, and what it hands out is what was
// put or a miss.
#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>

#include <cmpool/base/units.h>
#include <cmpool/client/context_cache.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>
#include <cmpool/testing/segments.h>

#include <unistd.h>

using namespace cmpool;
using namespace std::chrono_literals;
using client::GetItem;
using client::Outcome;
using client::PutItem;
using client::SealKey;
using testing::Daemon;
using testing::get_one;
using testing::pattern;
using testing::put_one;

namespace {

const char* const kTransports[]{"shm", "tcp"};
const std::string kPatient = "?deadline_ms=20000&transport=";
/// What a sealed block has in a pool's memory before its first byte, and how far its digest is from that.
constexpr std::size_t kHeaderBytes = 64;
/// In such chunks, each with a trailer.
constexpr std::size_t kChunkBytes = 64 * KiB;
constexpr std::size_t kTrailerBytes = 32;

SealKey key_of(std::uint8_t seed) {
    SealKey key;
    key.fill(static_cast<std::byte>(seed));
    return key;
}

std::unique_ptr<client::PoolClient> open_sealed(const std::string& uri, std::uint8_t key,
                                                const std::string& model = "sealed") {
    auto opened = client::PoolClient::open(uri, testing::plain_namespace(model), key_of(key));
    if (!opened) FAIL(opened.error().detail);
    return std::move(*opened);
}

/// A daemon's memory, as somebody sees it who has stolen the host.
class Stolen {
public:
    explicit Stolen(Daemon& daemon) : memory_(daemon.process().pid(), "-data") {}

    /// Where a block's stored bytes begin; empty where there is none.
    [[nodiscard]] MutableBytes find(const client::Digest& key) const {
        for (const auto bytes : memory_.all()) {
            const auto at = std::search(bytes.begin(), bytes.end(), key.bytes.begin(), key.bytes.end());
            if (at == bytes.end()) continue;
            // A header is on a boundary of 64 bytes, its digest within it.
            const auto header = static_cast<std::size_t>(at - bytes.begin()) / kHeaderBytes * kHeaderBytes;
            return bytes.subspan(header + kHeaderBytes);
        }
        return {};
    }
    [[nodiscard]] bool shows(Bytes text) const {
        return std::ranges::any_of(memory_.all(), [&](const MutableBytes bytes) {
            return std::search(bytes.begin(), bytes.end(), text.begin(), text.end()) != bytes.end();
        });
    }

private:
    testing::SegmentsOf memory_;
};

client::Digest own_key(const client::PoolClient& pool, std::string_view name) {
    return pool.key(as_bytes(name)).value();
}

}  // namespace

TEST_CASE("sealed blocks come back as they were put, of any size, whole and in ranges") {
    Daemon daemon({"--capacity", "512M", "--segment", "128M", "--no-prefault"});
    for (const char* transport : kTransports) {
        CAPTURE(transport);
        const auto pool = open_sealed(daemon.uri(kPatient + transport), 1, transport);
        CHECK(pool->spec().sealed);
        CHECK(pool->status().transport == transport);
        constexpr std::size_t kMost = 64 * MiB - 32'768;  // what README and error messages say
        std::uint64_t seed = 1;
        for (const std::size_t bytes : {std::size_t{1}, std::size_t{4097}, std::size_t{kChunkBytes},
                                        std::size_t{256 * KiB + 1}, std::size_t{8 * MiB + 13}, kMost}) {
            CAPTURE(bytes);
            const auto key = testing::chain_of(*pool, 1, static_cast<std::uint32_t>(seed)).front();
            const auto block = pattern(bytes, seed++);
            const Bytes whole(block);
            const std::array<Bytes, 3> from{whole.first(bytes / 3), Bytes{}, whole.subspan(bytes / 3)};
            const PutItem item{.key = key, .from = from};
            const auto put = pool->put({&item, 1});
            REQUIRE(put.blocks.front().outcome == Outcome::Stored);
            CHECK(put.blocks.front().bytes == bytes);
            CHECK(put_one(*pool, key, block) == Outcome::Present);

            std::vector<std::byte> room(bytes + 5, std::byte{0xee});
            const std::array<MutableBytes, 2> into{MutableBytes(room).first(bytes / 2),
                                                   MutableBytes(room).subspan(bytes / 2)};
            const GetItem wanted{key, into};
            const auto got = pool->get({&wanted, 1}, {.verify = true});
            REQUIRE(got.blocks.front().outcome == Outcome::Hit);
            CHECK(got.blocks.front().bytes == bytes);
            CHECK(std::equal(block.begin(), block.end(), room.begin()));
            CHECK(room.back() == std::byte{0xee});

            Rng rng(seed);
            for (int round = 0; round < (bytes > 1 * MiB ? 4 : 20); ++round) {
                const auto offset = static_cast<std::uint32_t>(rng.below(bytes));
                const auto length =
                    static_cast<std::uint32_t>(round == 0 ? bytes - offset : 1 + rng.below(bytes - offset));
                std::vector<std::byte> part(length);
                const MutableBytes part_into(part);
                const GetItem some{key, {&part_into, 1}, 0, {offset, length}};
                CHECK(pool->get({&some, 1}).blocks.front().outcome == Outcome::Hit);
                CHECK(std::equal(part.begin(), part.end(), block.begin() + offset));
            }
            // What does not fit, or is not there, is told in plain sizes.
            std::vector<std::byte> small(bytes - 1);
            const auto too_small = get_one(*pool, key, small);
            CHECK(too_small.outcome == Outcome::TooSmall);
            CHECK(too_small.bytes == bytes);
            const MutableBytes small_into(room);
            const GetItem beyond{key, {&small_into, 1}, 0, {static_cast<std::uint32_t>(bytes - 1), 2}};
            const auto outside = pool->get({&beyond, 1}).blocks.front();
            CHECK(outside.outcome == Outcome::Outside);
            CHECK(outside.bytes == bytes);
        }
        const auto listing = pool->list(0, 100);
        REQUIRE(listing);
        CHECK(std::ranges::any_of(listing->blocks,
                                  [](const auto& each) { return each.bytes == 8 * MiB + 13; }));
        // One byte more than fits.
        const std::vector<std::byte> large(kMost + 1);
        const Bytes view(large);
        const PutItem item{.key = own_key(*pool, "large"), .from = {&view, 1}};
        const auto report = pool->put({&item, 1});
        CHECK(report.blocks.front().outcome == Outcome::Dropped);
        REQUIRE(report.trouble);
        CHECK(report.trouble->detail.find("sealed") != std::string::npos);
        CHECK(pool->status().broken_seals == 0);
    }
    CHECK(daemon.stop());
}

TEST_CASE("whoever changes a sealed block in the pool's memory makes it a miss, and that is counted") {
    // The scrubber would find them first, now and then.
    Daemon daemon({"--capacity", "64M", "--segment", "16M", "--shards", "1", "--scrub-rate", "0"});
    std::uint64_t expected = 0;
    for (const char* transport : kTransports) {
        CAPTURE(transport);
        const auto pool = open_sealed(daemon.uri(kPatient + transport), 1, transport);
        const std::string secret = fmt::format("nobody but us reads this, by {}", transport);
        std::vector<std::byte> block = pattern(100 * KiB, 3);
        std::ranges::copy(as_bytes(secret), block.begin());
        const auto key = own_key(*pool, "one");
        const auto other = own_key(*pool, "two");
        REQUIRE(put_one(*pool, key, block) == Outcome::Stored);
        REQUIRE(put_one(*pool, other, pattern(100 * KiB, 4)) == Outcome::Stored);

        const Stolen stolen(daemon);
        CHECK_FALSE(stolen.shows(as_bytes(secret)));
        const auto stored = stolen.find(key);
        REQUIRE_FALSE(stored.empty());
        std::vector<std::byte> room(100 * KiB);
        REQUIRE(get_one(*pool, key, room).outcome == Outcome::Hit);
        for (const std::size_t at :
             {std::size_t{0}, std::size_t{kChunkBytes}, std::size_t{100 * KiB + 2 * kTrailerBytes - 1}}) {
            stored[at] ^= std::byte{4};
            CHECK(get_one(*pool, key, room).outcome == Outcome::Miss);
            stored[at] ^= std::byte{4};
            CHECK(pool->status().broken_seals == ++expected - (transport == kTransports[1] ? 4 : 0));
        }
        // What is not touched still comes alone.
        stored[80 * KiB] ^= std::byte{1};
        const MutableBytes into(room.data(), 1000);
        const GetItem first{key, {&into, 1}, 0, {0, 1000}};
        CHECK(pool->get({&first, 1}).blocks.front().outcome == Outcome::Hit);
        stored[80 * KiB] ^= std::byte{1};
        // Another block's bytes in its place.
        const std::vector<std::byte> kept(stored.begin(), stored.begin() + 100 * KiB + 2 * kTrailerBytes);
        std::ranges::copy(stolen.find(other).first(kept.size()), stored.begin());
        CHECK(get_one(*pool, key, room).outcome == Outcome::Miss);
        ++expected;
        std::ranges::copy(kept, stored.begin());
        CHECK(get_one(*pool, key, room).outcome == Outcome::Hit);
        CHECK(room == block);
        CHECK(testing::comes_true([&] { return testing::statistic(*pool, "broken_seals") == expected; }));
    }
    CHECK(daemon.stop());
}

TEST_CASE("another seal key finds nothing, and opens nothing that it is led to") {
    Daemon daemon;
    for (const char* transport : kTransports) {
        CAPTURE(transport);
        const auto uri = daemon.uri(kPatient + transport);
        const auto ours = open_sealed(uri, 1);
        const auto theirs = open_sealed(uri, 2);
        const auto key = own_key(*ours, transport);
        const auto block = pattern(50'000, 5);
        REQUIRE(put_one(*ours, key, block) == Outcome::Stored);
        CHECK(own_key(*theirs, transport) != key);
        CHECK(testing::chain_of(*theirs, 2) != testing::chain_of(*ours, 2));
        std::vector<std::byte> room(block.size());
        CHECK(get_one(*theirs, own_key(*theirs, transport), room).outcome == Outcome::Miss);
        CHECK(theirs->status().broken_seals == 0);
        CHECK(get_one(*theirs, key, room).outcome == Outcome::Miss);
        CHECK(theirs->status().broken_seals == 1);
        CHECK(get_one(*ours, key, room).outcome == Outcome::Hit);
        CHECK(room == block);
        CHECK(get_one(*open_sealed(uri, 1), key, room).outcome == Outcome::Hit);
    }
}

TEST_CASE("plain and sealed clients are refused where the other kind came first") {
    Daemon daemon;
    const auto uri = daemon.uri(kPatient + "tcp");
    const auto sealed = open_sealed(uri, 1, "ours");
    const auto refused = client::PoolClient::open(uri, testing::plain_namespace("ours"));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::Mismatch);
    CHECK(refused.error().detail.find("sealed") != std::string::npos);

    const auto plain = testing::open_pool(uri, testing::plain_namespace("theirs"));
    const auto other = client::PoolClient::open(uri, testing::plain_namespace("theirs"), key_of(1));
    REQUIRE_FALSE(other);
    CHECK(other.error().code == Errc::Mismatch);

    auto spec = testing::plain_namespace("keyless");
    spec.sealed = true;
    const auto keyless = client::PoolClient::open(uri, spec);
    REQUIRE_FALSE(keyless);
    CHECK(keyless.error().code == Errc::Invalid);
    CHECK(keyless.error().detail.find("seal_key_file") != std::string::npos);
    // It is known as that after a restart too.
    CHECK(daemon.stop());
    daemon.start();
    CHECK(client::PoolClient::open(uri, testing::plain_namespace("ours")).error().code == Errc::Mismatch);
    CHECK(open_sealed(uri, 1, "ours")->status().ready);
}

TEST_CASE("a match of sealed blocks lends no view, which would be ciphertext") {
    Daemon daemon;
    const auto pool = open_sealed(daemon.uri(kPatient + "shm"), 1);
    const auto chain = testing::chain_of(*pool, 1);
    REQUIRE(put_one(*pool, chain[0], pattern(1000, 1)) == Outcome::Stored);
    const auto match = pool->match(chain);
    REQUIRE(match.blocks() == 1);
    CHECK(match.leased());
    const auto view = match.view(0);
    REQUIRE_FALSE(view);
    CHECK(view.error().code == Errc::Unsupported);
    CHECK(view.error().detail.find("sealed") != std::string::npos);
}

// An engine names the key in the pool's address, and knows nothing more of it.
TEST_CASE("a prefix cache seals with the key that its URI names") {
    const testing::TempFolder folder;
    const std::string path = folder / "seal";
    std::ofstream(path) << to_hex(key_of(7)) << "\n";
    std::filesystem::permissions(path, std::filesystem::perms{0600});
    for (const char* transport : kTransports) {
        CAPTURE(transport);
        Daemon daemon;
        const auto uri = daemon.uri(kPatient + transport + "&seal_key_file=" + path);
        client::KvPages kv{
            .layers = 3, .parts = 2, .heads = 2, .head_size = 64, .elem_bytes = 4, .block_tokens = 4};
        std::vector<std::byte> memory = pattern(10 * kv.page_bytes(), 6);
        const auto before = memory;
        kv.memory = memory;
        const auto cache =
            client::open_context_cache(uri, testing::plain_namespace("context"), kv, {.patient = true});
        REQUIRE(cache);
        (*cache)->computed(1000, 10s);
        std::vector<std::uint32_t> tokens(40);
        for (std::size_t at = 0; at < tokens.size(); ++at) tokens[at] = static_cast<std::uint32_t>(at);
        const std::vector<std::uint32_t> pages{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
        REQUIRE(testing::comes_true([&] {
            auto stored = (*cache)->store(tokens, 0, pages);
            return testing::comes_true([&] { return stored.done(); }) && (*cache)->match(tokens).blocks == 10;
        }));
        std::ranges::fill(memory, std::byte{0});
        auto load = (*cache)->load((*cache)->match(tokens), pages, 0);
        CHECK(testing::comes_true([&] {
            if (const auto advice = load->advise(); advice.compute_blocks > 0)
                (void)load->claim(advice.compute_blocks);
            return load->met();
        }));
        CHECK(load->loaded_blocks() == 10);
        CHECK(memory == before);
    }
    // One that others may read is no secret.
    std::filesystem::permissions(path, std::filesystem::perms{0644});
    const auto open =
        client::PoolClient::open("cmpool://127.0.0.1:1?seal_key_file=" + path, testing::plain_namespace());
    REQUIRE_FALSE(open);
    CHECK(open.error().code == Errc::Denied);
}
