#include "connect.h"
#include "metrics_server.h"
#include "metrics_text.h"
#include "verbs.h"

#include <cstdio>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

Result<int> metrics(const Common& common, const std::string& listen) {
    const auto uri = common.plain_uri();
    if (!uri) return fail(uri.error());
    const auto pool = open_pool(*uri, tool_namespace({}));
    if (!pool) return fail(pool.error());
    MetricsServer server([&] {
        const auto members = (*pool)->member_stats();
        return metrics_text(members, (*pool)->view().epoch);
    });
    const auto address = server.bind(listen);
    if (!address) return fail(address.error());
    fmt::print("ready http://{}/metrics\n", *address);
    std::fflush(stdout);
    server.run_until_signal();
    return kSuccess;
}

}  // namespace

void add_metrics(CLI::App& app, Run& run) {
    auto* verb = app.add_subcommand("metrics", "Serves what all members count to Prometheus");
    const auto common = std::make_shared<Common>();
    const auto listen = std::make_shared<std::string>("127.0.0.1:7414");
    verb->add_option("--listen", *listen, "HOST:PORT of its HTTP; port 0 picks one")
        ->type_name("HOST:PORT")
        ->take_last()
        ->capture_default_str();
    add_pool(*verb, *common);
    verb->footer(
        "One for the whole pool, anywhere: each GET /metrics asks every member once, for at most the "
        "deadline.\n"
        "Runs until it is interrupted. Example: cmpool-cli metrics --pool cmpool://node-1:7411");
    verb->callback([&run, common, listen] { run = [=] { return metrics(*common, *listen); }; });
}

}  // namespace cmpool::cli
