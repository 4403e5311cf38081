#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

#include <nlohmann/json.hpp>

namespace cmpool::testing {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

inline constexpr std::uint64_t kTraceBlockTokens = 512;

/// `nodes` real ones, the first of which keeps meta.
struct Cluster {
    explicit Cluster(std::size_t count, std::vector<std::string> options = {}) : more(std::move(options)) {
        while (nodes.size() < count) add();
        REQUIRE(comes_true([&] { return all_know(count); }));
    }
    void add(const std::vector<std::string>& own = {}) {
        std::vector<std::string> options{"--capacity", "64M",
                                         "--shards",   "1",
                                         "--name",     fmt::format("node-{}", nodes.size()),
                                         "--host",     fmt::format("host-{}", nodes.size())};
        if (!nodes.empty()) options.insert(options.end(), {"--meta", nodes.front()->address()});
        options.insert(options.end(), more.begin(), more.end());
        options.insert(options.end(), own.begin(), own.end());
        nodes.push_back(std::make_unique<Daemon>(options));
        watchers[nodes.back().get()] = open_pool(nodes.back()->uri("?transport=tcp"));
    }
    /// Whether a client of that node knows of so many that serve.
    static bool knows(client::PoolClient& pool, std::size_t serving) {
        pool.progress();
        const auto view = pool.view();
        return serving == static_cast<std::size_t>(std::ranges::count_if(
                              view.members, [](const auto& member) { return member.owns(); }));
    }
    /// Of one node, by that node's or another's client: what is asked without naming a member may be
    /// answered by any.
    [[nodiscard]] std::uint64_t of(std::size_t node, std::string_view name, std::size_t asked = 0) {
        for (const auto& member : watchers.at(nodes[asked].get())->member_stats({.deadline = 2s})) {
            if (member.member.name != fmt::format("node-{}", node)) continue;
            for (const auto& [each, value] : member.statistics) {
                if (each == name) return value;
            }
            if (member.trouble) MESSAGE(member.trouble->detail);
        }
        FAIL("no statistic " << std::string(name) << " of node " << node);
        return 0;
    }
    [[nodiscard]] std::uint64_t sum(std::string_view name) {
        return statistic_of_all(*watchers.at(nodes.front().get()), name);
    }
    /// Whether so many nodes answer, and each says that so many serve.
    [[nodiscard]] bool all_know(std::size_t serving) {
        std::size_t agree = 0;
        for (const auto& member : watchers.at(nodes.front().get())->member_stats({.deadline = 2s})) {
            for (const auto& [name, value] : member.statistics)
                agree += name == "members" && value == serving ? 1 : 0;
        }
        return agree == serving;
    }
    /// So many serve, and nobody has anything to bring to anybody.
    [[nodiscard]] bool repaired(std::size_t serving) {
        return all_know(serving) && sum("repair_pending_groups") == 0;
    }
    /// How long it takes until all others know that one of them is gone.
    [[nodiscard]] std::chrono::milliseconds until_forgotten() {
        const auto begun = SteadyClock::now();
        CHECK(comes_true([&] { return all_know(nodes.size() - 1); }));
        return std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begun);
    }

    std::vector<std::string> more;
    std::vector<std::unique_ptr<Daemon>> nodes;
    std::map<const Daemon*, std::unique_ptr<client::PoolClient>> watchers;
};

struct Cli {
    explicit Cli(std::vector<std::string> arguments)
        : process([&] {
              arguments.insert(arguments.begin(), CMPOOL_CLI);
              return arguments;
          }()) {}
    /// Its last line, once it has ended, and ended well where that matters.
    nlohmann::json json(bool well = true) {
        std::string last;
        while (const auto line = process.read_line(120s)) last = *line;
        const auto code = process.wait();
        REQUIRE(code);
        if (well) CHECK_MESSAGE(*code == 0, process.errors());
        return nlohmann::json::parse(last, nullptr, false);
    }
    Process process;
};

/// Tokens that a trace's requests find, in a pool that loses nothing but, at half time, everything or not.
inline std::uint64_t reusable_tokens(const std::filesystem::path& trace, bool lose_everything) {
    std::ifstream file(trace);
    std::vector<nlohmann::json> requests;
    for (std::string line; std::getline(file, line);) requests.push_back(nlohmann::json::parse(line));
    std::set<std::uint64_t> there;
    std::uint64_t tokens = 0;
    for (std::size_t at = 0; at < requests.size(); ++at) {
        if (lose_everything && at == requests.size() / 2) there.clear();
        std::uint64_t hits = 0;
        bool running = true;
        for (const auto& id : requests[at]["hash_ids"]) {
            running = running && there.contains(id.get<std::uint64_t>());
            hits += running ? 1 : 0;
        }
        for (const auto& id : requests[at]["hash_ids"]) there.insert(id.get<std::uint64_t>());
        tokens += std::min(hits * kTraceBlockTokens, requests[at]["input_length"].get<std::uint64_t>());
    }
    return tokens;
}

[[nodiscard]] inline bool doctor_warns_of_meta(const std::string& uri) {
    const auto seen = Cli({"doctor", "--json", "--pool", uri}).json(false);
    return std::ranges::any_of(seen["checks"], [](const auto& check) { return check["name"] == "meta"; });
}

}  // namespace cmpool::testing
