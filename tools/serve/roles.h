#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/base/result.h>
#include <cmpool/base/units.h>

namespace cmpool::serve {

/// Half of this machine's cores: a server has two workers that compute, on one host as a rule.
[[nodiscard]] std::uint32_t default_threads() noexcept;

/// What the roles of a server are told. Each uses what concerns it.
struct RoleOptions {
    std::string model;
    std::string tokenizer;   ///< as in GenerateOptions
    std::string model_name;  ///< in requests; empty: the model's file, without .bin
    std::string pool = "none";
    std::string listen = "127.0.0.1:0";
    std::string runtime_dir;       ///< for sockets of this host; empty: one of its own
    std::string handoff = "auto";  ///< auto, shm or tcp
    std::vector<std::string> prefills, decodes;
    std::uint32_t block_tokens = 16;
    std::uint32_t step_tokens = 128;
    std::uint32_t running_max = 32;
    std::uint32_t threads = default_threads();      ///< that compute a step together
    std::optional<std::uint64_t> load_bytes_per_s;  ///< from the pool, at most
    std::uint32_t requests_max = 64;
    std::uint32_t prefill_seconds = 120;
    std::uint32_t request_seconds = 600;
    std::uint64_t kv_bytes = 512 * MiB;
    bool store_decoded = false;
};

/// Each runs until SIGTERM or SIGINT, and prints one line `ready ADDRESS` when it serves.
[[nodiscard]] Result<void> run_prefill(const RoleOptions& options);
[[nodiscard]] Result<void> run_decode(const RoleOptions& options);
[[nodiscard]] Result<void> run_router(const RoleOptions& options);
/// A router, a prefill and a decode process, as children that end with it and that it starts again when
/// they die.
[[nodiscard]] Result<void> run_all(const RoleOptions& options);

/// SIGTERM and SIGINT from now on, in this thread and those it starts, as a descriptor to wait for.
[[nodiscard]] int stop_descriptor();
/// A fresh folder of this process on tmpfs. Errors: PeerDown where none can be made.
[[nodiscard]] Result<std::string> make_runtime_dir();

}  // namespace cmpool::serve
