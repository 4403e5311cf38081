// Several cmpoold whose meta lies in etcd: what its freezes, deaths and elections cost, which is nothing.
#include "nodes.h"

#include <cmpool/testing/etcd.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Cluster;
using testing::Etcd;
using testing::SteadyClock;

namespace {

constexpr std::chrono::milliseconds kLease{3000};

/// How long etcd is away, each time; more by hand.
std::chrono::seconds away() {
    const char* asked = std::getenv("CMPOOL_ETCD_AWAY_S");
    return std::chrono::seconds(asked != nullptr ? std::atoi(asked) : 4);
}

/// Blocks that are read, and some that are written, again and again; each byte is looked at.
struct Load {
    explicit Load(const std::string& uri) : pool(testing::open_pool(uri)) {
        for (std::uint64_t number = 0; number < 60; ++number) {
            keys.push_back(*pool->key(as_bytes(fmt::format("key {}", number))));
            bytes.push_back(testing::pattern(4096, number));
            const auto outcome = testing::put_one(*pool, keys.back(), bytes.back());
            CHECK((outcome == client::Outcome::Stored || outcome == client::Outcome::Present));
        }
    }
    /// Returns the median time of a get.
    std::chrono::nanoseconds run(std::chrono::milliseconds time) {
        std::vector<std::byte> room(4096);
        std::vector<std::chrono::nanoseconds> took;
        for (const auto until = SteadyClock::now() + time; SteadyClock::now() < until;) {
            for (std::size_t at = 0; at < keys.size(); ++at) {
                const auto begun = SteadyClock::now();
                const auto outcome = testing::get_one(*pool, keys[at], room).outcome;
                took.push_back(SteadyClock::now() - begun);
                errors += outcome == client::Outcome::Hit ? 0 : 1;
                wrong += outcome == client::Outcome::Hit && room != bytes[at] ? 1 : 0;
            }
            const auto fresh = *pool->key(as_bytes(fmt::format("fresh {}", ++written)));
            errors += testing::put_one(*pool, fresh, bytes[0]) == client::Outcome::Stored ? 0 : 1;
        }
        std::nth_element(took.begin(), took.begin() + static_cast<std::ptrdiff_t>(took.size() / 2),
                         took.end());
        return took[took.size() / 2];
    }

    std::unique_ptr<client::PoolClient> pool;
    std::vector<client::Digest> keys;
    std::vector<std::vector<std::byte>> bytes;
    std::uint64_t written = 0, errors = 0, wrong = 0;
};

std::uint64_t epoch_of(Cluster& cluster) {
    auto& pool = *cluster.watchers.at(cluster.nodes.front().get());
    pool.progress();
    return pool.view().epoch;
}

}  // namespace

TEST_CASE("nodes that share etcd agree on who is killed, and on who comes back") {
    const auto etcd = Etcd::start_all();
    if (!etcd) return;
    Cluster cluster(3, {"--meta", etcd->uri()});
    cluster.nodes[2]->kill();
    const auto agreed = cluster.until_forgotten();
    MESSAGE("agreed in ", agreed.count(), " ms");
    // Its neighbours see its connections refused; etcd would keep its lease longer.
    CHECK(agreed < 2s);
    cluster.nodes[2]->start();
    CHECK(testing::comes_true([&] { return cluster.all_know(3); }));
    // Nobody is the head: whoever goes first takes nothing along.
    CHECK(cluster.nodes[2]->stop());
    CHECK(cluster.until_forgotten() <= 1s);
}

TEST_CASE("a frozen node is dropped within a lease and a second, and taken back when it goes on") {
    const auto etcd = Etcd::start_all();
    if (!etcd) return;
    Cluster cluster(3, {"--meta", etcd->uri()});
    cluster.nodes[2]->freeze();
    const auto agreed = cluster.until_forgotten();
    MESSAGE("agreed in ", agreed.count(), " ms");
    CHECK(agreed <= kLease + 1s);
    cluster.nodes[2]->thaw();
    CHECK(testing::comes_true([&] { return cluster.all_know(3); }));
}

TEST_CASE("etcd frozen, then dead: no error, no question to meta, nobody dropped, nothing forgotten") {
    const auto etcd = Etcd::start_all();
    if (!etcd) return;
    Cluster cluster(3, {"--meta", etcd->uri()});
    const auto uri = cluster.nodes[1]->uri("?transport=tcp&deadline_ms=1000");
    Load load(uri);
    const auto epoch = epoch_of(cluster);
    const auto before = load.run(2s);
    // Its namespace is among what each node remembers.
    CHECK_FALSE(testing::doctor_warns_of_meta(uri));
    const auto asked = cluster.sum("meta_questions");

    etcd->freeze();
    const auto frozen = load.run(away());
    CHECK(cluster.sum("meta_questions") == asked);
    // What has been opened before is opened again from what each node remembers.
    { Load from_memory(uri); }
    etcd->thaw();
    CHECK(load.run(2 * kLease) > 0ns);
    CHECK(cluster.all_know(3));
    CHECK(epoch_of(cluster) == epoch);

    const auto asked_again = cluster.sum("meta_questions");
    etcd->kill(0);
    const auto dead = load.run(away());
    CHECK(cluster.sum("meta_questions") == asked_again);
    CHECK(cluster.all_know(3));
    CHECK(cluster.sum("meta_silent") == 3);
    CHECK(testing::doctor_warns_of_meta(uri));
    etcd->start(0);
    CHECK(load.run(2 * kLease) > 0ns);
    CHECK(cluster.all_know(3));
    CHECK(epoch_of(cluster) == epoch);
    CHECK(cluster.sum("meta_silent") == 0);
    CHECK_FALSE(testing::doctor_warns_of_meta(uri));
    CHECK(load.errors == 0);
    CHECK(load.wrong == 0);
    const auto ratio = [&](auto now) {
        return static_cast<double>(now.count()) / static_cast<double>(before.count());
    };
    MESSAGE("etcd away twice for ", away().count(), " s: median of a get ", before.count(), " ns, frozen x",
            ratio(frozen), ", dead x", ratio(dead));
    CHECK(ratio(frozen) < 3);
    CHECK(ratio(dead) < 3);

    // What was agreed on before is there: the same namespace, with the same blocks in it.
    auto other = testing::open_pool(cluster.nodes[2]->uri("?transport=tcp&deadline_ms=1000"));
    std::vector<std::byte> room(4096);
    CHECK(testing::get_one(*other, load.keys[0], room).outcome == client::Outcome::Hit);
    CHECK(client::PoolClient::open(uri, testing::plain_namespace("another")).has_value());
}

TEST_CASE("a node that starts while etcd is dead serves by itself, and joins when it is back") {
    const auto etcd = Etcd::start_all();
    if (!etcd) return;
    Cluster cluster(2, {"--meta", etcd->uri()});
    etcd->kill(0);
    cluster.nodes[1]->kill();
    cluster.nodes[1]->start();
    etcd->start(0);
    CHECK(testing::comes_true([&] { return cluster.all_know(2); }));
}

TEST_CASE("of three etcd the leader is killed under load: no error, nobody dropped, and changes go on") {
    const auto etcd = Etcd::start_all(3);
    if (!etcd) return;
    Cluster cluster(3, {"--meta", etcd->uri()});
    const auto uri = cluster.nodes[1]->uri("?transport=tcp&deadline_ms=1000");
    Load load(uri);
    const auto epoch = epoch_of(cluster);
    const auto leader = etcd->leader();
    etcd->kill(leader);
    const auto begun = SteadyClock::now();
    CHECK(testing::comes_true([&] {
        (void)load.run(50ms);
        return client::PoolClient::open(uri, testing::plain_namespace("new")).has_value();
    }));
    MESSAGE("a namespace could be made again ",
            std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begun).count(),
            " ms after the leader's death");
    (void)load.run(2 * kLease);
    CHECK(load.errors == 0);
    CHECK(load.wrong == 0);
    CHECK(cluster.all_know(3));
    CHECK(epoch_of(cluster) == epoch);

    cluster.nodes[2]->kill();
    const auto agreed = cluster.until_forgotten();
    MESSAGE("with two etcd of three: agreed in ", agreed.count(), " ms");
    CHECK(agreed <= kLease + 1s);
    etcd->start(leader);
    cluster.nodes[2]->start();
    CHECK(testing::comes_true([&] { return cluster.all_know(3); }));
}
