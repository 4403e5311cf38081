#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <algorithm>

#include <cmpool/base/units.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

constexpr std::uint32_t kLimitDefault = 1000;

struct LsOptions {
    Common common;
    Place place;
    std::uint32_t limit = kLimitDefault;
};

/// Blocks in the pool's order; next_cursor is 0 when they are all.
Result<client::Listing> list(client::PoolClient& pool, std::uint32_t limit) {
    client::Listing all;
    do {
        const auto left = limit - static_cast<std::uint32_t>(all.blocks.size());
        auto page = pool.list(all.next_cursor, left);
        if (!page) return fail(page.error());
        all.next_cursor = page->next_cursor;
        all.blocks.insert(all.blocks.end(), page->blocks.begin(), page->blocks.end());
    } while (all.next_cursor != 0 && all.blocks.size() < limit);
    return all;
}

void print_table(const client::Listing& listing, const client::NamespaceSpec& spec) {
    std::uint64_t bytes = 0;
    if (!listing.blocks.empty())
        fmt::print("{:<71}  {:>11}  {:>8}  {:>8}\n", "KEY", "SIZE", "POSITION", "AGE");
    for (const auto& block : listing.blocks) {
        bytes += block.bytes;
        fmt::print("digest:{}  {:>11}  {:>8}  {:>8}\n", hex(block.key), format_bytes(block.bytes),
                   block.position, format_age(block.age_ms));
    }
    fmt::print("{} block{}, {}, in namespace {}/{}\n", grouped(listing.blocks.size()),
               listing.blocks.size() == 1 ? "" : "s", format_bytes(bytes), spec.tenant, spec.model);
    if (listing.next_cursor != 0) fmt::print("there may be more: give a greater --limit\n");
}

Json to_json(const client::Listing& listing) {
    Json blocks = Json::array();
    for (const auto& block : listing.blocks) {
        blocks.push_back({{"digest", hex(block.key)},
                          {"bytes", block.bytes},
                          {"position", block.position},
                          {"age_ms", block.age_ms}});
    }
    return {{"blocks", std::move(blocks)}, {"complete", listing.next_cursor == 0}};
}

Result<int> ls(const LsOptions& options) {
    const auto pool = open_pool(options.common, options.place);
    if (!pool) return fail(pool.error());
    const auto listing = list(**pool, options.limit);
    if (!listing) return fail(listing.error());
    if (options.common.json) {
        print_json(to_json(*listing));
    } else {
        print_table(*listing, (*pool)->spec());
    }
    return kSuccess;
}

}  // namespace

void add_ls(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("ls", "Lists a namespace's blocks");
    const auto options = std::make_shared<LsOptions>();
    verb->add_option("--limit", options->limit, "At most so many blocks")
        ->check(CLI::Range(1U, UINT32_MAX).description(""))
        ->type_name("N")
        ->take_last()
        ->capture_default_str();
    add_place(*verb, options->place);
    add_common(*verb, options->common);
    verb->footer(
        "The pool knows digests only, not the keys that they were made from.\n"
        "Example: cmpool-cli ls --namespace cli --limit 20");
    verb->callback([&run, options] { run = [options] { return ls(*options); }; });
}

}  // namespace cmpool::cli
