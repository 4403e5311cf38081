// Several cmpoold as one pool: what a client sees when one of them is killed under load.
#include "nodes.h"

#include <cmpool/testing/shared_data.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Cli;
using testing::Cluster;
using testing::Daemon;
using testing::reusable_tokens;

namespace {

constexpr const char* kBlockBytes = "2KiB";

struct Loss {
    double of_everything;  ///< lost tokens, as a part of what losing everything would cost
    std::chrono::milliseconds agreed;
    nlohmann::json seen;
};

/// Replays a conversation, and kills the fourth of five nodes in the middle of it.
Loss replay_and_kill(Cluster& cluster, const std::filesystem::path& trace, const std::string& transport) {
    const auto uri = cluster.nodes.front()->uri("?deadline_ms=500&transport=" + transport);
    const auto before = cluster.sum("match_calls");
    // One client: with two, what one finds depends on how far the other has come.
    Cli replay({"replay", trace, "--pool", uri, "--block-bytes", kBlockBytes, "--speed", "80", "--clients",
                "1", "--json"});
    Daemon& victim = *cluster.nodes[3];
    // A request matches on several members; each of them counts.
    const auto target = before + 1000;
    REQUIRE(testing::comes_true([&] { return cluster.sum("match_calls") >= target; }, 60s));
    victim.kill();
    Loss loss{.of_everything = 0, .agreed = cluster.until_forgotten(), .seen = replay.json()};
    REQUIRE(loss.seen.is_object());
    const auto ideal = static_cast<double>(reusable_tokens(trace, false));
    const auto nothing = static_cast<double>(reusable_tokens(trace, true));
    loss.of_everything = (ideal - loss.seen["hit_tokens"].get<double>()) / (ideal - nothing);
    MESSAGE(transport, ": lost ", 100 * loss.of_everything, " % of what losing everything costs; agreed in ",
            loss.agreed.count(), " ms; ", loss.seen.dump());
    CHECK(loss.seen["requests"] == 1000);
    CHECK(loss.seen["errors"] == 0);
    CHECK(loss.seen["verify_failures"] == 0);
    CHECK(loss.seen["deadline_overruns"] == 0);
    CHECK(loss.agreed < 2s);
    return loss;
}

}  // namespace

TEST_CASE("five nodes are one pool; one that is killed under load costs its own part, and comes back") {
    const auto trace = testing::shared_data("traces/mooncake/conversation_head1000.jsonl");
    if (!trace) return;
    // A fifth of the groups, and what hangs on them. So few long conversations vary by whose groups lie on
    // the victim: 36 % in the mean of 99 runs, with a deviation of 14, so it is the mean of some. Block by
    // block it were 87 %.
    constexpr int kRuns = 4;
    double lost = 0;
    std::unique_ptr<Cluster> last;
    for (int run = 0; run < kRuns; ++run) {
        last.reset();
        last = std::make_unique<Cluster>(5);
        lost += replay_and_kill(*last, *trace, "tcp").of_everything / kRuns;
    }
    Cluster& cluster = *last;
    CHECK(lost <= 0.6);

    const auto incarnation = [&](const std::string& name) {
        for (const auto& member : cluster.watchers.at(cluster.nodes.front().get())->view().members) {
            if (member.name == name) return member.incarnation;
        }
        return std::uint64_t{0};
    };
    const auto was = incarnation("node-3");
    cluster.nodes[3]->start();
    auto& head = *cluster.watchers.at(cluster.nodes.front().get());
    REQUIRE(testing::comes_true([&] { return Cluster::knows(head, 5); }));
    CHECK(incarnation("node-3") != was);
}

TEST_CASE("with two replicas a node that is killed under load costs nothing") {
    const auto trace = testing::shared_data("traces/mooncake/conversation_head1000.jsonl");
    if (!trace) return;
    Cluster cluster(5);
    const auto uri = cluster.nodes.front()->uri();
    (void)Cli({"replay", *trace, "--pool", uri, "--block-bytes", kBlockBytes, "--limit", "1", "--json"})
        .json();
    const auto set =
        Cli({"namespace", "set", "replay", "--revision", "2048", "--replicas", "2", "--pool", uri, "--json"})
            .json();
    CHECK(set["namespaces"][0]["replicas"] == 2);
    const auto loss = replay_and_kill(cluster, *trace, "auto");
    // Two clients at once do not see each other's puts in the trace's order.
    CHECK(loss.of_everything <= 0.01);
}

TEST_CASE("meta's node killed and started again: nothing is forgotten, nobody is dropped, reads go on") {
    Cluster cluster(3);
    auto pool = testing::open_pool(cluster.nodes[1]->uri("?transport=tcp&deadline_ms=1000"));
    auto& beside = *cluster.watchers.at(cluster.nodes[1].get());
    REQUIRE(testing::comes_true([&] {
        return Cluster::knows(*pool, 3) && Cluster::knows(beside, 3) && beside.status().members_ready == 3;
    }));
    const auto bytes = testing::pattern(4096, 1);
    std::vector<client::Digest> keys;
    for (int number = 0; number < 60; ++number) {
        keys.push_back(*pool->key(as_bytes(fmt::format("key {}", number))));
        CHECK(testing::put_one(*pool, keys.back(), bytes) == client::Outcome::Stored);
    }
    std::vector<std::byte> room(4096);
    const auto hits = [&] {
        std::size_t count = 0;
        for (const auto& key : keys)
            count += testing::get_one(*pool, key, room).outcome == client::Outcome::Hit ? 1 : 0;
        return count;
    };
    CHECK(hits() == keys.size());
    const auto on_the_head = testing::statistic(*cluster.watchers.at(cluster.nodes.front().get()), "blocks");
    const auto epoch = pool->view().epoch;
    const auto beside_uri = cluster.nodes[1]->uri("?transport=tcp&deadline_ms=1000");
    CHECK_FALSE(testing::doctor_warns_of_meta(beside_uri));

    cluster.nodes.front()->kill();
    // What is read and written is nobody's question to meta.
    const auto asked = cluster.of(1, "meta_questions", 1);
    for (int round = 0; round < 20; ++round) {
        CHECK(hits() == keys.size() - on_the_head);
        for (const auto& key : keys) (void)testing::put_one(*pool, key, bytes);
    }
    CHECK(cluster.of(1, "meta_questions", 1) == asked);
    CHECK(testing::comes_true([&] { return testing::doctor_warns_of_meta(beside_uri); }));
    cluster.nodes.front()->start();
    REQUIRE(testing::comes_true([&] {
        pool->progress();
        return pool->view().epoch > epoch && Cluster::knows(*pool, 3);
    }));
    CHECK(hits() == keys.size() - on_the_head);  // its blocks went with its process, and nothing else
    // The view may come before this node has found meta again.
    CHECK(testing::comes_true([&] { return pool->namespaces().has_value(); }));
    CHECK_FALSE(testing::doctor_warns_of_meta(beside_uri));
}

TEST_CASE("a node with another cluster's key joins nothing, and says why") {
    const testing::TempFolder folder;
    std::ofstream(folder / "ours") << "one key\n";
    std::ofstream(folder / "theirs") << "another key\n";
    const Daemon head({"--capacity", "16M", "--shards", "1", "--cluster-key-file", folder / "ours"});
    const Daemon friendly({"--capacity", "16M", "--shards", "1", "--meta", head.address(), "--name", "friend",
                           "--cluster-key-file", folder / "ours"});
    const Daemon stranger({"--capacity", "16M", "--shards", "1", "--meta", head.address(), "--name",
                           "stranger", "--cluster-key-file", folder / "theirs"});
    auto pool = testing::open_pool(head.uri());
    CHECK(testing::comes_true([&] { return Cluster::knows(*pool, 2); }));
    for (const auto& member : pool->view().members) CHECK(member.name != "stranger");
    // Who reaches the stranger is sent to the members, and keeps nothing with it.
    const auto astray = testing::open_pool(stranger.uri("?transport=tcp&deadline_ms=2000"));
    CHECK(testing::comes_true([&] { return Cluster::knows(*astray, 2); }));
    CHECK(astray->status().members_ready == 2);

    const auto seen = Cli({"node", "ls", "--pool", friendly.uri(), "--json"}).json();
    CHECK(seen["members"].size() == 2);
    // The pool's own user on its host is asked for no key.
    const auto retired =
        Cli({"node", "retire", "friend", "--pool", friendly.uri("?transport=shm"), "--json"}).json();
    CHECK(testing::comes_true([&] { return Cluster::knows(*pool, 1); }));
    const auto far = testing::open_pool(head.uri("?transport=tcp"));
    const auto refused = far->change_member("friend", {.state = model::MemberState::Serving}, "no key");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::Denied);
    CHECK(far->change_member("friend", {.state = model::MemberState::Serving}, "one key"));
    CHECK(testing::comes_true([&] { return Cluster::knows(*pool, 2); }));
}
