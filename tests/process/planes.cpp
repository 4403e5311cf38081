// Blocks that are read one-sided from another process, on a host that has such a device: tools/rdma-vm
// makes one. Deadlines are long, since a machine is emulated for that.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>
#include <cmpool/testing/shared_data.h>
#include <cmpool/transport/fabric.h>

#include <nlohmann/json.hpp>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;
using testing::Process;

namespace {

constexpr std::chrono::milliseconds kPatience{60'000};
constexpr std::size_t kBlocks = 16;
constexpr std::size_t kBlockBytes = 64 * KiB;
constexpr std::ptrdiff_t kGoldenTokens = 16;

/// The first plane that this host has a device for.
std::optional<std::string> plane_here() {
    SystemEntropy entropy;
    std::string why = "there is none";
    for (const auto& name : transport::plane_names()) {
        const auto fabric = transport::open_plane(name, entropy);
        if (fabric) return name;
        why = fabric.error().detail;
    }
    MESSAGE("skipped: nothing to read one-sided with: " << why);
    return std::nullopt;
}

Daemon daemon_with(const std::string& plane, const std::string& capacity = "64M") {
    return Daemon({"--capacity", capacity, "--shards", "1", "--plane", plane + "://127.0.0.1:0"});
}

std::string query(const std::string& plane) { return "?transport=tcp&deadline_ms=20000&kv=" + plane; }

bool reads_by(client::PoolClient& pool, const std::string& name) {
    return testing::comes_true(
        [&] {
            pool.progress();
            return pool.status().kv == name;
        },
        kPatience);
}

/// A chain of blocks in a pool, and memory to get them back into.
struct Chain {
    Chain(client::PoolClient& its_pool, std::size_t bytes)
        : pool(its_pool), keys(testing::chain_of(pool, kBlocks)) {
        const std::uint64_t group = testing::group_of(pool, keys, 0);
        back.resize(kBlocks * bytes);
        std::vector<client::PutItem> puts;
        for (std::size_t at = 0; at < kBlocks; ++at) sent.push_back(testing::pattern(bytes, at));
        for (std::size_t at = 0; at < kBlocks; ++at) from.emplace_back(sent[at]);
        for (std::size_t at = 0; at < kBlocks; ++at) {
            into.push_back(MutableBytes(back).subspan(at * bytes, bytes));
            puts.push_back({.key = keys[at],
                            .from = {&from[at], 1},
                            .parent = at == 0 ? model::kNoParent : keys[at - 1],
                            .position = static_cast<std::uint32_t>(at),
                            .group = group});
        }
        for (std::size_t at = 0; at < kBlocks; ++at) gets.push_back({keys[at], {&into[at], 1}, group});
        REQUIRE(pool.put(puts).count(client::Outcome::Stored) == kBlocks);
    }
    [[nodiscard]] bool whole() const {
        for (std::size_t at = 0; at < kBlocks; ++at) {
            if (!std::equal(sent[at].begin(), sent[at].end(), into[at].begin())) return false;
        }
        return true;
    }
    void forget() { std::fill(back.begin(), back.end(), std::byte{0}); }

    client::PoolClient& pool;
    std::vector<client::Digest> keys;
    std::vector<std::vector<std::byte>> sent;
    std::vector<Bytes> from;
    std::vector<std::byte> back;
    std::vector<MutableBytes> into;
    std::vector<client::GetItem> gets;
};

/// What processes hold of a device, in the kernel's words; empty where it does not say.
std::string held_of_devices() {
    std::string text;
    std::FILE* said = ::popen("rdma resource show 2>/dev/null", "r");
    for (int next = said == nullptr ? EOF : std::fgetc(said); next != EOF; next = std::fgetc(said))
        text.push_back(static_cast<char>(next));
    if (said != nullptr) ::pclose(said);
    return text;
}

}  // namespace

// The pool's processor does nothing for a block: its counters say so, and the client's say what it cost.
TEST_CASE("a request reads its blocks with one match, one release and one doorbell") {
    const auto plane = plane_here();
    if (!plane) return;
    auto daemon = daemon_with(*plane);
    const auto pool = testing::open_pool(daemon.uri(query(*plane)));
    REQUIRE_MESSAGE(reads_by(*pool, *plane), pool->status().kv_plane);
    MESSAGE(pool->status().kv_plane);
    Chain chain(*pool, kBlockBytes);
    const auto registration = pool->register_buffer(chain.back);
    REQUIRE(registration);

    const auto names = {"messages_Match", "messages_Release", "messages_Get", "get_hits"};
    std::map<std::string, std::uint64_t> before;
    for (const auto* name : names) before[name] = testing::statistic(*pool, name);
    const auto cost = pool->status();
    {
        const auto match = pool->match(chain.keys, 60'000);
        REQUIRE(match.blocks() == kBlocks);
        CHECK(match.leased());
        const auto got = pool->get(chain.gets, {.verify = true});
        if (got.trouble) MESSAGE(got.trouble->detail);
        CHECK(got.count(client::Outcome::Hit) == kBlocks);
        CHECK(chain.whole());
    }
    const auto after = pool->status();
    CHECK(testing::statistic(*pool, "messages_Match") == before["messages_Match"] + 1);
    CHECK(testing::statistic(*pool, "messages_Release") == before["messages_Release"] + 1);
    CHECK(testing::statistic(*pool, "messages_Get") == before["messages_Get"]);
    CHECK(testing::statistic(*pool, "get_hits") == before["get_hits"]);
    CHECK(after.kv_requests - cost.kv_requests == 2 * kBlocks);  // a block and its slot
    CHECK(after.kv_doorbells - cost.kv_doorbells == 1);
    CHECK(after.kv_signalled - cost.kv_signalled == 1);
    MESSAGE("a get of " << kBlocks << " blocks: " << after.kv_requests - cost.kv_requests
                        << " work requests, " << after.kv_doorbells - cost.kv_doorbells << " doorbell, "
                        << after.kv_signalled - cost.kv_signalled << " signalled completion");
    CHECK(daemon.stop());
}

TEST_CASE("memory that nobody registered, and blocks that nobody matched, are read all the same") {
    const auto plane = plane_here();
    if (!plane) return;
    auto daemon = daemon_with(*plane);
    const auto pool = testing::open_pool(daemon.uri(query(*plane)));
    REQUIRE(reads_by(*pool, *plane));
    Chain chain(*pool, 200'001);
    CHECK(pool->get(chain.gets).count(client::Outcome::Hit) == kBlocks);  // as messages
    CHECK(chain.whole());
    chain.forget();
    const auto messages = testing::statistic(*pool, "messages_Get");
    const auto match = pool->match(chain.keys, 60'000);
    CHECK(pool->get(chain.gets).count(client::Outcome::Hit) == kBlocks);
    CHECK(chain.whole());
    CHECK(testing::statistic(*pool, "messages_Get") == messages);
    // What goes while it is leased keeps its bytes; the index shows it no more, and so nobody is sure.
    CHECK(pool->remove({&chain.keys[3], 1}).count(client::Outcome::Hit) == 1);
    const auto rest = pool->get(chain.gets);
    CHECK(rest.count(client::Outcome::Hit) == kBlocks - 1);
    CHECK(rest.blocks[3].outcome == client::Outcome::Miss);
    CHECK(daemon.stop());
}

// The cable is pulled while blocks are on their way: the call ends with all of them, over what is left.
TEST_CASE("a link that goes down in the middle of a batch costs time and nothing else, and heals") {
    const auto plane = plane_here();
    if (!plane) return;
    if (std::getenv("CMPOOL_RDMA_VM") == nullptr) {
        MESSAGE("skipped: only in tools/rdma-vm a link is ours to pull");
        return;
    }
    auto daemon = daemon_with(*plane);
    const auto pool = testing::open_pool(daemon.uri(query(*plane)));
    REQUIRE(reads_by(*pool, *plane));
    Chain chain(*pool, 1 * MiB);
    const auto match = pool->match(chain.keys, 60'000);
    REQUIRE(match.blocks() == kBlocks);
    REQUIRE(pool->get(chain.gets).count(client::Outcome::Hit) == kBlocks);  // imports what is new
    chain.forget();
    const auto posted = pool->status().kv_requests;
    auto getting = pool->start_get(chain.gets);
    REQUIRE(::system("ip link set rdma0 down") == 0);
    CHECK(pool->status().kv_requests > posted);
    CHECK_FALSE(getting.done());
    while (!getting.done()) pool->progress();
    const auto got = getting.take();
    CHECK(got.count(client::Outcome::Hit) == kBlocks);
    CHECK(chain.whole());
    CHECK(pool->status().kv == "tcp");
    MESSAGE("then: " << pool->status().kv_plane);

    REQUIRE(::system("ip link set rdma0 up") == 0);
    CHECK(reads_by(*pool, *plane));
    chain.forget();
    const auto messages = testing::statistic(*pool, "messages_Get");
    const auto again = pool->match(chain.keys, 60'000);
    CHECK(pool->get(chain.gets).count(client::Outcome::Hit) == kBlocks);
    CHECK(chain.whole());
    CHECK(testing::statistic(*pool, "messages_Get") == messages);
    CHECK(daemon.stop());
}

TEST_CASE("whoever is killed, nobody reads a wrong byte, and no memory stays locked") {
    const auto plane = plane_here();
    if (!plane) return;
    ::setenv("CMPOOL_SLOWNESS", "50", 1);
    const auto nobody = held_of_devices();
    auto daemon = daemon_with(*plane, "16M");
    Rng rng(20261122);
    {
        const auto watcher = testing::open_pool(daemon.uri("?transport=tcp&deadline_ms=20000"));
        const auto alone = held_of_devices();
        std::uint64_t hits = 0;
        for (int round = 0; round < 4; ++round) {
            std::vector<std::unique_ptr<Process>> workers;
            for (const char* role : {"writer", "reader"}) {
                workers.push_back(std::make_unique<Process>(std::vector<std::string>{
                    CMPOOL_CHAOS_WORKER, daemon.uri(query(*plane)), role, std::to_string(rng.next())}));
            }
            const auto until = std::chrono::steady_clock::now() + 3s + 1ms * rng.below(1000);
            std::uint64_t seen = 0;
            while (std::chrono::steady_clock::now() < until) {
                for (auto& worker : workers) {
                    const auto line = worker->read_line(50ms);
                    if (!line) continue;
                    CHECK_MESSAGE(!line->starts_with("wrong"), *line);
                    if (const auto at = line->find("hits "); at != std::string::npos)
                        seen =
                            std::max<std::uint64_t>(seen, std::strtoull(line->c_str() + at + 5, nullptr, 10));
                }
            }
            hits += seen;
            for (auto& worker : workers) {
                worker->signal(SIGKILL);
                CHECK(worker->wait() == -SIGKILL);
            }
        }
        CHECK(hits > 0);
        for (const char* name : {"leases", "doomed_bytes"})
            CHECK(testing::comes_true([&] { return testing::statistic(*watcher, name) == 0; }, kPatience));
        CHECK(testing::statistic(*watcher, "corrupt_blocks") == 0);
        // Queue pairs, windows and regions of the dead are gone.
        CHECK(testing::comes_true([&] { return held_of_devices() == alone; }, kPatience));
        MESSAGE(hits << " blocks compared; held: " << alone);
    }
    // And the other way round.
    {
        const auto pool = testing::open_pool(daemon.uri(query(*plane)));
        REQUIRE(reads_by(*pool, *plane));
        Chain chain(*pool, kBlockBytes);
        const auto match = pool->match(chain.keys, 60'000);
        daemon.kill();
        CHECK(pool->get(chain.gets, {.deadline = 5s}).count(client::Outcome::Hit) == 0);
        daemon.start();
        REQUIRE(reads_by(*pool, *plane));
        CHECK(pool->get(chain.gets).count(client::Outcome::Hit) == 0);
        daemon.kill();
        CHECK(testing::comes_true([&] { return pool->progress(), pool->status().kv != *plane; }, kPatience));
    }
    CHECK(testing::comes_true([&] { return held_of_devices() == nobody; }, kPatience));
}

// Floats travel as bytes: one bit changed somewhere would show in some token. What is reused is read, by
// whole blocks and by layers; the server's counters say that nobody asked it for a block.
TEST_CASE("a trained model answers from a pool with a plane what the reference says") {
    const auto plane = plane_here();
    if (!plane) return;
    const auto model = testing::shared_data("models/stories260K/stories260K.bin");
    const auto table = testing::shared_data("models/stories260K/tok512.bin");
    const auto golden = testing::shared_data("models/stories260K/golden.json");
    if (!model || !table || !golden) return;
    auto daemon = daemon_with(*plane);
    const auto watcher = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto cases = nlohmann::json::parse(std::ifstream(*golden)).at("cases");
    // The second shares 136 tokens with the first; the third is the first again, whose blocks are all there.
    const std::pair<const char*, std::size_t> runs[]{
        {"shared_prefix_a", 0}, {"shared_prefix_b", 128}, {"shared_prefix_a", 128}};
    std::uint64_t requests = 0;
    for (const auto& [name, reused_min] : runs) {
        CAPTURE(name);
        const auto expected =
            std::ranges::find_if(cases, [&](const auto& each) { return each.at("name") == name; });
        REQUIRE(expected != cases.end());
        // Some of the reference's tokens are enough: each depends on every byte that was read.
        const std::vector<std::uint32_t> all = expected->at("output_ids");
        const std::vector<std::uint32_t> first(all.begin(), all.begin() + kGoldenTokens);
        Process server({CMPOOL_SERVE, "generate", "--model", model->string(), "--tokenizer", table->string(),
                        "--pool", daemon.uri(query(*plane)), "--prompt", expected->at("prompt"), "--json",
                        "--block-tokens", "16", "--max-tokens", std::to_string(kGoldenTokens)});
        const auto line = server.read_line(kPatience);
        if (server.wait(kPatience) != 0 || !line) FAIL("cmpool-serve said: ", server.errors());
        const auto answer = nlohmann::json::parse(*line);
        CHECK(answer.at("tokens").get<std::vector<std::uint32_t>>() == first);
        ++requests;
        CHECK(testing::statistic(*watcher, "messages_Match") == requests);
        CHECK(testing::statistic(*watcher, "messages_Release") <= requests);  // nothing found, nothing lent
        CHECK(testing::statistic(*watcher, "messages_Get") == 0);
        CHECK(answer.at("reused_tokens").get<std::size_t>() >= reused_min);
        MESSAGE(std::string(name) << ": " << answer.at("reused_tokens").get<std::size_t>()
                                  << " tokens reused");
    }
    CHECK(daemon.stop());
}
