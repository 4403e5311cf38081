// node, namespace, stats --cluster and replay, with the programs of this very build.
#include "run_cli.h"

#include <nlohmann/json.hpp>

using nlohmann::json;
using namespace cmpool::testing;

namespace {

json parsed(const Ended& ended) {
    REQUIRE_MESSAGE(ended.code == 0, ended.errors);
    auto object = json::parse(ended.out, nullptr, false);
    REQUIRE_FALSE(object.is_discarded());
    return object;
}

/// Requests that begin alike, as a conversation's do: the third goes on where the first ended.
constexpr const char* kTrace =
    R"({"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [1, 2, 3]})"
    "\n"
    R"({"timestamp": 10, "input_length": 700, "output_length": 5, "hash_ids": [1, 9]})"
    "\n\n"
    R"({"timestamp": 20, "input_length": 2048, "output_length": 5, "hash_ids": [1, 2, 3, 4]})";

}  // namespace

TEST_CASE("a node by itself is a cluster of one") {
    const Pool pool;
    const auto seen = parsed(cli({"node", "ls", "--pool", pool.uri(), "--json"}));
    REQUIRE(seen["members"].size() == 1);
    CHECK(seen["members"][0]["name"] == "testnode");
    CHECK(seen["members"][0]["state"] == "serving");
    CHECK(pool.uri().find(seen["members"][0]["address"].get<std::string>()) != std::string::npos);
    const auto text = cli({"node", "ls", "--pool", pool.uri()});
    CHECK(contains(text.out, "testnode"));
    const auto stats = parsed(cli({"stats", "--cluster", "--pool", pool.uri(), "--json"}));
    CHECK(stats["members"][0]["capacity_bytes"] == 64 << 20);
    CHECK(contains(cli({"stats", "--cluster", "--pool", pool.uri()}).out, "testnode"));

    const auto unknown = cli({"node", "retire", "nobody", "--pool", pool.uri()});
    CHECK(unknown.code == 1);
    CHECK(unknown.one_sentence());
    CHECK(contains(unknown.errors, "nobody"));
    CHECK(cli({"node"}).code == 2);
}

TEST_CASE("namespaces are made, listed, changed and removed") {
    const Pool pool;
    const std::vector<std::string> at{"--pool", pool.uri(), "--json"};
    const auto run = [&](std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), "namespace");
        arguments.insert(arguments.end(), at.begin(), at.end());
        return cli(arguments);
    };
    CHECK(parsed(run({"create", "mine", "--replicas", "2"}))["namespaces"][0]["replicas"] == 2);
    const auto find = [&](const std::string& name) {
        const auto all = parsed(run({"ls"}));
        for (const auto& each : all["namespaces"]) {
            if (each["model"] == name) return each;
        }
        return json();
    };
    CHECK(find("mine")["replicas"] == 2);
    CHECK(parsed(run({"set", "mine", "--replicas", "3"}))["namespaces"][0]["replicas"] == 3);
    CHECK(run({"set", "mine", "--replicas", "9"}).code == 2);
    CHECK(run({"set", "theirs", "--replicas", "1"}).code == 1);

    REQUIRE(cli({"put", "key", "-", "--namespace", "mine", "--pool", pool.uri()}, "bytes").code == 0);
    CHECK(cli({"get", "key", "--namespace", "mine", "--pool", pool.uri()}).out == "bytes");
    REQUIRE(run({"rm", "mine"}).code == 0);
    CHECK(find("mine").is_null());
    // Another namespace of the same name: what was put before is not to be found.
    CHECK(cli({"get", "key", "--namespace", "mine", "--pool", pool.uri()}).code == 1);
}

TEST_CASE("replay counts what a trace reuses, and verifies it") {
    const Pool pool;
    const TempFolder folder;
    write_file(folder / "trace.jsonl", kTrace);
    const std::vector<std::string> replay{
        "replay", folder / "trace.jsonl", "--pool", pool.uri(), "--block-bytes", "3000", "--json"};
    const auto first = parsed(cli(replay));
    CHECK(first["requests"] == 3);
    CHECK(first["blocks"] == 9);
    CHECK(first["put_blocks"] == 5);
    CHECK(first["hit_blocks"] == 4);
    CHECK(first["hit_tokens"] == 4 * 512);
    CHECK(first["errors"] == 0);
    CHECK(first["verify_failures"] == 0);
    CHECK(first["deadline_overruns"] == 0);
    CHECK(first["get_p99_us"] > 0);
    // All of it is there now; of a last block only the tokens that the request had.
    const auto second = parsed(cli(replay));
    CHECK(second["hit_blocks"] == 9);
    CHECK(second["put_blocks"] == 0);
    CHECK(second["hit_tokens"] == 1500 + 700 + 2048);
    // Bytes follow from keys: other clients know them too.
    auto several = replay;
    several.insert(several.end(), {"--clients", "2", "--speed", "2", "--limit", "2"});
    CHECK(parsed(cli(several))["hit_blocks"] == 5);
    CHECK(contains(cli({replay.begin(), replay.end() - 1}).out, "3 requests"));
}

TEST_CASE("replay refuses what is no trace with the line, and a pool that is not there") {
    const Pool pool;
    const TempFolder folder;
    const auto refused = [&](const std::string& text, const std::string& said) {
        write_file(folder / "trace.jsonl", text);
        const auto ended = cli({"replay", folder / "trace.jsonl", "--pool", pool.uri()});
        CHECK(ended.code == 1);
        CHECK(ended.one_sentence());
        CHECK_MESSAGE(contains(ended.errors, said), ended.errors);
    };
    refused("", "saw none");
    refused("{\"timestamp\": 0}\n", "line 1");
    refused(std::string(kTrace) + "\nnonsense\n", "line 5");
    refused("{\"timestamp\": 0, \"input_length\": 3, \"hash_ids\": [-1]}", "from 0 on");
    refused(std::string("\x28\xb5\x2f\xfd", 4), "zstd");
    write_file(folder / "trace.jsonl", kTrace);
    const auto absent = cli({"replay", folder / "trace.jsonl", "--pool", "cmpool://127.0.0.1:1"});
    CHECK(absent.code == 1);
    CHECK(cli({"replay", folder / "trace.jsonl", "--pool", pool.uri(), "--speed", "-3"}).code == 1);
}

TEST_CASE("metrics serves what all members count, until it is told to stop") {
    const Pool pool;
    REQUIRE(cli({"put", "--pool", pool.uri(), "key", "-"}, "bytes").code == 0);
    Process metrics(
        std::vector<std::string>{CMPOOL_CLI, "metrics", "--pool", pool.uri(), "--listen", "127.0.0.1:0"});
    const auto ready = metrics.read_line(std::chrono::seconds(10));
    REQUIRE_MESSAGE(ready, metrics.errors());
    const auto port = ready->substr(ready->rfind(':') + 1, ready->rfind('/') - ready->rfind(':') - 1);
    const auto scrape = [&] {
        const std::string request = "exec 3<>/dev/tcp/127.0.0.1/" + port +
                                    "; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        Process get({"/bin/bash", "-c", request});
        std::string text;
        while (const auto line = get.read_line(std::chrono::seconds(10))) text += *line + "\n";
        return text;
    };
    const auto text = scrape();
    CHECK(contains(text, " 200 "));
    CHECK(contains(text, "cmpool_up{member=\"testnode\"} 1\n"));
    CHECK(contains(text, "cmpool_blocks{member=\"testnode\"} 1\n"));
    CHECK(contains(text, "cmpool_messages{member=\"testnode\",message=\"Put\"} 1\n"));
    CHECK(contains(text, "cmpool_namespace_bytes{member=\"testnode\",namespace=\""));
    metrics.signal(SIGTERM);
    CHECK(metrics.wait() == 0);
    CHECK(cli({"metrics", "--pool", pool.uri(), "--listen", "nowhere"}).one_sentence());
}
