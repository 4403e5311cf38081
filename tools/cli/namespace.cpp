#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <optional>

#include <cmpool/base/units.h>
#include <cmpool/model/namespace.h>
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
    std::string quota;
    std::optional<std::uint32_t> priority;
    std::optional<std::uint32_t> ttl_s;
    std::string seal_key_file;
};

void print_row(const client::NamespaceInfo& info) {
    const auto& quota = info.quota;
    fmt::print("{:<32}{:<16}{:>9}{:>12}{:>9}{:>9}{:>6}  {}\n", info.model,
               info.revision.empty() ? "-" : info.revision, info.replicas,
               quota.bytes != 0 ? format_bytes(quota.bytes) : "-", quota.priority,
               quota.ttl_s != 0 ? fmt::format("{} s", quota.ttl_s) : "-", info.namespace_id, info.described);
}

Json to_json(const client::NamespaceInfo& info) {
    return {{"model", info.model},
            {"revision", info.revision},
            {"replicas", info.replicas},
            {"quota_bytes", info.quota.bytes},
            {"priority", info.quota.priority},
            {"ttl_s", info.quota.ttl_s},
            {"namespace_id", info.namespace_id},
            {"described", info.described}};
}

void print(const Options& options, const std::vector<client::NamespaceInfo>& all) {
    if (options.common.json) {
        Json list = Json::array();
        for (const auto& info : all) list.push_back(to_json(info));
        return print_json({{"namespaces", std::move(list)}});
    }
    fmt::print("{:<32}{:<16}{:>9}{:>12}{:>9}{:>9}{:>6}  {}\n", "MODEL", "REVISION", "REPLICAS", "QUOTA",
               "PRIORITY", "TTL", "ID", "WHAT DECIDES ITS BYTES");
    for (const auto& info : all) print_row(info);
}

Result<std::unique_ptr<client::PoolClient>> open(const Options& options, const std::string& name) {
    auto uri = options.common.plain_uri();
    if (!uri) return fail(uri.error());
    if (!options.tenant.empty()) uri->tenant = options.tenant;
    uri->seal_key_file = options.seal_key_file;
    return open_pool(*uri, tool_namespace({.name = name, .tenant = options.tenant}));
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
    client::NamespaceChange wanted{
        .replicas = options.replicas,
        .remove = remove,
        .quota = {.bytes = {}, .priority = options.priority, .ttl_s = options.ttl_s}};
    if (!options.quota.empty()) wanted.quota.bytes = parse_bytes(options.quota).value();
    const auto info = (*pool)->change_namespace(options.name, options.revision, wanted);
    if (!info) return fail(info.error());
    if (remove) {
        if (!options.common.json) fmt::print("removed {} {}\n", info->model, info->revision);
        if (options.common.json) print_json(to_json(*info));
    } else {
        print(options, {*info});
    }
    return kSuccess;
}

std::string check_bytes(const std::string& text) {
    const auto bytes = parse_bytes(text);
    return bytes ? std::string{} : bytes.error().detail;
}

void add_facts(CLI::App& verb, Options& options) {
    verb.add_option("--replicas", options.replicas, "Equal copies that a put makes, on different hosts")
        ->check(CLI::Range(1U, model::kReplicasMax).description(""))
        ->type_name("N")
        ->take_last();
    verb.add_option(
            "--quota", options.quota,
            "Memory of the whole pool that is its own, copies included; 0: it borrows all that it has")
        ->check(check_bytes)
        ->type_name("BYTES")
        ->take_last();
    verb.add_option("--priority", options.priority,
                    "Who borrows what others leave: a higher one before a lower one")
        ->check(CLI::Range(0U, model::kPriorityMax).description(""))
        ->type_name("N")
        ->take_last();
    verb.add_option("--ttl", options.ttl_s, "Older blocks are misses; 0: blocks have no end")
        ->check(CLI::Range(0U, model::kTtlMax).description(""))
        ->type_name("SECONDS")
        ->take_last();
}

std::shared_ptr<Options> add_one(CLI::App& verb, bool named, bool revision, bool facts) {
    auto options = std::make_shared<Options>();
    if (named) verb.add_option("NAME", options->name, "The namespace's model")->required()->type_name("");
    if (revision)
        verb.add_option("--revision", options->revision, "The model's")->type_name("TEXT")->take_last();
    if (facts) add_facts(verb, *options);
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
    add_seal_key(*create, created->seal_key_file);
    create->callback([&run, created] { run = [created] { return change(*created, true, false); }; });

    auto* set = verb->add_subcommand(
        "set", "Changes one; servers act on it at once, clients see it when they connect again");
    const auto changed = add_one(*set, true, true, true);
    set->callback([&run, changed] { run = [changed] { return change(*changed, false, false); }; });

    auto* rm = verb->add_subcommand(
        "rm", "Makes what it holds unreachable for whoever opens it from now on; eviction frees the memory");
    const auto removed = add_one(*rm, true, true, false);
    rm->callback([&run, removed] { run = [removed] { return change(*removed, false, true); }; });
    verb->footer("Example: cmpool-cli namespace set meta-llama/Llama-3-8B --revision 1 --quota 64G");
}

}  // namespace cmpool::cli
