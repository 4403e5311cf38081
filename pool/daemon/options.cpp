#include "options.h"

#include "host.h"

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <cmpool/base/units.h>
#include <cmpool/pool/server.h>
#include <cmpool/wire/messages.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

namespace cmpool::daemon {
namespace {

std::string default_data_dir() {
    if (::geteuid() == 0) return "/var/lib/cmpool";
    if (const char* data = std::getenv("XDG_DATA_HOME"); data != nullptr && *data == '/') {
        return fmt::format("{}/cmpool", data);
    }
    const char* home = std::getenv("HOME");
    return fmt::format("{}/.local/share/cmpool", home != nullptr ? home : "");
}

/// What is on the command line in another form than in Options.
struct Written {
    std::string capacity;
    std::string segment;
    std::string near_cache = "10%";
    bool no_prefault = false;
    std::string cluster_key_file;
    std::string repair_rate = "128MiB";
    std::string scrub_rate = "32MiB";
};

void describe(CLI::App& app, Options& options, Written& written) {
    // A script's defaults come first, what a person appends counts.
    app.option_defaults()->take_last();
    app.add_option("--capacity", written.capacity,
                   "Memory for blocks, such as 64G; default: 1 GiB or a quarter of what is available, "
                   "whichever is less");
    app.add_option("--segment", written.segment, "Size of one segment; default: an eighth of the capacity");
    app.add_option("--near-cache", written.near_cache,
                   "Of the capacity, at most so much (1G, or 10%) keeps copies of what this host's clients "
                   "read often "
                   "from other nodes, where no node's own blocks need it; 0: none")
        ->capture_default_str();
    app.add_option("--shards", options.shards,
                   "Threads that serve, each with its part of the capacity; default: half of the processors")
        ->check(CLI::Range(1u, wire::kShardsMax).description(""));
    app.add_flag("--no-prefault", written.no_prefault, "Do not touch all memory at the start");
    app.add_option("--listen", options.listen, "HOST:PORT for clients on other hosts; port 0 picks one")
        ->capture_default_str();
    app.add_option(
        "--meta", options.meta,
        "HOST:PORT of the cmpoold whose cluster this one joins, or etcd://HOST:PORT[,...][/PREFIX] where "
        "all nodes keep theirs; default: it keeps its own");
    app.add_option("--advertise", options.advertise,
                   "HOST:PORT where clients and other nodes reach this one; default: that of --listen");
    app.add_option("--host", options.host, "What fails together: replicas lie on different ones")
        ->capture_default_str();
    app.add_option("--zone", options.zone, "The same, one size larger, such as a rack");
    app.add_option("--weight", options.weight,
                   "Share of the blocks, relative to other nodes'; default: the capacity in GiB, rounded up")
        ->check(CLI::Range(1u, 1'000'000u).description(""));
    app.add_option("--cluster-key-file", written.cluster_key_file,
                   "A file whose first line each node of the cluster has to show");
    app.add_option("--lease-ms", options.lease_ms,
                   "How long a node may be silent before its blocks are looked for elsewhere")
        ->check(CLI::Range(200u, 600'000u).description(""))
        ->capture_default_str();
    app.add_option("--repair-rate", written.repair_rate,
                   "At most so many bytes a second are sent to nodes that lack copies; 0: none")
        ->capture_default_str();
    app.add_option("--scrub-rate", written.scrub_rate,
                   "So many bytes a second are read again to see whether they are what was put; 0: none")
        ->capture_default_str();
    app.add_option("--plane", options.plane,
                   "NAME://HOST:PORT where clients of other hosts read blocks without this host's processor, "
                   "such as verbs://10.0.0.1:7412; all memory is then locked");
    app.add_option("--clients-max", options.clients_max,
                   "Most clients at once; one more is refused, and counted as clients_refused")
        ->check(CLI::Range(1u, 1'000'000u).description(""))
        ->capture_default_str();
    app.add_option("--hello-ms", options.hello_within_ms,
                   "Who connects and says nothing for so long is dropped, and counted as clients_silent")
        ->check(CLI::Range(10u, 600'000u).description(""))
        ->capture_default_str();
    app.add_option("--data-dir", options.data_dir, "Where namespaces are kept across restarts")
        ->capture_default_str();
    app.add_option("--runtime-dir", options.runtime_dir,
                   "Where segments and sockets live: on tmpfs or hugetlbfs")
        ->capture_default_str();
    app.add_option("--name", options.name, "What this node is called")->capture_default_str();
    app.add_option("--log-level", options.log_level, "What is logged to stderr")
        ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
        ->capture_default_str();
    app.set_config("--config", "", "A file of these options, such as capacity = \"64G\", one a line");
    app.set_version_flag("--version", "cmpoold " CMPOOL_VERSION);
    app.allow_config_extras(false);
}

Result<void> read_cluster_key(const std::string& path, Options& options) {
    if (path.empty()) return {};
    std::ifstream file(path);
    std::getline(file, options.cluster_key);
    if (file && !options.cluster_key.empty()) return {};
    return fail(Errc::Invalid, "--cluster-key-file: expected a file with a key in its first line, saw {}",
                path);
}

Result<void> read_sizes(const Written& written, Options& options) {
    for (const auto& [flag, text, rate] :
         {std::tuple{"--repair-rate", &written.repair_rate, &options.repair_bytes_per_second},
          std::tuple{"--scrub-rate", &written.scrub_rate, &options.scrub_bytes_per_second}}) {
        const auto parsed = parse_bytes(*text);
        if (!parsed) return fail(parsed.error().code, "{}: {}", flag, parsed.error().detail);
        *rate = *parsed;
    }
    for (const auto& [flag, text, bytes] :
         {std::tuple{"--capacity", &written.capacity, &options.capacity_bytes},
          std::tuple{"--segment", &written.segment, &options.segment_bytes}}) {
        if (text->empty()) continue;
        const auto parsed = parse_bytes(*text);
        if (!parsed) return fail(parsed.error().code, "{}: {}", flag, parsed.error().detail);
        if (*parsed < pool::kCapacityMin) {
            return fail(Errc::Invalid, "{}: expected at least {}, saw {}", flag,
                        format_bytes(pool::kCapacityMin), format_bytes(*parsed));
        }
        *bytes = *parsed;
    }
    return {};
}

Result<void> read_near_cache(std::string_view text, Options& options) {
    const auto expected = [&] {
        return fail(Errc::Invalid, "--near-cache: expected a size such as 1G, or 0% to 100%, saw {}", text);
    };
    if (!text.ends_with('%')) {
        const auto bytes = parse_bytes(text);
        if (!bytes) return expected();
        options.near_bytes = *bytes;
        return {};
    }
    double percent = 0;
    const char* end = text.data() + text.size() - 1;
    const auto parsed = std::from_chars(text.data(), end, percent);
    if (parsed.ec != std::errc{} || parsed.ptr != end || !(percent >= 0 && percent <= 100)) return expected();
    options.near_share = percent / 100;
    return {};
}

}  // namespace

ParsedOptions parse_options(int argc, char** argv) {
    Options options;
    options.data_dir = default_data_dir();
    options.runtime_dir = fmt::format("/dev/shm/cmpool-{}", ::geteuid());
    options.name = options.host = host_name();
    options.clients_max = pool::kClientsMaxDefault;
    options.hello_within_ms = static_cast<std::uint32_t>(pool::kHelloWithinDefault.count());
    Written written;
    CLI::App app("cmpoold keeps KV-cache and model blocks in this host's memory, for every engine that asks.",
                 "cmpoold");
    describe(app, options, written);
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& done) {
        return {std::nullopt, app.exit(done)};
    } catch (const CLI::ExtrasError& error) {
        fmt::print(stderr, "cmpoold: expected flags that --help lists, saw others: {}\n", error.what());
        return {std::nullopt, 2};
    } catch (const CLI::ConfigError& error) {
        fmt::print(stderr, "cmpoold: expected a configuration file of flags that --help lists, saw: {}\n",
                   error.what());
        return {std::nullopt, 1};
    } catch (const CLI::FileError& error) {
        fmt::print(stderr, "cmpoold: expected a configuration file that can be read, saw: {}\n",
                   error.what());
        return {std::nullopt, 1};
    } catch (const CLI::ParseError& error) {
        fmt::print(stderr, "cmpoold: {}\n", error.what());
        return {std::nullopt, 1};
    }
    if (auto read = read_sizes(written, options); !read) {
        fmt::print(stderr, "cmpoold: {}\n", read.error().detail);
        return {std::nullopt, 1};
    }
    if (auto read = read_near_cache(written.near_cache, options); !read) {
        fmt::print(stderr, "cmpoold: {}\n", read.error().detail);
        return {std::nullopt, 1};
    }
    if (auto read = read_cluster_key(written.cluster_key_file, options); !read) {
        fmt::print(stderr, "cmpoold: {}\n", read.error().detail);
        return {std::nullopt, 1};
    }
    options.prefault = !written.no_prefault;
    if (options.shards == 0) options.shards = default_shards();
    return {options, 0};
}

}  // namespace cmpool::daemon
