// Files of a running pool are cut short by somebody who should not have.
#include "faults.h"

#include <filesystem>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;

namespace {

std::vector<std::filesystem::path> files_below(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> files;
    for (const auto& each : std::filesystem::recursive_directory_iterator(folder)) {
        if (each.is_regular_file()) files.push_back(each.path());
    }
    return files;
}

}  // namespace

TEST_CASE(
    "whatever file of a running pool is cut short, it serves on, and no block was ever in one with a name") {
    for (const bool to_nothing : {false, true}) {
        CAPTURE(to_nothing);
        Daemon daemon({"--capacity", "16M"});
        const auto local = testing::open_pool(daemon.uri("?transport=shm&deadline_ms=5000"));
        const auto remote = testing::open_pool(daemon.uri("?transport=tcp&deadline_ms=5000"));
        CHECK(testing::round_trip(*local, 1) == "");
        std::uint64_t biggest = 0;
        std::size_t cut = 0;
        for (const auto& folder : {daemon.runtime_folder(), daemon.data_folder()}) {
            for (const auto& file : files_below(folder)) {
                CAPTURE(file.string());
                const auto bytes = std::filesystem::file_size(file);
                if (folder == daemon.runtime_folder()) biggest = std::max<std::uint64_t>(biggest, bytes);
                std::filesystem::resize_file(file, to_nothing ? 0 : bytes / 2);
                ++cut;
                CHECK(testing::round_trip(*local, 100 + cut) == "");
                CHECK(testing::round_trip(*remote, 200 + cut) == "");
            }
        }
        CHECK(cut >= 5);
        CHECK(biggest < 1000);
        // Meta may have lost its memory: then it says so to who asks, and nobody else notices.
        for (int number = 0; number < 20; ++number) {
            auto opened = client::PoolClient::open(daemon.uri("?transport=tcp&deadline_ms=2000"),
                                                   testing::plain_namespace(fmt::format("new-{}", number)));
            if (opened && (*opened)->status().ready)
                CHECK(testing::round_trip(**opened, static_cast<std::uint64_t>(number)) == "");
        }
        CHECK(testing::round_trip(*local, 3) == "");
        CHECK(testing::round_trip(*remote, 4) == "");
        CHECK(daemon.stop());

        // The next one starts, or says what to do.
        testing::Process next({CMPOOL_DAEMON, "--listen", "127.0.0.1:0", "--capacity", "16M", "--runtime-dir",
                               daemon.runtime_folder(), "--data-dir", daemon.data_folder()});
        const auto line = next.read_line();
        if (line) {
            CHECK(line->starts_with("ready"));
            next.signal(SIGTERM);
            CHECK(next.wait() == 0);
        } else {
            CHECK(next.wait() == 1);
            CHECK_MESSAGE(testing::times_in(next.errors(), "move the folder away") == 1, next.errors());
        }
    }
}
