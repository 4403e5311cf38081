// Tenants of one cmpoold, one of which floods it: what the other has, and how long it waits.
#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include <cmpool/base/units.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

using namespace cmpool;
using namespace std::chrono_literals;
using client::Outcome;
using testing::Daemon;

namespace {

constexpr std::size_t kBlockBytes = 60 * KiB;

/// A tenant and a client of it, by the network.
struct Tenant {
    Tenant(const Daemon& its_daemon, std::string its_name)
        : daemon(its_daemon), name(std::move(its_name)), pool(open()) {}

    [[nodiscard]] std::unique_ptr<client::PoolClient> open() const {
        return testing::open_pool(
            daemon.uri(fmt::format("?tenant={}&key=of-{}&transport=tcp&deadline_ms=5000", name, name)));
    }
    void quota(std::uint64_t bytes) const {
        const auto changed = pool->change_namespace("test", "1", {.quota = {.bytes = bytes}});
        REQUIRE(changed);
        CHECK(changed->quota.bytes == bytes);
    }
    [[nodiscard]] std::uint64_t bytes() const {
        return testing::statistic(*pool, fmt::format("namespace_{}_bytes", pool->status().namespace_id));
    }

    const Daemon& daemon;
    std::string name;
    std::unique_ptr<client::PoolClient> pool;
};

client::Digest key(const client::PoolClient& pool, std::uint64_t number) {
    return pool.key(std::as_bytes(std::span(&number, 1))).value();
}

std::size_t put(client::PoolClient& pool, std::uint64_t first, std::size_t count) {
    static const auto bytes = testing::pattern(kBlockBytes, 1);
    const Bytes piece(bytes);
    std::vector<client::PutItem> items;
    for (std::uint64_t number = first; number < first + count; ++number)
        items.push_back({.key = key(pool, number), .from = {&piece, 1}});
    return pool.put(items).count(Outcome::Stored);
}

/// Threads with clients of their own, until this ends.
class Busy {
public:
    template <class Work>
    Busy(const Tenant& tenant, std::size_t threads, Work work) {
        for (std::size_t number = 0; number < threads; ++number) {
            threads_.emplace_back([&tenant, number, work](const std::stop_token& stop) {
                const auto pool = tenant.open();
                for (std::uint64_t round = 0; !stop.stop_requested(); ++round) work(*pool, number, round);
            });
        }
    }

private:
    std::vector<std::jthread> threads_;
};

/// Stores what nobody has, as fast as it goes.
void flood(client::PoolClient& pool, std::uint64_t thread, std::uint64_t round) {
    (void)put(pool, thread << 32 | round * 64, 64);
}

}  // namespace

TEST_CASE("a tenant that others flood gets its quota back, and keeps it within two hundredths") {
    constexpr std::uint64_t kQuota = 24 * MiB;
    const Daemon daemon{{"--capacity", "64M", "--segment", "1M"}};
    const Tenant quiet(daemon, "quiet");
    const Tenant loud(daemon, "loud");
    quiet.quota(kQuota);
    const Busy flooding(loud, 2, flood);
    const auto limit = std::chrono::steady_clock::now() + 20s;
    while (loud.bytes() < 60 * MiB) REQUIRE(std::chrono::steady_clock::now() < limit);
    CHECK(quiet.bytes() == 0);  // what it does not use is lent

    const auto began = std::chrono::steady_clock::now();
    const std::size_t blocks = kQuota / (kBlockBytes + 64);
    std::size_t stored = 0;
    for (std::uint64_t first = 0; first < blocks; first += 16)
        stored += put(*quiet.pool, first, std::min<std::size_t>(16, blocks - first));
    const auto took = std::chrono::steady_clock::now() - began;
    CHECK(stored == blocks);
    CHECK(quiet.bytes() >= kQuota * 98 / 100);
    CHECK(took < 2s);

    std::uint64_t least = UINT64_MAX;
    const auto before = testing::statistic(*quiet.pool, "evicted_bytes");
    for (const auto until = std::chrono::steady_clock::now() + 1s; std::chrono::steady_clock::now() < until;)
        least = std::min(least, quiet.bytes());
    const auto evicted = testing::statistic(*quiet.pool, "evicted_bytes") - before;
    CHECK(least >= kQuota * 98 / 100);
    CHECK(evicted > 0);
    // It goes on itself: more than its quota it may have, less it never has.
    for (std::uint64_t round = 0; round < 20; ++round) {
        (void)put(*quiet.pool, 1'000'000 + round * 64, 64);
        least = std::min(least, quiet.bytes());
    }
    CHECK(least >= kQuota * 98 / 100);
    MESSAGE("quota ", format_bytes(kQuota), ": resident after ",
            std::chrono::duration_cast<std::chrono::milliseconds>(took).count(), " ms, at least ",
            static_cast<double>(least) * 100 / kQuota, " % of it while ", format_bytes(evicted),
            " of others were evicted beside it");
}

namespace {

constexpr std::size_t kBlocks = 64;
constexpr std::size_t kLoaders = 4;
constexpr std::size_t kLoads = 1000;  ///< of each
constexpr std::size_t kFlooders = 4;
constexpr int kRounds = 5;

struct Waits {
    std::vector<std::uint64_t> p50_ns, p99_ns;
};

/// Adds what the loads of a tenant have waited that does nothing else. It is a new one: waits are counted for
/// each.
void loads_of(const Daemon& daemon, const std::string& name, client::PoolClient& watcher, Waits& waits) {
    const Tenant tenant(daemon, name);
    // Its first memory comes from others, once their puts in it are over.
    const auto limit = std::chrono::steady_clock::now() + 10s;
    std::uint64_t stored = 0;
    while (stored < kBlocks) {
        REQUIRE(std::chrono::steady_clock::now() < limit);
        stored += put(*tenant.pool, stored, 1);
    }
    {
        std::vector<std::jthread> loaders;
        for (std::size_t number = 0; number < kLoaders; ++number) {
            loaders.emplace_back([&tenant] {
                const auto pool = tenant.open();
                std::vector<std::byte> room(kBlockBytes);
                for (std::uint64_t load = 0; load < kLoads; ++load)
                    (void)testing::get_one(*pool, key(*pool, load % kBlocks), room);
            });
        }
    }
    // Domains are numbered as they come.
    const auto prefix = fmt::format("domain_{}_load", testing::statistic(watcher, "domains"));
    CHECK(testing::statistic(watcher, prefix + "s") >= kLoaders * kLoads);
    waits.p50_ns.push_back(testing::statistic(watcher, prefix + "_wait_p50_ns"));
    waits.p99_ns.push_back(testing::statistic(watcher, prefix + "_wait_p99_ns"));
}

std::uint64_t median(std::vector<std::uint64_t> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

}  // namespace

TEST_CASE("a flood of one tenant's stores hardly delays another's loads in the server") {
    const Daemon daemon{{"--capacity", "64M", "--segment", "1M", "--shards", "1"}};
    const auto watcher = testing::open_pool(daemon.uri("?transport=tcp&deadline_ms=5000"));
    const Tenant loud(daemon, "loud");
    // In turns, since this machine has other work too.
    Waits alone;
    Waits beside;
    for (int round = 0; round < kRounds; ++round) {
        loads_of(daemon, fmt::format("alone-{}", round), *watcher, alone);
        const Busy flooding(loud, kFlooders, flood);
        loads_of(daemon, fmt::format("beside-{}", round), *watcher, beside);
    }
    const auto ran_ns = testing::statistic(*watcher, "processor_ns");
    const auto waited_ns = testing::statistic(*watcher, "processor_wait_ns");
    MESSAGE("waits in the server, p50 and p99: alone ", median(alone.p50_ns), " and ", median(alone.p99_ns),
            " ns; beside a flood ", median(beside.p50_ns), " and ", median(beside.p99_ns),
            " ns; its thread ran for ", ran_ns / 1'000'000, " ms and waited for a processor for ",
            waited_ns / 1'000'000, " ms");
    CHECK(ran_ns > 0);
    // The flood alone has more threads than we may have processors.
    CHECK(median(beside.p99_ns) <= 2 * median(alone.p99_ns) + 2'000'000);
}
