#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <array>
#include <map>

#include <cmpool/base/units.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

/// Statistics of which there may be any number: how their names begin, and what they are about.
struct Family {
    std::string_view prefix;
    std::string_view title;
};
constexpr std::array<Family, 3> kFamilies{{{"messages_", "messages"},
                                           {"namespace_", "namespaces, by number"},
                                           {"domain_", "waits for a turn, by domain"}}};

using Values = std::map<std::string, std::uint64_t, std::less<>>;

/// A statistic as a person reads it.
struct Line {
    std::string_view name;
    std::string_view title;
    std::string_view of = {};  ///< the one that it is a part of
};
struct Group {
    std::string_view title;
    std::vector<Line> lines;
};

// A value that no group names is shown too, in a group of its own: a newer pool may have more.
const std::array<Group, 9>& groups() {
    static const std::array<Group, 9> all{{
        {"memory",
         {{"capacity_bytes", "capacity"},
          {"block_bytes", "in blocks", "capacity_bytes"},
          {"writing_bytes", "being written", "capacity_bytes"},
          {"doomed_bytes", "removed, still read", "capacity_bytes"},
          {"leased_bytes", "under lease", "capacity_bytes"},
          {"cooling_bytes", "of it, run out", "capacity_bytes"},
          {"segment_bytes", "segment"},
          {"segments_ready", "segments ready"},
          {"domains", "domains"},
          {"private_bytes", "own, beside segments"},
          {"index_bytes", "in the index", "private_bytes"},
          {"private_start_bytes", "own, at the start"}}},
        {"blocks",
         {{"blocks", "now"},
          {"evicted_blocks", "evicted"},
          {"evicted_bytes", "evicted bytes"},
          {"removed_blocks", "removed"},
          {"moved_blocks", "moved within a domain"},
          {"owners_refused", "quotas without room"},
          {"corrupt_blocks", "corrupt"}}},
        {"reads",
         {{"match_calls", "matches"},
          {"match_blocks_asked", "blocks asked for"},
          {"match_blocks_hit", "blocks matched", "match_blocks_asked"},
          {"get_hits", "get hits", "get_hits+get_misses"},
          {"get_misses", "get misses", "get_hits+get_misses"},
          {"get_bytes", "bytes read"},
          {"stale_reads", "overtaken by eviction"},
          {"broken_seals", "sealed, did not open"}}},
        {"writes",
         {{"put_stored", "stored"},
          {"put_present", "present already"},
          {"put_refused", "refused"},
          {"put_orphan", "without their parent"},
          {"put_changed", "changed on the way"},
          {"put_bytes", "bytes written"}}},
        {"copies of other members' blocks",
         {{"near_blocks", "now"},
          {"near_bytes", "in bytes", "near_capacity_bytes"},
          {"near_capacity_bytes", "at most"},
          {"near_hits", "blocks read from them"},
          {"near_stored", "brought"},
          {"near_refused", "that found no room"},
          {"near_evicted_blocks", "evicted, or old"},
          {"near_kept_blocks", "that belong here now"}}},
        {"leases",
         {{"leases", "now"},
          {"leases_given", "given"},
          {"leases_expired", "expired"},
          {"leases_refused", "refused"}}},
        {"cluster",
         {{"epoch", "epoch"},
          {"members", "members that own blocks"},
          {"meta_questions", "questions to meta"},
          {"meta_store_failures", "that its store failed"},
          {"meta_silent", "meta does not answer"},
          {"repair_pending_groups", "groups to be looked after"},
          {"repair_blocks", "blocks sent to members"},
          {"repair_bytes", "of them, bytes"},
          {"repair_refused_blocks", "that found no room"},
          {"repair_failures", "groups put off"}}},
        {"clients",
         {{"clients", "now"},
          {"client_pages", "with mapped memory"},
          {"clients_refused", "refused"},
          {"accepts_refused", "refused: no descriptor"},
          {"clients_silent", "dropped: silent"},
          {"clients_broken", "dropped: broken"},
          {"clients_stuck", "dropped: stuck"},
          {"slowed_answers", "asked to hold back"}}},
        {"serving threads",
         {{"processor_ns", "ran"},
          {"processor_wait_ns", "had no processor", "processor_ns+processor_wait_ns"}}},
    }};
    return all;
}

std::uint64_t value_of(const Values& values, std::string_view name) {
    if (const auto plus = name.find('+'); plus != std::string_view::npos) {
        return value_of(values, name.substr(0, plus)) + value_of(values, name.substr(plus + 1));
    }
    const auto found = values.find(name);
    return found == values.end() ? 0 : found->second;
}

std::string text_of(std::string_view name, std::uint64_t value) {
    if (name.ends_with("_ns") && value >= 1'000'000'000)
        return fmt::format("{:.1f} s", static_cast<double>(value) / 1e9);
    if (name.ends_with("_ns")) return fmt::format("{:.1f} us", static_cast<double>(value) / 1e3);
    return name.ends_with("_bytes") ? format_bytes(value) : grouped(value);
}

void print_line(std::string_view title, const std::string& value, const std::string& more = {}) {
    fmt::print("  {:<24}{:>16}{}\n", title, value, more);
}

void print_group(const Group& group, const Values& values) {
    fmt::print("\n{}\n", group.title);
    for (const auto& line : group.lines) {
        if (!values.contains(line.name)) continue;
        const auto value = values.find(line.name)->second;
        const auto whole = line.of.empty() ? 0 : value_of(values, line.of);
        const double percent = whole == 0 ? 0 : 100 * static_cast<double>(value) / static_cast<double>(whole);
        print_line(line.title, text_of(line.name, value),
                   whole == 0 ? std::string{} : fmt::format("{:>8.1f} %", percent));
    }
}

// Without its zeros: most of them say that nobody asked.
void print_family(const Family& family, const Values& values) {
    bool begun = false;
    for (auto at = values.lower_bound(family.prefix);
         at != values.end() && at->first.starts_with(family.prefix); ++at) {
        if (at->second == 0) continue;
        if (!begun) fmt::print("\n{}\n", family.title);
        begun = true;
        std::string title = at->first.substr(family.prefix.size());
        std::ranges::replace(title, '_', ' ');
        print_line(title, text_of(at->first, at->second));
    }
}

void print_others(Values values) {
    for (const auto& group : groups()) {
        for (const auto& line : group.lines) values.erase(std::string(line.name));
    }
    for (const Family& family : kFamilies)
        std::erase_if(values, [&](const auto& one) { return one.first.starts_with(family.prefix); });
    if (values.empty()) return;
    fmt::print("\nothers\n");
    for (const auto& [name, value] : values) print_line(name, text_of(name, value));
}

void print_stats(const Values& values, const client::Status& status, const std::string& address) {
    fmt::print("pool {}: node {}, cmpool {}, by {}\n", address, status.node, status.version,
               status.transport);
    fmt::print("blocks come by {}: {}\n", status.kv,
               status.kv == status.transport && status.transport == "shm" ? status.plane : status.kv_plane);
    for (const auto& group : groups()) print_group(group, values);
    for (const Family& family : kFamilies) print_family(family, values);
    print_others(values);
}

/// What a member's line shows of it.
struct Column {
    std::string_view title;
    std::string_view name;
};
constexpr std::array<Column, 7> kColumns{{{"CAPACITY", "capacity_bytes"},
                                          {"IN BLOCKS", "block_bytes"},
                                          {"BLOCKS", "blocks"},
                                          {"HITS", "get_hits"},
                                          {"MISSES", "get_misses"},
                                          {"STORED", "put_stored"},
                                          {"EVICTED", "evicted_blocks"}}};

/// A line for each member, and their sum.
void print_members(const std::vector<client::MemberStatistics>& members, std::uint64_t epoch) {
    fmt::print("{:<20}", "MEMBER");
    for (const auto& column : kColumns) fmt::print("{:>13}", column.title);
    fmt::print("\n");
    std::array<std::uint64_t, kColumns.size()> sums{};
    const auto print_row = [](std::string_view name, const std::array<std::uint64_t, kColumns.size()>& row) {
        fmt::print("{:<20}", name);
        for (std::size_t at = 0; at < row.size(); ++at)
            fmt::print("{:>13}", text_of(std::string(kColumns[at].name), row[at]));
        fmt::print("\n");
    };
    for (const auto& [member, statistics, trouble] : members) {
        if (trouble) {
            fmt::print("{:<20}{}\n", member.name, trouble->detail);
            continue;
        }
        std::array<std::uint64_t, kColumns.size()> row{};
        for (std::size_t at = 0; at < row.size(); ++at) {
            for (const auto& [name, value] : statistics) {
                if (name == kColumns[at].name) row[at] = value;
            }
            sums[at] += row[at];
        }
        print_row(member.name, row);
    }
    print_row("all", sums);
    fmt::print("epoch {}\n", epoch);
}

Result<int> cluster_stats(client::PoolClient& pool, bool json) {
    const auto members = pool.member_stats();
    const std::uint64_t epoch = pool.view().epoch;
    if (!json) {
        print_members(members, epoch);
        return kSuccess;
    }
    Json all = Json::array();
    for (const auto& [member, statistics, trouble] : members) {
        Json object{{"name", member.name}, {"address", member.address}};
        if (trouble) object["trouble"] = trouble->detail;
        for (const auto& [name, value] : statistics) object[name] = value;
        all.push_back(std::move(object));
    }
    print_json({{"epoch", epoch}, {"members", std::move(all)}});
    return kSuccess;
}

Result<int> stats(const Common& common, bool cluster) {
    const auto uri = common.plain_uri();
    if (!uri) return fail(uri.error());
    const auto pool = open_pool(*uri, tool_namespace({}));
    if (!pool) return fail(pool.error());
    if (cluster) return cluster_stats(**pool, common.json);
    const auto seen = (*pool)->stats();
    if (!seen) return fail(seen.error());
    if (common.json) {
        Json object = Json::object();
        for (const auto& [name, value] : *seen) object[name] = value;
        print_json(object);
        return kSuccess;
    }
    Values values;
    for (const auto& [name, value] : *seen) values[name] = value;
    print_stats(values, (*pool)->status(), uri->address);
    return kSuccess;
}

}  // namespace

void add_stats(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("stats", "Shows what the pool holds and what it has been asked");
    const auto common = std::make_shared<Common>();
    const auto cluster = std::make_shared<bool>(false);
    verb->add_flag("--cluster", *cluster, "Of every member, a line each");
    add_common(*verb, *common);
    verb->footer("Counts begin with the pool's start. Example: cmpool-cli stats --json");
    verb->callback([&run, common, cluster] { run = [=] { return stats(*common, *cluster); }; });
}

}  // namespace cmpool::cli
