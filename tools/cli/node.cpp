#include "connect.h"
#include "print.h"
#include "progress.h"
#include "verbs.h"

#include <algorithm>
#include <fstream>
#include <optional>

#include <cmpool/base/clock.h>
#include <cmpool/base/units.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <time.h>

namespace cmpool::cli {
namespace {

std::string_view name_of(model::MemberState state) {
    switch (state) {
        case model::MemberState::Serving:
            return "serving";
        case model::MemberState::Draining:
            return "draining";
        case model::MemberState::Down:
            return "down";
        case model::MemberState::Retired:
            return "retired";
    }
    return "?";
}

void print_table(const model::View& view) {
    fmt::print("{:<20}{:<24}{:<10}{:>7}  {:<14}{:<10}{}\n", "NAME", "ADDRESS", "STATE", "WEIGHT", "HOST",
               "ZONE", "ID");
    for (const auto& member : view.members) {
        fmt::print("{:<20}{:<24}{:<10}{:>7}  {:<14}{:<10}{:016x}\n", member.name, member.address,
                   name_of(member.state), member.weight, member.host, member.zone.empty() ? "-" : member.zone,
                   member.node_id);
    }
    fmt::print("epoch {}\n", view.epoch);
}

Json to_json(const model::View& view) {
    Json members = Json::array();
    for (const auto& member : view.members) {
        members.push_back({{"name", member.name},
                           {"address", member.address},
                           {"state", name_of(member.state)},
                           {"weight", member.weight},
                           {"host", member.host},
                           {"zone", member.zone},
                           {"node_id", fmt::format("{:016x}", member.node_id)},
                           {"incarnation", fmt::format("{:016x}", member.incarnation)}});
    }
    return {{"epoch", view.epoch}, {"members", std::move(members)}};
}

Result<std::unique_ptr<client::PoolClient>> open(const Common& common) {
    const auto uri = common.plain_uri();
    if (!uri) return fail(uri.error());
    return open_pool(*uri, tool_namespace({}));
}

Result<int> list(const Common& common) {
    const auto pool = open(common);
    if (!pool) return fail(pool.error());
    const auto view = (*pool)->view();
    common.json ? print_json(to_json(view)) : print_table(view);
    return kSuccess;
}

struct ChangeOptions {
    Common common;
    std::string who;
    std::uint32_t weight = 0;
    std::string cluster_key_file;
    client::MemberChange change;
};

/// Empty where there is no file.
Result<std::string> read_key(const std::string& path) {
    std::string key;
    if (path.empty()) return key;
    std::ifstream file(path);
    if (!std::getline(file, key))
        return fail(Errc::Invalid, "expected a file with the cluster's key, saw {}", path);
    return key;
}

Result<int> change(const ChangeOptions& options) {
    const auto key = read_key(options.cluster_key_file);
    if (!key) return fail(key.error());
    const auto pool = open(options.common);
    if (!pool) return fail(pool.error());
    const auto changed = (*pool)->change_member(options.who, options.change, *key);
    if (!changed) return fail(changed.error());
    const auto view = (*pool)->view();
    options.common.json ? print_json(to_json(view)) : print_table(view);
    return kSuccess;
}

// ---- drain ----

/// How often a draining member is asked how far it is.
constexpr std::chrono::milliseconds kDrainLook{200};
/// How often, at most, until it answers for the first time.
constexpr int kDrainFirstLooks = 25;

struct DrainOptions {
    Common common;
    std::string who;
    std::string cluster_key_file;
    std::uint32_t limit_s = 3600;
};

/// How far a member is with what it has to bring elsewhere.
struct Drained {
    std::uint64_t epoch = 0;  ///< that all its shards know
    std::uint64_t pending_groups = 0, blocks = 0, bytes = 0, refused_blocks = 0;
};

const model::Member* find_member(const model::View& view, const std::string& who) {
    for (const auto& member : view.members) {
        if (member.name == who || member.address == who || fmt::format("{:016x}", member.node_id) == who)
            return &member;
    }
    return nullptr;
}

Result<Drained> ask_drained(client::PoolClient& pool, std::uint64_t node_id) {
    for (const auto& [member, statistics, trouble] : pool.member_stats()) {
        if (member.node_id != node_id) continue;
        if (trouble) return fail(*trouble);
        Drained seen;
        for (const auto& [name, value] : statistics) {
            if (name == "epoch") seen.epoch = value;
            if (name == "repair_pending_groups") seen.pending_groups = value;
            if (name == "repair_blocks") seen.blocks = value;
            if (name == "repair_bytes") seen.bytes = value;
            if (name == "repair_refused_blocks") seen.refused_blocks = value;
        }
        return seen;
    }
    return fail(Errc::PeerDown, "expected the member to stay until it is drained, saw it leave");
}

void wait_for_more() {
    const timespec time{.tv_sec = 0, .tv_nsec = Nanos(kDrainLook).count()};
    ::nanosleep(&time, nullptr);
}

/// The same, of one that may still have to be connected to.
Result<Drained> ask_drained_soon(client::PoolClient& pool, std::uint64_t node_id) {
    auto seen = ask_drained(pool, node_id);
    for (int look = 0; look < kDrainFirstLooks && !seen; ++look) {
        wait_for_more();
        seen = ask_drained(pool, node_id);
    }
    return seen;
}

/// Waits until nothing is left to move, and says what was moved since `before`. Errors: Deadline with how
/// much is left.
Result<Drained> watch_drain(client::PoolClient& pool, std::uint64_t node_id, const Drained& before,
                            const DrainOptions& options) {
    const SystemClock clock;
    const Instant until = clock.now() + std::chrono::seconds(options.limit_s);
    const std::uint64_t epoch = pool.view().epoch;
    Progress progress;
    progress.begin("groups moved");
    std::uint64_t most = 0;
    for (;; wait_for_more()) {
        // One answer may get lost; what is wrong for long shows by the limit.
        const auto seen = ask_drained(pool, node_id);
        if (seen && seen->epoch >= epoch) {
            const Drained moved{.epoch = seen->epoch,
                                .pending_groups = seen->pending_groups,
                                .blocks = seen->blocks - before.blocks,
                                .bytes = seen->bytes - before.bytes,
                                .refused_blocks = seen->refused_blocks - before.refused_blocks};
            if (moved.pending_groups == 0) return moved;
            most = std::max(most, moved.pending_groups);
            progress.at(most - moved.pending_groups, most);
            if (options.common.json) {
                print_json({{"pending_groups", moved.pending_groups},
                            {"moved_blocks", moved.blocks},
                            {"moved_bytes", moved.bytes}});
            }
        }
        if (clock.now() < until) continue;
        if (!seen) return fail(seen.error());
        return fail(
            Errc::Deadline,
            "expected it to be drained within {} s, saw {} groups left: it drains on; ask again, or see "
            "`cmpool-cli stats --cluster`",
            options.limit_s, seen->pending_groups);
    }
}

void print_drained(const model::Member& member, const Drained& moved, double seconds, bool json) {
    if (json) {
        return print_json({{"node", member.name},
                           {"state", "retired"},
                           {"moved_blocks", moved.blocks},
                           {"moved_bytes", moved.bytes},
                           {"refused_blocks", moved.refused_blocks},
                           {"seconds", seconds}});
    }
    fmt::print("{} is drained: {} blocks, {}, moved in {:.1f} s; {} found no room\n", member.name,
               grouped(moved.blocks), format_bytes(moved.bytes), seconds, grouped(moved.refused_blocks));
}

Result<int> drain(const DrainOptions& options) {
    const auto key = read_key(options.cluster_key_file);
    if (!key) return fail(key.error());
    const auto pool = open(options.common);
    if (!pool) return fail(pool.error());
    const SystemClock clock;
    const Instant begin = clock.now();
    const auto view = (*pool)->view();
    const auto* member = find_member(view, options.who);
    if (member == nullptr)
        return fail(Errc::Invalid, "expected a member's name, address or id, saw \"{}\"", options.who);
    const auto id = fmt::format("{:016x}", member->node_id);
    const auto before = ask_drained_soon(**pool, member->node_id);
    if (!before) return fail(before.error());
    const auto changed = (*pool)->change_member(id, {.state = model::MemberState::Draining}, *key);
    if (!changed) return fail(changed.error());
    const auto moved = watch_drain(**pool, member->node_id, *before, options);
    if (!moved) return fail(moved.error());
    const auto retired = (*pool)->change_member(id, {.state = model::MemberState::Retired}, *key);
    if (!retired) return fail(retired.error());
    print_drained(*member, *moved, static_cast<double>((clock.now() - begin).count()) / 1e9,
                  options.common.json);
    return kSuccess;
}

void add_drain(CLI::App& node, Run& run) {
    auto* verb = node.add_subcommand("drain", "Moves what a member has to others, and then retires it");
    const auto options = std::make_shared<DrainOptions>();
    verb->add_option("NODE", options->who, "Its name, its address or its id")->required()->type_name("");
    verb->add_option("--cluster-key-file", options->cluster_key_file,
                     "A file with the cluster's key; the pool's own user on its host needs none")
        ->type_name("FILE")
        ->take_last();
    verb->add_option("--limit", options->limit_s, "How long to wait for it, in seconds")
        ->check(CLI::Range(1U, 604'800U).description(""))
        ->type_name("S")
        ->take_last()
        ->capture_default_str();
    add_common(*verb, options->common);
    verb->footer(
        "What was used last goes first, as fast as the member's --repair-rate. It answers all the while.\n"
        "With --json each line says how far it is, and the last one what was moved.");
    verb->callback([&run, options] { run = [options] { return drain(*options); }; });
}

CLI::App* add_change(CLI::App& node, Run& run, const char* name, const char* what,
                     client::MemberChange wanted) {
    auto* verb = node.add_subcommand(name, what);
    const auto options = std::make_shared<ChangeOptions>();
    options->change = wanted;
    verb->add_option("NODE", options->who, "Its name, its address or its id")->required()->type_name("");
    if (std::string_view(name) == "weight") {
        verb->add_option("WEIGHT", options->weight, "Share of the blocks, relative to the other nodes'")
            ->required()
            ->type_name("")
            ->check(CLI::Range(0U, 1'000'000U).description(""));
    }
    verb->add_option("--cluster-key-file", options->cluster_key_file,
                     "A file with the cluster's key; the pool's own user on its host needs none")
        ->type_name("FILE")
        ->take_last();
    add_common(*verb, options->common);
    verb->callback([&run, options, weighs = std::string_view(name) == "weight"] {
        if (weighs) options->change.weight = options->weight;
        run = [options] { return change(*options); };
    });
    return verb;
}

}  // namespace

void add_node(CLI::App& app, Run& run) {
    auto* node = app.add_subcommand("node", "Shows and changes the members of a cluster");
    node->require_subcommand(1);
    auto* ls = node->add_subcommand("ls", "Lists the members, as the asked one knows them");
    const auto common = std::make_shared<Common>();
    add_common(*ls, *common);
    ls->callback([&run, common] { run = [common] { return list(*common); }; });
    add_drain(*node, run);
    add_change(*node, run, "retire", "Gives a member no blocks any more, and looks for none there",
               {.state = model::MemberState::Retired});
    add_change(*node, run, "serve", "Gives a draining or retired member blocks again",
               {.state = model::MemberState::Serving});
    add_change(*node, run, "forget", "Drops a member that is down from the list", {.forget = true});
    add_change(*node, run, "weight", "Changes a member's share, until it starts again", {});
    node->footer("Example: cmpool-cli node ls");
}

}  // namespace cmpool::cli
