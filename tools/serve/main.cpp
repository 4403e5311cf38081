#include "experiment/experiment.h"
#include "generate.h"
#include "roles.h"

#include <cstdio>
#include <exception>
#include <functional>

#include <cmpool/engine/forward.h>

#include <CLI/CLI.hpp>

namespace {

using cmpool::Result;

constexpr int kUsageError = 2;
constexpr unsigned kTokensMax = 1U << 20;

// A size that cannot be is bad use; whether a file can be read is not known before it is opened.
std::string check_model(const std::string& spec) {
    if (!cmpool::engine::is_synthetic(spec)) return {};
    const auto size = cmpool::engine::parse_synthetic(spec);
    return size ? std::string{} : size.error().detail;
}

std::string check_bytes(std::string& text) {
    const auto bytes = cmpool::parse_bytes(text);
    if (!bytes) return bytes.error().detail;
    text = std::to_string(*bytes);
    return {};
}

void add_model(CLI::App* verb, std::string& model) {
    verb->add_option("--model", model, "A llama2.c file, synthetic, or synthetic:SIZE such as synthetic:15M")
        ->required()
        ->check(CLI::Validator(check_model, "PATH|synthetic[:SIZE]"));
}

void add_tokenizer(CLI::App* verb, std::string& tokenizer) {
    verb->add_option("--tokenizer", tokenizer, "The model's tokenizer; default: tok<vocab>.bin beside it")
        ->type_name("PATH");
}

void add_pool(CLI::App* verb, std::string& pool) {
    verb->add_option("--pool", pool, "Where prefixes are cached")
        ->type_name("URI|none")
        ->capture_default_str();
}

CLI::Option* add_count(CLI::App* verb, const char* name, std::uint32_t& count, const char* what) {
    return verb->add_option(name, count, what)->check(CLI::Range(1U, kTokensMax))->capture_default_str();
}

void add_threads(CLI::App* verb, std::uint32_t& threads) {
    verb->add_option("--threads", threads, "Threads that compute a step together; default: half of the cores")
        ->check(CLI::Range(1U, std::uint32_t{cmpool::engine::Forward::kThreadsMax}))
        ->capture_default_str();
}

CLI::App* add_generate(CLI::App& app, cmpool::serve::GenerateOptions& options) {
    auto* verb = app.add_subcommand("generate", "Continues prompts, greedily, and ends");
    add_model(verb, options.model);
    add_tokenizer(verb, options.tokenizer);
    verb->add_option("--prompt", options.prompts,
                     "What to continue; given several times, one after the other")
        ->required()
        ->take_all()
        ->allow_extra_args(false)
        ->type_name("TEXT|@FILE");
    add_count(verb, "--max-tokens", options.max_tokens, "Generate at most so many tokens");
    add_count(verb, "--block-tokens", options.block_tokens, "Tokens to a KV block");
    add_threads(verb, options.threads);
    add_pool(verb, options.pool);
    verb->add_flag("--json", options.json, "One JSON object a line");
    return verb;
}

void add_listen(CLI::App* verb, cmpool::serve::RoleOptions& options) {
    verb->add_option("--listen", options.listen, "Where to serve; port 0 picks one")
        ->take_last()
        ->type_name("HOST:PORT")
        ->capture_default_str();
}

void add_worker(CLI::App* verb, cmpool::serve::RoleOptions& options) {
    add_count(verb, "--block-tokens", options.block_tokens, "Tokens to a KV block");
    add_count(verb, "--step-tokens", options.step_tokens, "Tokens that are computed together")
        ->check(CLI::Range(1U, 4096U));
    add_count(verb, "--running-max", options.running_max, "Sequences that are computed in turn");
    add_threads(verb, options.threads);
    verb->add_option("--kv-memory", options.kv_bytes,
                     "Memory for KV pages, such as 512M; at least one context")
        ->transform(CLI::Validator(check_bytes, "SIZE"))
        ->capture_default_str();
}

void add_loading(CLI::App* verb, cmpool::serve::RoleOptions& options) {
    verb->add_option("--load-rate", options.load_bytes_per_s,
                     "Bytes a second that come from the pool at most, such as 500M; default: as many as can")
        ->transform(CLI::Validator(check_bytes, "SIZE"));
}

void add_front(CLI::App* verb, cmpool::serve::RoleOptions& options) {
    add_tokenizer(verb, options.tokenizer);
    verb->add_option("--model-name", options.model_name,
                     "The model's name in requests; default: its file's or folder's, without .bin");
    add_count(verb, "--requests-max", options.requests_max, "Requests at once")->check(CLI::Range(1U, 1024U));
    add_count(verb, "--request-seconds", options.request_seconds, "A request ends after so long");
}

void add_handoff(CLI::App* verb, cmpool::serve::RoleOptions& options) {
    verb->add_option("--handoff", options.handoff, "How KV pages come from a prefill worker on this host")
        ->check(CLI::IsMember({"auto", "shm", "tcp"}))
        ->capture_default_str();
    verb->add_flag("--store-decoded", options.store_decoded, "What was decoded goes to the pool, too");
    add_count(verb, "--prefill-seconds", options.prefill_seconds,
              "A prefill worker may take so long for a prompt");
}

void add_workers(CLI::App* verb, const char* name, std::vector<std::string>& addresses, const char* what) {
    verb->add_option(name, addresses, what)->take_all()->allow_extra_args(false)->type_name("HOST:PORT");
}

}  // namespace

int main(int argc, char** argv) try {
    CLI::App app{"cmpool-serve: a small language model server's loop, on a CPU"};
    app.require_subcommand(1);
    cmpool::serve::GenerateOptions generate;
    cmpool::serve::RoleOptions role;
    cmpool::serve::ExperimentOptions experiment;
    std::function<Result<void>()> run;
    add_generate(app, generate)->callback([&] { run = [&] { return cmpool::serve::generate(generate); }; });

    auto* all = app.add_subcommand("all", "Serves HTTP: a router, a prefill and a decode process");
    add_model(all, role.model);
    add_pool(all, role.pool);
    add_listen(all, role);
    add_worker(all, role);
    add_loading(all, role);
    add_front(all, role);
    add_handoff(all, role);
    all->callback([&] { run = [&] { return cmpool::serve::run_all(role); }; });

    auto* prefill = app.add_subcommand("prefill", "Computes prompts for decode workers");
    add_model(prefill, role.model);
    add_pool(prefill, role.pool);
    add_listen(prefill, role);
    add_worker(prefill, role);
    add_loading(prefill, role);
    prefill->add_option("--runtime-dir", role.runtime_dir, "Where its socket lies, for this host; on tmpfs")
        ->type_name("FOLDER");
    prefill->callback([&] { run = [&] { return cmpool::serve::run_prefill(role); }; });

    auto* decode = app.add_subcommand("decode", "Decodes what prefill workers computed");
    add_model(decode, role.model);
    add_pool(decode, role.pool);
    add_listen(decode, role);
    add_worker(decode, role);
    add_handoff(decode, role);
    add_workers(decode, "--prefill", role.prefills, "A prefill worker; given several times, several");
    decode->callback([&] { run = [&] { return cmpool::serve::run_decode(role); }; });

    auto* router = app.add_subcommand("router", "Serves HTTP in front of decode workers");
    add_model(router, role.model);
    add_listen(router, role);
    add_front(router, role);
    add_workers(router, "--decode", role.decodes, "A decode worker; given several times, several");
    add_workers(router, "--prefill", role.prefills, "A prefill worker whose statistics are shown, too");
    router->callback([&] { run = [&] { return cmpool::serve::run_router(role); }; });

    cmpool::serve::add_experiment(app, experiment,
                                  [&] { run = [&] { return cmpool::serve::run_experiment(experiment); }; });
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : kUsageError;
    }
    const auto done = run();
    if (done) return 0;
    fmt::print(stderr, "cmpool-serve: {}\n", done.error().detail);
    return 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "cmpool-serve: %s\n", error.what());
    return 1;
}
