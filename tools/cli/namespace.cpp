#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <cmpool/model/view.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

struct Options {
    Common common;
    std::string tenant;
    std::string name;
    std::string revision;
    std::uint32_t replicas = 0;
};

void print_row(const client::NamespaceInfo& info) {
    fmt::print("{:<32}{:<16}{:>9}{:>6}  {}\n", info.model, info.revision.empty() ? "-" : info.revision,
               info.replicas, info.namespace_id, info.described);
}

Json to_json(const client::NamespaceInfo& info) {
    return {{"model", info.model},
            {"revision", info.revision},
            {"replicas", info.replicas},
            {"namespace_id", info.namespace_id},
            {"described", info.described}};
}

void print(const Options& options, const std::vector<client::NamespaceInfo>& all) {
    if (options.common.json) {
        Json list = Json::array();
        for (const auto& info : all) list.push_back(to_json(info));
        return print_json({{"namespaces", std::move(list)}});
    }
    fmt::print("{:<32}{:<16}{:>9}{:>6}  {}\n", "MODEL", "REVISION", "REPLICAS", "ID",
               "WHAT DECIDES ITS BYTES");
    for (const auto& info : all) print_row(info);
}

Result<std::unique_ptr<client::PoolClient>> open(const Options& options, const std::string& name) {
    return open_pool(options.common, {.name = name, .tenant = options.tenant});
}

Result<int> list(const Options& options) {
    const auto pool = open(options, "cli");
    if (!pool) return fail(pool.error());
    const auto all = (*pool)->namespaces();
    if (!all) return fail(all.error());
    print(options, *all);
    return kSuccess;
}

Result<int> change(const Options& options, bool create, bool remove) {
    // Opening makes it; an engine's own comes with the engine.
    const auto pool = open(options, create ? options.name : "cli");
    if (!pool) return fail(pool.error());
    const auto info = (*pool)->change_namespace(options.name, options.revision,
                                                {.replicas = options.replicas, .remove = remove});
    if (!info) return fail(info.error());
    if (remove) {
        if (!options.common.json) fmt::print("removed {} {}\n", info->model, info->revision);
        if (options.common.json) print_json(to_json(*info));
    } else {
        print(options, {*info});
    }
    return kSuccess;
}

std::shared_ptr<Options> add_one(CLI::App& verb, bool named, bool revision, bool replicas) {
    const auto options = std::make_shared<Options>();
    if (named) verb.add_option("NAME", options->name, "The namespace's model")->required()->type_name("");
    if (revision)
        verb.add_option("--revision", options->revision, "The model's")->type_name("TEXT")->take_last();
    if (replicas) {
        verb.add_option("--replicas", options->replicas, "Equal copies that a put makes, on different hosts")
            ->check(CLI::Range(1U, model::kReplicasMax).description(""))
            ->type_name("N")
            ->take_last();
    }
    verb.add_option("--tenant", options->tenant, "Whose; default: the URI's, else \"default\"")
        ->type_name("NAME")
        ->take_last();
    add_common(verb, options->common);
    return options;
}

}  // namespace

void add_namespace(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("namespace", "Shows and changes a tenant's namespaces");
    verb->require_subcommand(1);
    auto* ls = verb->add_subcommand("ls", "Lists them");
    const auto listed = add_one(*ls, false, false, false);
    ls->callback([&run, listed] { run = [listed] { return list(*listed); }; });

    auto* create = verb->add_subcommand("create", "Makes one for keys and bytes, as put and get use");
    const auto created = add_one(*create, true, false, true);
    create->callback([&run, created] { run = [created] { return change(*created, true, false); }; });

    auto* set = verb->add_subcommand("set", "Changes one; clients see it when they connect again");
    const auto changed = add_one(*set, true, true, true);
    set->callback([&run, changed] { run = [changed] { return change(*changed, false, false); }; });

    auto* rm = verb->add_subcommand(
        "rm", "Makes what it holds unreachable for whoever opens it from now on; eviction frees the memory");
    const auto removed = add_one(*rm, true, true, false);
    rm->callback([&run, removed] { run = [removed] { return change(*removed, false, true); }; });
    verb->footer("Example: cmpool-cli namespace set meta-llama/Llama-3-8B --revision 1 --replicas 2");
}

}  // namespace cmpool::cli
