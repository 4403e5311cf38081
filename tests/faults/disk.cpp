// A data folder on a disk that is full.
#include "faults.h"

#include <fstream>

#include <fcntl.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;

namespace {

/// Writes a namespace's entry again and again until that fails, or is `well`.
bool change_until(client::PoolClient& pool, bool well) {
    std::uint64_t change = 0;
    return testing::comes_true(
        [&] {
            const std::uint64_t quota = MiB + ++change * MiB % GiB;
            return pool.change_namespace("test", "1", {.quota = {.bytes = quota}}, {.deadline = 5s})
                       .has_value() == well;
        },
        20s);
}

}  // namespace

TEST_CASE(
    "with a full data folder serving goes on, one line says so, and with room again meta writes again") {
    const testing::TempFolder disk;
    const auto wrapper = testing::with_tmpfs(disk.path(), "32m");
    if (!wrapper) return;
    Daemon daemon({"--capacity", "16M", "--data-dir", disk / "data"}, *wrapper);
    const auto pool = testing::open_pool(daemon.uri("?transport=tcp&deadline_ms=5000"));
    const auto inside = fmt::format("/proc/{}/root{}", daemon.process().pid(), disk / "rest");
    {
        const UniqueFd rest(::open(inside.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        REQUIRE(rest);
        const std::vector<char> some(64 * KiB);
        while (::write(rest.get(), some.data(), some.size()) > 0) continue;
        REQUIRE(errno == ENOSPC);
    }
    CHECK(change_until(*pool, false));
    CHECK(testing::statistic(*pool, "meta_store_failures") > 0);
    CHECK(testing::round_trip(*pool, 1) == "");
    // Namespaces that exist are opened as ever, by others too; a new one is refused with a reason.
    CHECK(testing::round_trip(*testing::open_pool(daemon.uri("?transport=tcp&deadline_ms=5000")), 2) == "");
    const auto fresh =
        testing::open_pool(daemon.uri("?transport=tcp&deadline_ms=2000"), testing::plain_namespace("fresh"));
    CHECK_FALSE(fresh->status().ready);
    REQUIRE(fresh->status().trouble);
    CHECK(fresh->status().trouble->detail.find("8 MiB free") != std::string::npos);
    REQUIRE(::unlink(inside.c_str()) == 0);
    CHECK(change_until(*pool, true));
    CHECK(testing::comes_true([&] {
        fresh->progress();
        return fresh->status().ready;
    }));
    CHECK(testing::round_trip(*fresh, 3) == "");
    CHECK(testing::round_trip(*pool, 4) == "");
    CHECK(daemon.stop());
    CHECK(testing::times_in(daemon.process().errors(), "meta_store_failed doing writing") == 1);
    CHECK(testing::times_in(daemon.process().errors(), "meta_store_well doing writing") == 1);
}

// The kernel's way to say that is a signal that ends a process.
TEST_CASE("files that may not grow are refused with a sentence, and nothing is killed by a signal") {
    const testing::TempFolder runtime("/dev/shm");
    const testing::TempFolder data;
    auto command = testing::under_limit("-f 16");
    command.insert(command.end(), {CMPOOL_DAEMON, "--listen", "127.0.0.1:0", "--capacity", "16M",
                                   "--runtime-dir", runtime / "run", "--data-dir", data / "data"});
    testing::Process daemon(command);
    CHECK(daemon.wait() == 1);
    CHECK_MESSAGE(testing::times_in(daemon.errors(), "cmpoold: expected") == 1, daemon.errors());
    CHECK_MESSAGE(testing::times_in(daemon.errors(), "ulimit -f") == 1, daemon.errors());
}
