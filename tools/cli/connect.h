#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/client/pool_client.h>

namespace CLI {
class App;
}

namespace cmpool::cli {

/// How long a call may take when neither the URI nor a flag says so: a person has more patience than
/// an engine.
inline constexpr std::chrono::milliseconds kPatience{2000};

/// Flags that every verb has.
struct Common {
    std::string pool = client::kDefaultUri;
    std::uint32_t deadline_ms = 0;  ///< 0: the URI's, else kPatience
    bool json = false;

    /// Errors: Invalid.
    [[nodiscard]] Result<client::PoolUri> uri() const;
    /// For what is about no blocks: without the seal key that the URI names.
    [[nodiscard]] Result<client::PoolUri> plain_uri() const;
};

/// Whose blocks a verb is about.
struct Place {
    std::string name = "cli";     ///< of the namespace, as its model
    std::string tenant{};         ///< empty: the URI's, else the default one
    std::string seal_key_file{};  ///< of a sealed one; empty: the URI's, if it names any
};

void add_common(CLI::App& verb, Common& common);
/// All of them but --json.
void add_pool(CLI::App& verb, Common& common);
void add_place(CLI::App& verb, Place& place);
void add_seal_key(CLI::App& verb, std::string& path);
void add_keys(CLI::App& verb, std::vector<std::string>& keys);

/// The namespace of keys and bytes that this tool makes under a name.
[[nodiscard]] client::NamespaceSpec tool_namespace(const Place& place);

/// Opens a namespace, or says in a sentence what was expected, what was seen and what to do.
[[nodiscard]] Result<std::unique_ptr<client::PoolClient>> open_pool(const client::PoolUri& uri,
                                                                    const client::NamespaceSpec& spec);
/// The same from what the flags say.
[[nodiscard]] Result<std::unique_ptr<client::PoolClient>> open_pool(const Common& common, const Place& place);

/// The digest of a key as written by a person: its own bytes, or "digest:" and 64 hex digits.
[[nodiscard]] Result<client::Digest> key_digest(const client::PoolClient& pool, const std::string& key);
[[nodiscard]] Result<std::vector<client::Digest>> key_digests(const client::PoolClient& pool,
                                                              const std::vector<std::string>& keys);
/// Empty, or what is wrong with a key; for CLI11.
[[nodiscard]] std::string check_key(const std::string& key);

}  // namespace cmpool::cli
