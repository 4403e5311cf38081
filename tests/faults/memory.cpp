// Less memory than was asked for: said at the start, not by a signal later.
#include "faults.h"

#include <fstream>

#include <sys/stat.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::times_in;

namespace {

struct Home {
    testing::TempFolder runtime{"/dev/shm"};
    testing::TempFolder data;

    /// What it says when it refuses to start.
    std::string refused(std::vector<std::string> wrapper, const std::vector<std::string>& options) const {
        wrapper.insert(wrapper.end(), {CMPOOL_DAEMON, "--listen", "127.0.0.1:0", "--runtime-dir",
                                       runtime / "run", "--data-dir", data / "data"});
        wrapper.insert(wrapper.end(), options.begin(), options.end());
        testing::Process daemon(wrapper);
        const auto code = daemon.wait();
        CHECK(code == 1);
        CHECK_MESSAGE(times_in(daemon.errors(), "cmpoold: expected") == 1, daemon.errors());
        return daemon.errors();
    }
};

/// A memory cgroup of this test's own with a limit, gone with this.
class Group {
public:
    explicit Group(std::uint64_t bytes) {
        std::ifstream ours("/proc/self/cgroup");
        for (std::string line; std::getline(ours, line);) {
            const bool second = line.starts_with("0::");
            const auto first = line.find(":memory:");
            if (!second && first == std::string::npos) continue;
            const auto path =
                second ? "/sys/fs/cgroup" + line.substr(3) : "/sys/fs/cgroup/memory" + line.substr(first + 8);
            const auto folder = fmt::format("{}/cmpool-test-{}", path, ::getpid());
            if (::mkdir(folder.c_str(), 0755) != 0) continue;
            folder_ = folder;
            std::ofstream limit(folder + (second ? "/memory.max" : "/memory.limit_in_bytes"));
            limit << bytes << std::flush;
            if (limit) return;
            ::rmdir(folder.c_str());
            folder_.clear();
        }
    }
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;
    ~Group() {
        if (!folder_.empty()) ::rmdir(folder_.c_str());
    }
    [[nodiscard]] bool made() const { return !folder_.empty(); }
    [[nodiscard]] std::vector<std::string> inside() const {
        return {"/bin/sh", "-c", fmt::format("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", folder_)};
    }

private:
    std::string folder_;
};

}  // namespace

TEST_CASE("an address space that is too small is refused with both sizes") {
    const Home home;
    const auto said = home.refused(testing::under_limit("-v 1500000"), {"--capacity", "1G"});
    CHECK_MESSAGE(times_in(said, "ulimit -v") == 1, said);
    CHECK_MESSAGE(times_in(said, "--capacity") == 1, said);
}

TEST_CASE(
    "a /dev/shm that is too small for the blocks, or for them and their index, is refused at the start") {
    const Home home;
    for (const char* size : {"8m", "16400k"}) {
        CAPTURE(size);
        const auto wrapper = testing::with_tmpfs(home.runtime.path(), size);
        if (!wrapper) return;
        const auto said = home.refused(*wrapper, {"--capacity", "16M"});
        CHECK_MESSAGE(times_in(said, "index included") == 1, said);
        CHECK_MESSAGE(times_in(said, "free: give less with --capacity") == 1, said);
    }
}

TEST_CASE("more memory than the host has is refused before any of it is taken") {
    const Home home;
    const auto wrapper = testing::with_tmpfs(home.runtime.path(), "900T");
    if (!wrapper) return;
    const auto said = home.refused(*wrapper, {"--capacity", "50T"});
    CHECK_MESSAGE(times_in(said, "left: give less with --capacity") == 1, said);
}

TEST_CASE("more memory than a container's limit is refused, not killed for") {
    const Home home;
    const Group group(128 * MiB);
    if (!group.made()) {
        MESSAGE("skipped: this user may not make a memory cgroup");
        return;
    }
    const auto said = home.refused(group.inside(), {"--capacity", "256M"});
    CHECK_MESSAGE(times_in(said, "container") == 1, said);
}
