#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <fstream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

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
    const auto uri = common.uri();
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

Result<int> change(const ChangeOptions& options) {
    std::string key;
    if (!options.cluster_key_file.empty()) {
        std::ifstream file(options.cluster_key_file);
        if (!std::getline(file, key))
            return fail(Errc::Invalid, "expected a file with the cluster's key, saw {}",
                        options.cluster_key_file);
    }
    const auto pool = open(options.common);
    if (!pool) return fail(pool.error());
    const auto changed = (*pool)->change_member(options.who, options.change, key);
    if (!changed) return fail(changed.error());
    const auto view = (*pool)->view();
    options.common.json ? print_json(to_json(view)) : print_table(view);
    return kSuccess;
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
    add_change(*node, run, "retire", "Gives a member no blocks any more; what it has it still answers",
               {.draining = true});
    add_change(*node, run, "serve", "Gives a retired member blocks again", {.draining = false});
    add_change(*node, run, "forget", "Drops a member that is down from the list", {.forget = true});
    add_change(*node, run, "weight", "Changes a member's share, until it starts again", {});
    node->footer("Example: cmpool-cli node ls");
}

}  // namespace cmpool::cli
