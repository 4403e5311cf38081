#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <cmpool/base/result.h>

namespace cmpool::daemon {

/// What the command line and the configuration file say; none of it is required.
struct Options {
    std::uint64_t capacity_bytes = 0;  ///< 0: chosen from what the host has
    std::uint64_t segment_bytes = 0;   ///< 0: the pool's choice
    std::uint64_t near_bytes = 0;      ///< of the capacity, at most; 0: none
    double near_share = 0;             ///< the same as a part of it; one of the two is 0
    std::uint32_t shards = 0;          ///< 0: one for two of the processors that we may use
    bool prefault = true;
    std::string listen = "127.0.0.1:7411";
    std::string meta;       ///< HOST:PORT of the node that keeps meta, or etcd://...; empty: this one
    std::string advertise;  ///< HOST:PORT where others reach us; empty: where we listen
    std::string host;       ///< what fails together
    std::string zone;
    std::uint32_t weight = 0;  ///< 0: the capacity in GiB, rounded up
    std::string cluster_key;
    std::uint32_t lease_ms = 3000;
    std::uint64_t repair_bytes_per_second = 0;  ///< of all shards; kRepairRateDefault where nothing is said
    std::uint64_t scrub_bytes_per_second = 0;   ///< of all shards; kScrubRateDefault where nothing is said
    std::string plane;  ///< NAME://HOST:PORT where clients read this host's memory one-sided; empty: nowhere
    std::uint32_t clients_max = 0;      ///< of each shard; kClientsMaxDefault where nothing is said
    std::uint32_t hello_within_ms = 0;  ///< kHelloWithinDefault where nothing is said
    std::string data_dir;
    std::string runtime_dir;
    std::string name;
    std::string log_level = "info";
};

/// Either options, or the exit code of a process that has said all it had to say.
struct ParsedOptions {
    std::optional<Options> options;
    int exit_code = 0;
};

/// Reads the command line and, with --config, a file. Prints help, the version and mistakes itself.
/// An unknown flag exits with 2, whatever else is wrong with 1.
[[nodiscard]] ParsedOptions parse_options(int argc, char** argv);

}  // namespace cmpool::daemon
