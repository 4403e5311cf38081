#include "generate.h"

#include <cstdio>
#include <exception>

#include <cmpool/engine/model.h>

#include <CLI/CLI.hpp>

namespace {

constexpr int kUsageError = 2;
constexpr unsigned kTokensMax = 1U << 20;

// A size that cannot be is bad use; whether a file can be read is not known before it is opened.
std::string check_model(const std::string& spec) {
    if (!cmpool::engine::is_synthetic(spec)) return {};
    const auto size = cmpool::engine::parse_synthetic(spec);
    return size ? std::string{} : size.error().detail;
}

void add_generate(CLI::App& app, cmpool::serve::GenerateOptions& options) {
    auto* verb = app.add_subcommand("generate", "Continues prompts, greedily");
    verb->add_option("--model", options.model,
                     "A llama2.c file, synthetic, or synthetic:SIZE such as synthetic:15M")
        ->required()
        ->check(CLI::Validator(check_model, "PATH|synthetic[:SIZE]"));
    verb->add_option("--tokenizer", options.tokenizer,
                     "The model's tokenizer; default: tok<vocab>.bin beside it")
        ->type_name("PATH");
    verb->add_option("--prompt", options.prompts,
                     "What to continue; given several times, one after the other")
        ->required()
        ->take_all()
        ->allow_extra_args(false)
        ->type_name("TEXT|@FILE");
    verb->add_option("--max-tokens", options.max_tokens, "Generate at most so many tokens")
        ->check(CLI::Range(1U, kTokensMax))
        ->capture_default_str();
    verb->add_option("--block-tokens", options.block_tokens, "Tokens to a KV block")
        ->check(CLI::Range(1U, kTokensMax))
        ->capture_default_str();
    verb->add_option("--pool", options.pool, "Where prefixes are cached")
        ->type_name("URI|none")
        ->capture_default_str();
    verb->add_flag("--json", options.json, "One JSON object a line");
}

}  // namespace

int main(int argc, char** argv) try {
    CLI::App app{"cmpool-serve: a small language model server's loop, on a CPU"};
    app.require_subcommand(1);
    cmpool::serve::GenerateOptions options;
    add_generate(app, options);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : kUsageError;
    }
    const auto done = cmpool::serve::generate(options);
    if (done) return 0;
    fmt::print(stderr, "cmpool-serve: {}\n", done.error().detail);
    return 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "cmpool-serve: %s\n", error.what());
    return 1;
}
