// A border that is older or newer than its caller, and callers that ask for nonsense.
#include "pool.h"

#include <cstddef>
#include <cstring>

#include <cmpool/testing/daemon.h>

using cmpool::testing::Daemon;

namespace {

// What programs were compiled against: a field may be added at an end, none may move.
static_assert(sizeof(cmpool_error) == 1024 && offsetof(cmpool_error, text) == 12);
static_assert(sizeof(cmpool_namespace) == 80 && offsetof(cmpool_namespace, block_tokens) == 64);
static_assert(sizeof(cmpool_options) == 32 && offsetof(cmpool_options, no_lease) == 28);
static_assert(sizeof(cmpool_get_item) == 72 && offsetof(cmpool_get_item, group) == 56);
static_assert(sizeof(cmpool_put_item) == 104 && offsetof(cmpool_put_item, group) == 88);
static_assert(sizeof(cmpool_result) == 24 && offsetof(cmpool_result, copies) == 16);
static_assert(sizeof(cmpool_status) == 240 && offsetof(cmpool_status, node) == 104);
static_assert(sizeof(cmpool_stat) == 24 && sizeof(cmpool_span) == 16 && sizeof(cmpool_view) == 16);
static_assert(sizeof(cmpool_digest) == 32 && alignof(cmpool_digest) == 1);

/// A structure as a later version may have it.
template <class T>
struct Later {
    T known{};
    std::uint64_t added = 0;
    Later() { known.size = sizeof *this; }
};

struct Fixture {
    Daemon daemon;
    abi::Pool pool = abi::open(daemon.uri("?deadline_ms=20000&transport=shm"));
    std::vector<cmpool_digest> keys = abi::chain(pool.get(), 2);
    abi::Blocks blocks{pool.get(), keys, 100};
    cmpool_error error = abi::no_error();
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "C: a newer caller is served as long as it asks for nothing new") {
    Later<cmpool_put_item> puts[2];
    Later<cmpool_result> results[2];
    for (std::size_t at = 0; at < 2; ++at) {
        puts[at].known = blocks.puts[at];
        puts[at].known.size = sizeof puts[at];
        results[at].added = 99;
    }
    results[1].known.size = 0;  // of an array only the first one's counts
    CHECK(cmpool_put(pool.get(), &puts[0].known, 2, nullptr, &results[0].known, &error) == CMPOOL_OK);
    CHECK(results[0].known.outcome == CMPOOL_STORED);
    CHECK(results[1].known.outcome == CMPOOL_STORED);
    CHECK(results[0].added == 0);
    CHECK(results[1].added == 0);
    CHECK(results[1].known.size == sizeof results[1]);

    puts[1].added = 1;
    CHECK(cmpool_put(pool.get(), &puts[0].known, 2, nullptr, &results[0].known, &error) ==
          CMPOOL_UNSUPPORTED);
    CHECK(std::string(error.text).find("cmpool_put_item") != std::string::npos);
    CHECK(results[0].known.outcome == CMPOOL_DROPPED);

    Later<cmpool_options> options;
    CHECK(cmpool_exists(pool.get(), keys.data(), 2, &options.known, &results[0].known, &error) == CMPOOL_OK);
    options.added = 1;
    CHECK(cmpool_exists(pool.get(), keys.data(), 2, &options.known, &results[0].known, &error) ==
          CMPOOL_UNSUPPORTED);
    CHECK(results[0].known.outcome == CMPOOL_MISS);
}

TEST_CASE_FIXTURE(Fixture, "C: a size that was not set is refused, with what was expected") {
    auto get = blocks.gets[0];
    get.size = 0;
    auto* results = blocks.results.data();
    CHECK(cmpool_get(pool.get(), &get, 1, nullptr, results, &error) == CMPOOL_INVALID);
    CHECK(std::string(error.text).find("sizeof(cmpool_get_item)") != std::string::npos);
    get.size = sizeof get + 4;
    CHECK(cmpool_get(pool.get(), &get, 1, nullptr, results, &error) == CMPOOL_INVALID);
    get.size = 1 << 20;
    CHECK(cmpool_get(pool.get(), &get, 1, nullptr, results, &error) == CMPOOL_INVALID);
    cmpool_get_item two[]{blocks.gets[0], blocks.gets[1]};
    two[1].size = 0;
    CHECK(cmpool_get(pool.get(), two, 2, nullptr, results, &error) == CMPOOL_INVALID);
    cmpool_options options{};
    CHECK(cmpool_exists(pool.get(), keys.data(), 1, &options, results, &error) == CMPOOL_INVALID);
    cmpool_result unset{};
    CHECK(cmpool_exists(pool.get(), keys.data(), 1, nullptr, &unset, &error) == CMPOOL_INVALID);
    cmpool_status status{};
    CHECK(cmpool_read_status(pool.get(), &status, &error) == CMPOOL_INVALID);
    cmpool_namespace space{};
    cmpool_pool* other = pool.get();
    CHECK(cmpool_open("cmpool://127.0.0.1:1", &space, &other, &error) == CMPOOL_INVALID);
    CHECK(other == nullptr);
    // An error whose own size is unset is not written to.
    cmpool_error strange{};
    strange.text[0] = 'x';
    CHECK(cmpool_exists(pool.get(), keys.data(), 1, nullptr, nullptr, &strange) == CMPOOL_INVALID);
    CHECK(strange.text[0] == 'x');
}

TEST_CASE_FIXTURE(Fixture, "C: what is NULL and must not be is refused by its name") {
    auto* results = blocks.results.data();
    CHECK(cmpool_get(nullptr, blocks.gets.data(), 1, nullptr, results, &error) == CMPOOL_INVALID);
    CHECK(std::string(error.text) == "expected `pool`, saw NULL");
    CHECK(cmpool_get(pool.get(), nullptr, 1, nullptr, results, &error) == CMPOOL_INVALID);
    CHECK(cmpool_get(pool.get(), blocks.gets.data(), 1, nullptr, nullptr, &error) == CMPOOL_INVALID);
    CHECK(std::string(error.text) == "expected `results`, saw NULL");
    CHECK(cmpool_exists(pool.get(), nullptr, 1, nullptr, results, &error) == CMPOOL_INVALID);
    auto get = blocks.gets[0];
    get.into = nullptr;
    CHECK(cmpool_get(pool.get(), &get, 1, nullptr, results, &error) == CMPOOL_INVALID);
    const cmpool_span hole{nullptr, 100};
    get.into = &hole;
    CHECK(cmpool_get(pool.get(), &get, 1, nullptr, results, &error) == CMPOOL_INVALID);
    CHECK(std::string(error.text) == "expected 100 bytes at piece 0 of item 0, saw NULL");
    std::size_t count = 0;
    CHECK(cmpool_chain(pool.get(), nullptr, 4, nullptr, 0, &count, &error) == CMPOOL_INVALID);
    CHECK(cmpool_key(pool.get(), nullptr, 4, keys.data(), &error) == CMPOOL_INVALID);
    CHECK(cmpool_open(nullptr, nullptr, nullptr, &error) == CMPOOL_INVALID);
    CHECK(cmpool_lease_view(nullptr, 0, 0, nullptr, &error) == CMPOOL_INVALID);
    CHECK(cmpool_lease_blocks(nullptr) == 0);
    CHECK(cmpool_group(nullptr, keys.data(), 0) == 0);
    CHECK(cmpool_call_done(nullptr) == 0);
    CHECK(cmpool_finish(nullptr, nullptr, 0, &error) == CMPOOL_INVALID);
    CHECK(cmpool_wait(nullptr, &error) == CMPOOL_INVALID);
    CHECK(cmpool_progress(nullptr, &error) == CMPOOL_INVALID);
    CHECK(cmpool_register(pool.get(), nullptr, 1, nullptr, &error) == CMPOOL_INVALID);
    cmpool_close(nullptr);
    cmpool_release(nullptr);
    cmpool_drop(nullptr);
    cmpool_unregister(nullptr);
    cmpool_stats_free(nullptr);
    CHECK(cmpool_stats_count(nullptr) == 0);
}

TEST_CASE_FIXTURE(Fixture, "C: numbers beyond their limits are refused") {
    std::vector<cmpool_result> many(CMPOOL_BATCH_MAX + 1);
    many[0].size = sizeof many[0];
    const std::vector<cmpool_digest> keys_of_many(CMPOOL_BATCH_MAX + 1);
    CHECK(cmpool_exists(pool.get(), keys_of_many.data(), many.size(), nullptr, many.data(), &error) ==
          CMPOOL_INVALID);
    CHECK(std::string(error.text) == "expected a batch of at most 4096 blocks, saw 4097");
    CHECK(cmpool_exists(pool.get(), keys_of_many.data(), 0, nullptr, nullptr, &error) == CMPOOL_OK);
    for (const std::int64_t deadline_ns : {std::int64_t{-1}, CMPOOL_DEADLINE_NS_MAX + 1, INT64_MAX}) {
        const cmpool_options options{.size = sizeof options, .deadline_ns = deadline_ns};
        CHECK(cmpool_exists(pool.get(), keys.data(), 1, &options, many.data(), &error) == CMPOOL_INVALID);
    }
    auto get = blocks.gets[0];
    get.into_count = SIZE_MAX;
    CHECK(cmpool_get(pool.get(), &get, 1, nullptr, many.data(), &error) == CMPOOL_INVALID);
    std::size_t count = 7;
    const std::uint32_t tokens[8]{};
    CHECK(cmpool_chain(pool.get(), tokens, 8, blocks.puts.empty() ? nullptr : keys.data(), 1, &count,
                       &error) == CMPOOL_INVALID);
    CHECK(std::string(error.text) == "expected room for 2 keys, saw room for 1");
    CHECK(count == 0);
    cmpool_digest part{};
    CHECK(cmpool_part_key(keys.data(), 2, 2, &part) == CMPOOL_INVALID);
    CHECK(cmpool_part_key(keys.data(), 1, 2, &part) == CMPOOL_OK);
    CHECK(std::memcmp(&part, keys.data(), sizeof part) != 0);
    CHECK(std::string(cmpool_code_name(CMPOOL_LEASE_LOST)) == "lease lost");
    CHECK(std::string(cmpool_code_name(-5)) == "unknown");
}

TEST_CASE("C: a URI or namespace that is wrong, and a pool that refuses, are errors of open") {
    Daemon daemon;
    const cmpool_namespace space{.size = sizeof space, .model = "test", .dtype = "u8"};
    cmpool_pool* pool = nullptr;
    auto error = abi::no_error();
    CHECK(cmpool_open("http://x", &space, &pool, &error) == CMPOOL_INVALID);
    CHECK(std::strlen(error.text) > 0);
    auto nameless = space;
    nameless.model = nullptr;
    CHECK(cmpool_open(daemon.uri().c_str(), &nameless, &pool, &error) == CMPOOL_INVALID);
    REQUIRE(cmpool_open(daemon.uri("?tenant=ours&key=secret&transport=tcp").c_str(), &space, &pool, &error) ==
            CMPOOL_OK);
    cmpool_close(pool);
    CHECK(cmpool_open(daemon.uri("?tenant=ours&key=other&transport=tcp").c_str(), &space, &pool, &error) ==
          CMPOOL_DENIED);
    CHECK(pool == nullptr);
    CHECK(daemon.stop());
}
