#include "doctor.h"

#include "connect.h"
#include "print.h"
#include "verbs.h"

#include <algorithm>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace cmpool::cli {
namespace {

constexpr const char* kNamespace = "cmpool-doctor";

const char* word(Health health) {
    if (health == Health::Ok) return "ok";
    return health == Health::Warn ? "warn" : "fail";
}

bool fine(const Checks& checks) {
    return std::none_of(checks.begin(), checks.end(),
                        [](const Check& check) { return check.health == Health::Fail; });
}

Json to_json(const Checks& checks) {
    Json list = Json::array();
    for (const auto& check : checks) {
        list.push_back({{"name", check.name},
                        {"status", word(check.health)},
                        {"detail", check.detail},
                        {"advice", check.advice}});
    }
    return {{"checks", std::move(list)}, {"ok", fine(checks)}};
}

void print_text(const Checks& checks) {
    constexpr std::size_t kIndent = 19;
    for (const auto& check : checks) {
        fmt::print("{:<6}{:<13}{}\n", word(check.health), check.name, wrapped(check.detail, kIndent));
        if (!check.advice.empty()) {
            fmt::print("{:{}}-> {}\n", "", kIndent, wrapped(check.advice, kIndent + 3));
        }
    }
    const auto count = [&](Health health) {
        return std::count_if(checks.begin(), checks.end(),
                             [&](const Check& check) { return check.health == health; });
    };
    fmt::print("{} ok, {} warn, {} fail\n", count(Health::Ok), count(Health::Warn), count(Health::Fail));
}

// A refusal tells that the pool is there; what it refuses stands in the sentence.
Result<std::unique_ptr<client::PoolClient>> reach(Checks& checks, const client::PoolUri& uri) {
    const SystemClock clock;
    const Instant begun = clock.now();
    auto pool = open_pool(uri, tool_namespace({.name = kNamespace, .tenant = {}}));
    if (!pool) {
        checks.push_back({"reachable", Health::Fail, pool.error().detail, {}});
        return pool;
    }
    const auto status = (*pool)->status();
    checks.push_back({"reachable",
                      Health::Ok,
                      fmt::format("{} answered after {:.1f} ms: node {}, incarnation {:016x}", uri.address,
                                  milliseconds(clock.now() - begun), status.node, status.incarnation),
                      {}});
    return pool;
}

Result<int> doctor(const Common& common) {
    const auto uri = common.plain_uri();
    if (!uri) return fail(uri.error());
    Checks checks;
    if (const auto pool = reach(checks, *uri)) {
        check_round_trip(checks, **pool);
        check_pool(checks, **pool, *uri);
        check_local_memory(checks, (*pool)->status());
    }
    check_host(checks);
    if (common.json) {
        print_json(to_json(checks));
    } else {
        print_text(checks);
    }
    return fine(checks) ? kSuccess : kFailure;
}

}  // namespace

void add_doctor(CLI::App& app, Run& run) {
    auto* verb =
        app.add_subcommand("doctor", "Checks how this host and a pool go together, and says what to do");
    const auto common = std::make_shared<Common>();
    add_common(*verb, *common);
    verb->footer(
        "It stores and removes a few blocks in a namespace of its own. Exits with 1 if a check fails.\n"
        "Example: cmpool-cli doctor --pool cmpool://10.0.0.7:7411");
    verb->callback([&run, common] { run = [common] { return doctor(*common); }; });
}

}  // namespace cmpool::cli
