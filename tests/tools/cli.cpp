// The real cmpool-cli against the real cmpoold, as a person at a terminal meets them.
#include "run_cli.h"

#include <chrono>
#include <map>
#include <memory>
#include <thread>

#include <cmpool/client/pool_client.h>

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>

using namespace cmpool;
using nlohmann::json;
using testing::cli;
using testing::contains;
using testing::Pool;
using testing::read_file;
using testing::TempFolder;
using testing::write_file;

namespace {

/// Every byte there is, zeros and newlines among them, `repeats` times.
std::string binary(std::size_t repeats) {
    std::string bytes;
    for (std::size_t round = 0; round < repeats; ++round) {
        for (int value = 0; value < 256; ++value) bytes.push_back(static_cast<char>(value));
    }
    return bytes;
}

std::string address_in_use() {
    Pool pool;
    return pool.uri();  // nobody is there once this has returned
}

}  // namespace

TEST_CASE("a seal key makes a namespace that only its holders read") {
    const Pool pool;
    const TempFolder folder;
    const auto key_file = [&](const std::string& name, char byte, std::filesystem::perms mode) {
        write_file(folder / name, std::string(32, byte));
        std::filesystem::permissions(folder / name, mode);
        return folder / name;
    };
    constexpr auto kOurs = std::filesystem::perms{0600};
    const std::string ours = key_file("ours", 'a', kOurs);
    const auto run = [&](std::vector<std::string> arguments, const std::string& key,
                         const std::string& input = {}) {
        for (const std::string& word :
             {std::string("--namespace"), std::string("vault"), std::string("--pool"), pool.uri()})
            arguments.push_back(word);
        if (!key.empty()) arguments.insert(arguments.end(), {"--seal-key-file", key});
        return cli(arguments, input);
    };
    const auto made = cli({"namespace", "create", "vault", "--seal-key-file", ours, "--pool", pool.uri()});
    CHECK(made.code == 0);
    CHECK(contains(made.out, "sealed=yes"));
    CHECK(run({"put", "k", "-"}, ours, binary(300)).code == 0);
    CHECK(run({"get", "k"}, ours).out == binary(300));
    CHECK(contains(run({"ls"}, ours).out, "75 KiB"));
    // An address may name the key too, and what is about no blocks does not mind.
    const std::vector<std::string> environment{"CMPOOL_POOL=" + pool.uri("?seal_key_file=" + ours)};
    CHECK(cli({"get", "k", "--namespace", "vault"}, {}, environment).out == binary(300));
    CHECK(cli({"stats"}, {}, environment).code == 0);
    CHECK(contains(cli({"namespace", "ls"}, {}, environment).out, "vault"));

    CHECK(run({"get", "k"}, key_file("theirs", 'b', kOurs)).code == 1);
    const auto plain = run({"get", "k"}, {});
    CHECK(plain.code != 0);
    CHECK(contains(plain.errors, "sealed"));
    const auto open_to_all = run({"get", "k"}, key_file("open", 'a', std::filesystem::perms{0644}));
    CHECK(open_to_all.one_sentence());
    CHECK(contains(open_to_all.errors, "644"));
}

TEST_CASE("put, exists, ls, get and rm agree about a block, over shm and over tcp") {
    const Pool pool;
    for (const std::string transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        const std::vector<std::string> at{"--pool", pool.uri("?transport=" + transport)};
        const auto run = [&](std::vector<std::string> arguments, const std::string& input = {}) {
            arguments.insert(arguments.end(), at.begin(), at.end());
            return cli(arguments, input);
        };
        // One is small, one is pulled in one piece or asked for first, and larger than a first get's room.
        for (const std::string& bytes : {binary(1), std::string("\0", 1), binary(12'000)}) {
            const TempFolder folder;
            write_file(folder / "in", bytes);
            auto put = run({"put", "key one", folder / "in"});
            CHECK(put.code == 0);
            CHECK(put.errors.empty());
            CHECK(put.out.starts_with("stored "));
            const auto digest = put.out.substr(put.out.find("digest:"), 71);
            CHECK(run({"put", "key one", "-"}, "others").out.starts_with("present "));
            CHECK(run({"exists", "key one", digest}).out == "present key one\npresent " + digest + "\n");

            const auto listed = json::parse(run({"ls", "--json"}).out);
            REQUIRE(listed["blocks"].size() == 1);
            CHECK(listed["complete"] == true);
            CHECK("digest:" + listed["blocks"][0]["digest"].get<std::string>() == digest);
            CHECK(listed["blocks"][0]["bytes"] == bytes.size());
            CHECK(contains(run({"ls"}).out, digest));
            CHECK(run({"ls", "--namespace", "another"}).out ==
                  "0 blocks, 0 B, in namespace default/another\n");

            CHECK(run({"get", "key one"}).out == bytes);
            CHECK(run({"get", digest}).out == bytes);
            const auto got = json::parse(run({"get", "key one", "-o", folder / "out", "--json"}).out);
            CHECK(got["bytes"] == bytes.size());
            CHECK(read_file(folder / "out") == bytes);

            CHECK(run({"rm", "key one"}).out == "removed key one\n");
            const auto gone = run({"rm", "key one"});
            CHECK(gone.code == 1);
            CHECK(gone.one_sentence());
        }
        const auto from_stdin = json::parse(run({"put", "piped", "-", "--json"}, binary(3)).out);
        CHECK(from_stdin["outcome"] == "stored");
        CHECK(from_stdin["bytes"] == 3 * 256);
        CHECK(run({"get", "piped"}).out == binary(3));
        CHECK(run({"rm", "piped"}).code == 0);
    }
}

TEST_CASE("a miss is a sentence and exit code 1, and writes nothing") {
    const Pool pool;
    const TempFolder folder;
    const auto get = cli({"get", "nothing", "-o", folder / "out", "--pool", pool.uri()});
    CHECK(get.code == 1);
    CHECK(get.one_sentence());
    CHECK(contains(get.errors, "default/cli does not hold nothing"));
    CHECK_FALSE(std::filesystem::exists(folder / "out"));
    CHECK(cli({"exists", "nothing", "--pool", pool.uri()}).code == 1);
    const auto some = json::parse(cli({"rm", "nothing", "--json", "--pool", pool.uri()}).out);
    CHECK(some["blocks"][0]["outcome"] == "miss");
}

TEST_CASE("ls pages through more blocks than one message names, and stops at its limit") {
    const Pool pool;
    const auto client = client::PoolClient::open(pool.uri(), {.model = "many",
                                                              .dtype = "bytes",
                                                              .layout = "opaque",
                                                              .engine = "cmpool-cli",
                                                              .block_tokens = 0,
                                                              .group_blocks = 1});
    REQUIRE(client);
    constexpr std::size_t kCount = 2500;
    std::vector<client::PutItem> items;
    const Bytes from[] = {as_bytes("x")};
    for (std::size_t index = 0; index < kCount; ++index) {
        items.push_back({.key = (*client)->key(as_bytes(std::to_string(index))).value(), .from = from});
    }
    REQUIRE((*client)->put(items).count(client::Outcome::Stored) == kCount);

    const auto ls = [&](const std::string& limit) {
        return json::parse(
            cli({"ls", "--namespace", "many", "--limit", limit, "--json", "--pool", pool.uri()}).out);
    };
    const auto all = ls("100000");
    CHECK(all["blocks"].size() == kCount);
    CHECK(all["complete"] == true);
    const auto some = ls("1500");
    CHECK(some["blocks"].size() == 1500);
    CHECK(some["complete"] == false);
}

TEST_CASE("stats counts what was done, in JSON by name and for people in units") {
    const Pool pool;
    const std::vector<std::string> at{"--pool", pool.uri()};
    REQUIRE(cli({"put", "a", "-", "--pool", pool.uri()}, binary(4)).code == 0);
    REQUIRE(cli({"put", "a", "-", "--pool", pool.uri()}, binary(4)).code == 0);
    REQUIRE(cli({"get", "a", "--pool", pool.uri("?transport=tcp")}).code == 0);
    const auto stats = json::parse(cli({"stats", "--json", "--pool", pool.uri()}).out);
    for (const auto& [name, value] : stats.items()) CHECK_MESSAGE(value.is_number_unsigned(), name);
    CHECK(stats["capacity_bytes"] == 64 << 20);
    CHECK(stats["blocks"] == 1);
    CHECK(stats["put_stored"] == 1);
    CHECK(stats["put_present"] == 1);
    CHECK(stats["get_hits"] == 1);
    CHECK(stats["clients"] == 1);

    const auto table = cli({"stats", "--pool", pool.uri()});
    CHECK(table.code == 0);
    CHECK(contains(table.out, "node testnode"));
    CHECK(contains(table.out, "64 MiB"));
    CHECK(contains(table.out, "100.0 %"));
    CHECK_FALSE(contains(table.out, "\nothers\n"));  // each statistic has its place
}

TEST_CASE("doctor finds a healthy pool healthy, leaves no block, and tells its transport") {
    const Pool pool;
    for (const std::string transport : {"shm", "tcp"}) {
        const auto ended = cli({"doctor", "--json", "--pool", pool.uri("?transport=" + transport)});
        CHECK(ended.code == 0);
        const auto report = json::parse(ended.out);
        CHECK(report["ok"] == true);
        std::map<std::string, json> checks;
        for (const auto& check : report["checks"]) checks[check["name"]] = check;
        CHECK(checks["reachable"]["status"] == "ok");
        CHECK(checks["round trip"]["status"] == "ok");
        CHECK(contains(checks["round trip"]["detail"], "put"));
        CHECK(checks["tenant"]["status"] == "warn");
        CHECK(contains(checks["transport"]["detail"], transport));
        // Who shares the pool's uid is told so, where the kernel knows.
        CHECK(checks.contains("uid") == (transport == "shm"));
        CHECK(checks.contains("huge pages") == (transport == "shm"));
    }
    CHECK(contains(cli({"doctor", "--pool", pool.uri()}).out, " 0 fail\n"));
    CHECK(json::parse(cli({"stats", "--json", "--pool", pool.uri()}).out)["blocks"] == 0);
}

TEST_CASE("wrong use is one sentence, exit code 2, and reaches no pool") {
    const std::vector<std::pair<std::vector<std::string>, std::string>> wrong{
        {{}, "verb"},
        {{"bogus"}, "\"bogus\""},
        {{"stats", "--bogus"}, "\"--bogus\""},
        {{"stats", "stray"}, "\"stray\""},
        {{"put", "key"}, "FILE"},
        {{"get"}, "KEY"},
        {{"get", ""}, "empty"},
        {{"get", "digest:12"}, "64 hex digits"},
        {{"get", "key", "--json"}, "-o FILE"},
        {{"ls", "--limit", "0"}, "0"},
        {{"ls", "--limit", "many"}, "many"},
        {{"stats", "--deadline-ms", "-1"}, "-1"},
        {{"bench", "--op", "get,fly"}, "fly"},
        {{"bench", "--size", "4KiB,65MiB"}, "65MiB"},
        {{"bench", "--threads", "1,0"}, "0"},
        {{"bench", "--threads", "two"}, "two"},
        {{"bench", "--blocks", "0"}, "0"},
        {{"bench", "--compare", "memcached"}, "memcached"},
        {{"bench", "--full", "--op", "put,get"}, "--op get"},
        {{"bench", "--full", "--compare", "redis"}, "expected no --compare"},
        {{"bench", "--full", "--blocks", "5"}, "expected no --blocks"},
        {{"bench", "--op", "memory,get"}, "alone"},
        {{"bench", "--op", "memory", "--size", "4KiB,8KiB"}, "one --size"},
        {{"bench", "--op", "memory", "--compare", "redis"}, "expected no --compare"},
        {{"stats", "--pool", "nonsense"}, "cmpool://HOST:PORT"},
        {{"stats", "--pool", "cmpool://host:0"}, "a port from 1 to 65535"},
        {{"stats", "--pool", "cmpool://host:1?transport=pigeon"}, "pigeon"},
    };
    for (const auto& [arguments, part] : wrong) {
        const auto ended = cli(arguments);
        CAPTURE(ended.errors);
        CHECK(ended.code == 2);
        CHECK(ended.one_sentence());
        CHECK(contains(ended.errors, part));
        CHECK(contains(ended.errors, "--help"));
        CHECK(ended.out.empty());
    }
}

TEST_CASE("each verb has help with an example") {
    for (const std::string verb : {"stats", "put", "get", "ls", "exists", "rm", "doctor", "bench"}) {
        const auto help = cli({verb, "--help"});
        CHECK(help.code == 0);
        CHECK(contains(help.out, "Example: cmpool-cli " + verb));
        CHECK(contains(cli({"--help"}).out, verb));
    }
    CHECK(cli({"--version"}).out.starts_with("cmpool-cli "));
}

TEST_CASE("a file that cannot be a block is refused with what was expected and what was seen") {
    const Pool pool;
    const TempFolder folder;
    write_file(folder / "empty", "");
    write_file(folder / "huge", "");
    std::filesystem::resize_file(folder / "huge", (64 << 20) + 1);
    std::filesystem::resize_file(folder / "empty", 0);
    write_file(folder / "segment", "");
    std::filesystem::resize_file(folder / "segment", 16 << 20);
    for (const auto& [file, part] : {std::pair{"empty", "saw nothing"}, std::pair{"huge", "saw more"},
                                     std::pair{"absent", "No such file"}, std::pair{".", "Is a directory"},
                                     std::pair{"segment", "segments of 4 MiB, saw 16 MiB"}}) {
        const auto ended = cli({"put", "key", folder / file, "--pool", pool.uri()});
        CAPTURE(ended.errors);
        CHECK(ended.code == 1);
        CHECK(ended.one_sentence());
        CHECK(contains(ended.errors, part));
    }
    REQUIRE(cli({"put", "key", "-", "--pool", pool.uri()}, "x").code == 0);
    const auto full = cli({"get", "key", "-o", "/dev/full", "--pool", pool.uri()});
    CHECK(full.code == 1);
    CHECK(contains(full.errors, "No space left"));
}

TEST_CASE("no server is said at once, and a frozen one after the deadline, with what to do") {
    const auto nobody = address_in_use();
    for (const std::string verb : {"stats", "ls", "doctor"}) {
        const auto begun = std::chrono::steady_clock::now();
        const auto ended = cli({verb, "--deadline-ms", "15000", "--pool", nobody});
        CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(10));
        CHECK(ended.code == 1);
        const auto& said = verb == "doctor" ? ended.out : ended.errors;
        CHECK(contains(said, "expected a pool at 127.0.0.1:"));
        CHECK(contains(said, "refused"));
        CHECK(contains(said, "start cmpoold"));
    }
    Pool pool;
    pool.daemon().signal(SIGSTOP);
    const auto ended = cli({"stats", "--deadline-ms", "100", "--pool", pool.uri()});
    CHECK(ended.code == 1);
    CHECK(ended.one_sentence());
    CHECK(contains(ended.errors, "did not answer in time"));
    CHECK(contains(ended.errors, "start cmpoold"));
}

// Libraries log to standard output unless told otherwise, where a block or JSON is expected.
TEST_CASE("a server of another kind is told apart in one sentence, and standard output stays clean") {
    const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t bytes = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(::bind(listener.get(), generic, bytes) == 0);
    REQUIRE(::listen(listener.get(), 1) == 0);
    REQUIRE(::getsockname(listener.get(), generic, &bytes) == 0);
    const std::jthread web_server([&] {
        pollfd came{.fd = listener.get(), .events = POLLIN, .revents = 0};
        if (::poll(&came, 1, 20'000) <= 0) return;
        const UniqueFd peer(::accept(listener.get(), nullptr, nullptr));
        const std::string page(200, 'H');
        (void)!::write(peer.get(), page.data(), page.size());
        came.fd = peer.get();
        for (char scratch[512];
             ::poll(&came, 1, 20'000) > 0 && ::read(peer.get(), scratch, sizeof scratch) > 0;) {
        }
    });
    const auto ended =
        cli({"get", "key", "--pool", fmt::format("cmpool://127.0.0.1:{}", ntohs(address.sin_port))});
    CHECK(ended.code == 1);
    CHECK(ended.one_sentence());
    CHECK(contains(ended.errors, "expected a pool at 127.0.0.1:"));
    CHECK(ended.out.empty());
}

TEST_CASE("a namespace that others opened with other bytes is refused, and both sides are printed") {
    const Pool pool;
    const client::NamespaceSpec theirs{.model = "cli",
                                       .dtype = "bf16",
                                       .layout = "opaque",
                                       .engine = "an-engine",
                                       .block_tokens = 0,
                                       .group_blocks = 1};
    REQUIRE(client::PoolClient::open(pool.uri(), theirs));
    const auto ended = cli({"put", "key", "-", "--pool", pool.uri()}, "x");
    CHECK(ended.code == 1);
    CHECK(ended.one_sentence());
    for (const std::string part : {"fingerprint", "bf16", "bytes", "an-engine", "cmpool-cli"}) {
        CHECK(contains(ended.errors, part));
    }
    CHECK(contains(ended.errors, to_hex(theirs.fingerprint().bytes)));
    CHECK(cli({"put", "key", "-", "--namespace", "mine", "--pool", pool.uri()}, "x").code == 0);
}

TEST_CASE("another's tenant is denied, with its name") {
    const Pool pool;
    REQUIRE(cli({"put", "key", "-", "--pool", pool.uri("?tenant=acme&key=right")}, "x").code == 0);
    const auto ended = cli({"get", "key", "--pool", pool.uri("?tenant=acme&key=wrong")});
    CHECK(ended.code == 1);
    CHECK(ended.one_sentence());
    CHECK(contains(ended.errors, "acme"));
    CHECK(cli({"get", "key", "--tenant", "acme", "--pool", pool.uri("?key=right")}).out == "x");
    CHECK(cli({"get", "key", "--pool", pool.uri()}).code == 1);
}
