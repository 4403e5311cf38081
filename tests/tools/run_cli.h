#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <cmpool/testing/process.h>
#include <cmpool/testing/temp_folder.h>

#include <doctest/doctest.h>

// The real cmpool-cli and the real cmpoold, for tests of what they print.
namespace cmpool::testing {

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}
inline void write_file(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

/// What a run of cmpool-cli left behind.
struct Ended {
    int code = -1;
    std::string out;
    std::string errors;

    /// One sentence on stderr, under the program's name.
    [[nodiscard]] bool one_sentence() const {
        return errors.starts_with("cmpool-cli: ") && std::count(errors.begin(), errors.end(), '\n') == 1;
    }
};

/// Runs cmpool-cli with `input` as its standard input. `set`: variables of its environment, as NAME=VALUE.
inline Ended cli(const std::vector<std::string>& arguments, const std::string& input = {},
                 const std::vector<std::string>& set = {}) {
    const TempFolder folder;
    write_file(folder / "in", input);
    // Files, not pipes: they hold any bytes, and as many as there are.
    std::vector<std::string> command{"/usr/bin/env"};
    command.insert(command.end(), set.begin(), set.end());
    for (const std::string& word : {std::string("/bin/sh"), std::string("-c"),
                                    std::string("in=$1; out=$2; shift 2; exec \"$0\" \"$@\" <$in >$out"),
                                    std::string(CMPOOL_CLI), folder / "in", folder / "out"})
        command.push_back(word);
    command.insert(command.end(), arguments.begin(), arguments.end());
    Process process(command);
    const auto code = process.wait();
    REQUIRE_MESSAGE(code, "cmpool-cli did not end");
    return {*code, read_file(folder / "out"), process.errors()};
}

/// A pool of its own, with folders that go when it does.
class Pool {
public:
    Pool()
        : daemon_({CMPOOL_DAEMON, "--capacity", "64M", "--shards", "2", "--listen", "127.0.0.1:0",
                   "--runtime-dir", runtime_ / "run", "--data-dir", data_ / "data", "--name", "testnode"}) {
        const auto line = daemon_.read_line();
        REQUIRE_MESSAGE(line, "cmpoold was never ready");
        const std::string ready = "ready ";
        REQUIRE(line->starts_with(ready));
        uri_ = line->substr(ready.size());
    }
    [[nodiscard]] std::string uri(const std::string& query = {}) const { return uri_ + query; }
    [[nodiscard]] Process& daemon() { return daemon_; }
    [[nodiscard]] std::string runtime_folder() const { return runtime_ / "run"; }

private:
    TempFolder runtime_{"/dev/shm"};
    TempFolder data_;
    Process daemon_;
    std::string uri_;
};

}  // namespace cmpool::testing
