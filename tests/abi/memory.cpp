// Memory that runs out inside of the library is a code, not an exception that a C program would die of.
#include "pool.h"

#include <cstdlib>
#include <new>

#include <cmpool/testing/daemon.h>

using cmpool::testing::Daemon;

namespace {

thread_local bool none_left = false;

/// While it lives nothing can be allocated in this thread.
struct NoMemory {
    NoMemory() { none_left = true; }
    ~NoMemory() { none_left = false; }
};

}  // namespace

// Kept whole: pieces of them would look as if they did not belong together.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
    void* memory = none_left ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

TEST_CASE("C: no exception crosses the border when memory runs out, and the pool works afterwards") {
    Daemon daemon;
    const auto uri = daemon.uri("?deadline_ms=20000&transport=shm");
    const auto pool = abi::open(uri);
    const auto keys = abi::chain(pool.get(), 2);
    abi::Blocks blocks(pool.get(), keys, 100);
    auto error = abi::no_error();
    const cmpool_namespace space{.size = sizeof space, .model = "test", .dtype = "u8"};
    const std::vector<std::uint32_t> tokens(8);
    cmpool_pool* other = nullptr;
    cmpool_lease* lease = nullptr;
    cmpool_call* call = nullptr;
    cmpool_stats* stats = nullptr;
    cmpool_memory* memory = nullptr;
    cmpool_digest made[2];
    std::size_t count = 0;
    cmpool_code codes[9]{};
    {
        const NoMemory gone;
        codes[0] = cmpool_open(uri.c_str(), &space, &other, &error);
        codes[1] = cmpool_chain(pool.get(), tokens.data(), 8, made, 2, &count, nullptr);
        codes[2] = cmpool_match(pool.get(), keys.data(), 2, nullptr, &lease, nullptr, nullptr);
        codes[3] = cmpool_get(pool.get(), blocks.gets.data(), 2, nullptr, blocks.results.data(), nullptr);
        codes[4] = cmpool_put(pool.get(), blocks.puts.data(), 2, nullptr, nullptr, nullptr);
        codes[5] = cmpool_exists(pool.get(), keys.data(), 2, nullptr, blocks.results.data(), nullptr);
        codes[6] = cmpool_start_get(pool.get(), blocks.gets.data(), 2, nullptr, &call, nullptr);
        codes[7] = cmpool_read_stats(pool.get(), nullptr, &stats, nullptr);
        codes[8] = cmpool_register(pool.get(), blocks.memory[0].data(), 100, &memory, nullptr);
    }
    for (const auto code : codes) CHECK(code == CMPOOL_FAULT);
    CHECK(std::string(error.text) == "out of memory");
    CHECK(blocks.count(CMPOOL_MISS) == 2);
    CHECK((other == nullptr && lease == nullptr && call == nullptr && stats == nullptr && memory == nullptr));

    CHECK(cmpool_put(pool.get(), blocks.puts.data(), 2, nullptr, blocks.results.data(), &error) == CMPOOL_OK);
    CHECK(blocks.count(CMPOOL_STORED) == 2);
    CHECK(daemon.stop());
}
