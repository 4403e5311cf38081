#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <cmpool/base/units.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

/// Most blocks that people look at fit; for the others the pool says how much they need.
constexpr std::size_t kFirstRoom = 1 * MiB;
/// Between two tries the block may have been removed and put again with another size.
constexpr int kTries = 4;

struct GetOptions {
    Common common;
    Place place;
    std::string key;
    std::string file;
};

/// The block's bytes, checksum compared. Errors: what the pool said; Invalid for a miss.
Result<std::vector<std::byte>> read(client::PoolClient& pool, const client::Digest& key,
                                    const std::string& name) {
    std::vector<std::byte> room(kFirstRoom);
    for (int count = 0; count < kTries; ++count) {
        const MutableBytes into[] = {room};
        const client::GetItem item{.key = key, .into = into};
        const auto report = pool.get({&item, 1}, {.verify = true});
        const auto& block = report.blocks.front();
        if (block.outcome == client::Outcome::Hit) {
            room.resize(block.bytes);
            return room;
        }
        if (report.trouble) return fail(*report.trouble);
        if (block.outcome != client::Outcome::TooSmall) {
            return fail(Errc::Invalid, "miss: namespace {}/{} does not hold {}", pool.spec().tenant,
                        pool.spec().model, name);
        }
        room.resize(block.bytes);
    }
    return fail(Errc::Again, "{} changed its size {} times while it was read: try again", name, kTries);
}

Result<int> get(const GetOptions& options) {
    const auto pool = open_pool(options.common, options.place);
    if (!pool) return fail(pool.error());
    const auto key = key_digest(**pool, options.key);
    if (!key) return fail(key.error());
    const auto block = read(**pool, *key, options.key);
    if (!block) return fail(block.error());
    if (auto written = write_out(*block, options.file); !written) return fail(written.error());
    if (options.common.json) {
        print_json(
            {{"key", options.key}, {"digest", hex(*key)}, {"bytes", block->size()}, {"file", options.file}});
    }
    return kSuccess;
}

}  // namespace

void add_get(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("get", "Writes a block to standard output or a file");
    const auto options = std::make_shared<GetOptions>();
    verb->add_option("KEY", options->key, "Any text, or digest: and the 64 hex digits that ls prints")
        ->required()
        ->type_name("")
        ->check(CLI::Validator(check_key, ""));
    verb->add_option("-o,--output", options->file, "Where the bytes go; default: standard output")
        ->type_name("FILE");
    add_place(*verb, options->place);
    add_common(*verb, options->common);
    verb->footer(
        "Its checksum is compared first. A miss writes nothing and exits with 1.\n"
        "Example: cmpool-cli get greeting -o hello.txt");
    verb->callback([&run, options] {
        if (options->common.json && options->file.empty()) {
            throw CLI::ValidationError(
                "--json", "expected -o FILE too, since the block itself goes to standard output");
        }
        run = [options] { return get(*options); };
    });
}

}  // namespace cmpool::cli
