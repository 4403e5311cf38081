// rm and exists: both ask about many keys, and answer for each.
#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

struct KeysOptions {
    Common common;
    Place place;
    std::vector<std::string> keys;
};

using Ask = client::Report (client::PoolClient::*)(std::span<const client::Digest>,
                                                   const client::CallOptions&);

Result<int> ask_keys(const KeysOptions& options, Ask ask, const char* hit) {
    const auto pool = open_pool(options.common, options.place);
    if (!pool) return fail(pool.error());
    const auto digests = key_digests(**pool, options.keys);
    if (!digests) return fail(digests.error());
    const auto report = ((**pool).*ask)(*digests, {});
    if (report.trouble) return fail(*report.trouble);

    Json blocks = Json::array();
    for (std::size_t index = 0; index < options.keys.size(); ++index) {
        const bool there = report.blocks[index].outcome == client::Outcome::Hit;
        if (options.common.json) {
            blocks.push_back({{"key", options.keys[index]},
                              {"digest", hex((*digests)[index])},
                              {"outcome", there ? hit : "miss"}});
        } else if (there) {
            fmt::print("{} {}\n", hit, options.keys[index]);
        }
        if (there) continue;
        complain(fmt::format("miss: namespace {}/{} does not hold {}", (*pool)->spec().tenant,
                             (*pool)->spec().model, options.keys[index]));
    }
    if (options.common.json) print_json({{"blocks", std::move(blocks)}});
    return report.count(client::Outcome::Miss) == 0 ? kSuccess : kFailure;
}

void add(CLI::App& app, Run& run, const char* name, const char* about, const char* footer, Ask ask,
         const char* hit) {
    auto* verb = app.add_subcommand(name, about);
    const auto options = std::make_shared<KeysOptions>();
    add_keys(*verb, options->keys);
    add_place(*verb, options->place);
    add_common(*verb, options->common);
    verb->footer(footer);
    verb->callback(
        [&run, options, ask, hit] { run = [options, ask, hit] { return ask_keys(*options, ask, hit); }; });
}

}  // namespace

void add_rm(CLI::App& app, Run& run) {
    add(app, run, "rm", "Removes blocks",
        "Whoever reads a block keeps its bytes until done. Exits with 1 if a key was not there.\n"
        "Example: cmpool-cli rm greeting farewell",
        &client::PoolClient::remove, "removed");
}

void add_exists(CLI::App& app, Run& run) {
    add(app, run, "exists", "Says which keys the pool holds",
        "Exits with 1 if a key is not there. Example: cmpool-cli exists greeting",
        &client::PoolClient::exists, "present");
}

}  // namespace cmpool::cli
