#include "print.h"
#include "verbs.h"

#include <cstdio>
#include <exception>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

namespace {

using namespace cmpool::cli;

// Which verb was being read when the command line stopped making sense.
std::string help_of(const CLI::App& app) {
    const auto verbs = app.get_subcommands();
    return verbs.empty() ? "cmpool-cli --help"
                         : fmt::format("cmpool-cli {} --help", verbs.front()->get_name());
}

std::string extras(const CLI::App& app) {
    const auto unknown = app.remaining(true);
    return unknown.empty() ? "none" : fmt::format("\"{}\"", fmt::join(unknown, "\", \""));
}

int usage_error(const CLI::App& app, std::string_view what) {
    complain(fmt::format("{}; see {}", what, help_of(app)));
    return kUsageError;
}

int run_chosen(const Run& run) {
    const auto ended = run();
    if (ended) return *ended;
    complain(ended.error().detail);
    return kFailure;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        // Standard output is for blocks and JSON, and what went wrong comes back as an error anyway.
        spdlog::set_level(spdlog::level::off);
        CLI::App app{"cmpool-cli looks into a cmpool and moves single blocks in and out of it.",
                     "cmpool-cli"};
        app.set_version_flag("--version", "cmpool-cli " CMPOOL_VERSION);
        app.require_subcommand(1);
        app.footer(
            "Exit code: 0 success, 1 failure (a miss included), 2 wrong use.\n"
            "Each verb has a --help with an example; CMPOOL_POOL names a pool for all of them.");
        Run run;
        for (const auto add : {add_stats, add_put, add_get, add_ls, add_exists, add_rm, add_doctor, add_bench,
                               add_node, add_namespace, add_replay, add_metrics}) {
            add(app, run);
        }
        try {
            app.parse(argc, argv);
        } catch (const CLI::Success& done) {
            return app.exit(done);
        } catch (const CLI::RequiredError& error) {
            if (!app.get_subcommands().empty()) return usage_error(app, error.what());
            return usage_error(app,
                               fmt::format("expected a verb, such as stats or doctor, saw {}", extras(app)));
        } catch (const CLI::ExtrasError&) {
            return usage_error(app,
                               fmt::format("expected nothing beyond what is listed, saw {}", extras(app)));
        } catch (const CLI::ParseError& error) {
            return usage_error(app, error.what());
        }
        return run_chosen(run);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "cmpool-cli: stopped by what should not have happened: %s\n", error.what());
        return kFailure;
    }
}
