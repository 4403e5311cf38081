#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>

#include <cmpool/base/units.h>
#include <cmpool/model/index_layout.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

struct PutOptions {
    Common common;
    Place place;
    std::string key;
    std::string file;
};

/// A whole file, or standard input for "-". Errors: Invalid where it cannot be read, or is no block.
Result<std::vector<std::byte>> read_block(const std::string& file) {
    const bool from_stdin = file == "-";
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> opened(
        from_stdin ? stdin : std::fopen(file.c_str(), "rb"),
        from_stdin ? [](std::FILE*) { return 0; } : [](std::FILE* open) { return std::fclose(open); });
    const std::string name = from_stdin ? "standard input" : file;
    if (opened == nullptr) return fail(Errc::Invalid, "cannot read {}: {}", name, std::strerror(errno));

    // One byte more than fits shows that there is more.
    std::vector<std::byte> bytes;
    std::size_t got = 0;
    do {
        bytes.resize(std::min<std::size_t>(got + 4 * MiB, model::kBlockBytesMax + 1));
        const auto more = std::fread(bytes.data() + got, 1, bytes.size() - got, opened.get());
        got += more;
        if (more == 0) break;
    } while (got <= model::kBlockBytesMax);
    if (std::ferror(opened.get()) != 0)
        return fail(Errc::Invalid, "cannot read {}: {}", name, std::strerror(errno));
    bytes.resize(got);
    if (got > 0 && got <= model::kBlockBytesMax) return bytes;
    return fail(Errc::Invalid, "expected {} to hold 1 B to {}, the size of a block, saw {}", name,
                format_bytes(model::kBlockBytesMax), got == 0 ? "nothing" : "more");
}

const char* name_of(client::Outcome outcome) {
    if (outcome == client::Outcome::Stored) return "stored";
    return outcome == client::Outcome::Present ? "present" : "dropped";
}

// The pool's answer is one word; its statistics tell whether there ever is room for so large a block.
Error dropped(client::PoolClient& pool, std::uint64_t bytes, const std::optional<Error>& trouble) {
    const auto stats = pool.stats();
    if (!stats) return trouble.value_or(stats.error());
    for (const auto& [name, value] : *stats) {
        if (name != "segment_bytes" || bytes + model::kHeaderBytes <= value) continue;
        return {Errc::NoCapacity,
                fmt::format("expected a block that fits into one of the pool's segments of {}, "
                            "saw {}: start cmpoold with a greater --segment",
                            format_bytes(value), format_bytes(bytes))};
    }
    return trouble.value_or(Error{Errc::NoCapacity, "the pool did not keep the block"});
}

Result<int> put(const PutOptions& options) {
    const auto block = read_block(options.file);
    if (!block) return fail(block.error());
    const auto pool = open_pool(options.common, options.place);
    if (!pool) return fail(pool.error());
    const auto key = key_digest(**pool, options.key);
    if (!key) return fail(key.error());

    const Bytes from[] = {*block};
    const client::PutItem item{.key = *key, .from = from};
    const auto report = (*pool)->put({&item, 1});
    const auto outcome = report.blocks.front().outcome;
    if (options.common.json) {
        print_json({{"key", options.key},
                    {"digest", hex(*key)},
                    {"bytes", block->size()},
                    {"outcome", name_of(outcome)}});
    } else {
        fmt::print("{} {} digest:{}\n", name_of(outcome), format_bytes(block->size()), hex(*key));
    }
    if (outcome != client::Outcome::Dropped) return kSuccess;
    return fail(dropped(**pool, block->size(), report.trouble));
}

}  // namespace

void add_put(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("put", "Stores a file as one block under a key");
    const auto options = std::make_shared<PutOptions>();
    verb->add_option("KEY", options->key, "Any text, or digest: and the 64 hex digits that ls prints")
        ->required()
        ->type_name("")
        ->check(CLI::Validator(check_key, ""));
    verb->add_option("FILE", options->file, "What to store, at most 64 MiB; - is standard input")
        ->required()
        ->type_name("");
    add_place(*verb, options->place);
    add_common(*verb, options->common);
    verb->footer(
        "Blocks never change: a key that is present keeps its bytes until rm.\n"
        "Example: cmpool-cli put greeting hello.txt");
    verb->callback([&run, options] { run = [options] { return put(*options); }; });
}

}  // namespace cmpool::cli
