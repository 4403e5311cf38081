#include "connect.h"

#include <algorithm>

#include <cmpool/client/environment.h>

#include <CLI/CLI.hpp>

namespace cmpool::cli {
namespace {

constexpr std::string_view kDigestPrefix = "digest:";
constexpr std::uint32_t kDeadlineMsMax = 3'600'000;

std::string check_pool(const std::string& text) {
    const auto uri = client::PoolUri::parse(text);
    return uri ? std::string{} : uri.error().detail;
}

// Who answers something else is no pool either.
bool absent(Errc code) { return code == Errc::PeerDown || code == Errc::Deadline || code == Errc::Corrupt; }

Error explain(const client::PoolUri& uri, const Error& seen) {
    if (!absent(seen.code)) return {seen.code, fmt::format("{}: {}", uri.address, seen.detail)};
    return {seen.code, fmt::format("expected a pool at {}, saw \"{}\": start cmpoold there, or name another "
                                   "pool with --pool",
                                   uri.address, seen.detail)};
}

}  // namespace

Result<client::PoolUri> Common::uri() const {
    auto parsed = client::PoolUri::parse(pool);
    if (!parsed) return parsed;
    const bool named = pool.find("deadline_ms=") != std::string::npos;
    if (deadline_ms != 0) {
        parsed->deadline = std::chrono::milliseconds(deadline_ms);
    } else if (!named) {
        parsed->deadline = kPatience;
    }
    return parsed;
}

Result<client::PoolUri> Common::plain_uri() const {
    auto plain = uri();
    if (plain) plain->seal_key_file.clear();
    return plain;
}

void add_pool(CLI::App& verb, Common& common) {
    verb.add_option("--pool", common.pool, "Where the pool is: cmpool://HOST:PORT[?transport=shm|tcp]")
        ->envname("CMPOOL_POOL")
        ->check(CLI::Validator(check_pool, ""))
        ->type_name("URI")
        ->take_last()
        ->capture_default_str();
    verb.add_option(
            "--deadline-ms", common.deadline_ms,
            fmt::format("Longest time that a call may take; default: the URI's, else {}", kPatience.count()))
        ->check(CLI::Range(1U, kDeadlineMsMax).description(""))
        ->type_name("MS")
        ->take_last();
}

void add_common(CLI::App& verb, Common& common) {
    add_pool(verb, common);
    verb.add_flag("--json", common.json, "Print one JSON object instead of text");
}

void add_place(CLI::App& verb, Place& place) {
    verb.add_option("--namespace", place.name, "Blocks with one key in two namespaces are two blocks")
        ->type_name("NAME")
        ->take_last()
        ->capture_default_str();
    verb.add_option("--tenant", place.tenant,
                    fmt::format("Whose namespace; default: the URI's, else \"{}\"", model::kDefaultTenant))
        ->type_name("NAME")
        ->take_last();
    add_seal_key(verb, place.seal_key_file);
}

void add_seal_key(CLI::App& verb, std::string& path) {
    verb.add_option("--seal-key-file", path,
                    "Makes or opens a sealed namespace: blocks are encrypted here, with 32 bytes that no "
                    "server is told")
        ->type_name("PATH")
        ->take_last();
}

void add_keys(CLI::App& verb, std::vector<std::string>& keys) {
    verb.add_option("KEY", keys, "Any text, or digest: and the 64 hex digits that ls prints")
        ->required()
        ->type_name("")
        ->check(CLI::Validator(check_key, ""));
}

client::NamespaceSpec tool_namespace(const Place& place) {
    client::NamespaceSpec spec{.model = place.name,
                               .dtype = "bytes",
                               .layout = "opaque",
                               .engine = "cmpool-cli",
                               .block_tokens = 0,
                               .group_blocks = 1};
    if (!place.tenant.empty()) spec.tenant = place.tenant;
    return spec;
}

Result<std::unique_ptr<client::PoolClient>> open_pool(const client::PoolUri& uri,
                                                      const client::NamespaceSpec& spec) {
    auto pool = client::PoolClient::open_in(client::system_environment(), uri, spec);
    if (!pool) return fail(explain(uri, pool.error()));
    const auto status = (*pool)->status();
    if (status.ready) return pool;
    const Error silent{Errc::Deadline,
                       fmt::format("no answer within {} ms", uri.deadline / std::chrono::milliseconds(1))};
    return fail(explain(uri, status.trouble.value_or(silent)));
}

Result<std::unique_ptr<client::PoolClient>> open_pool(const Common& common, const Place& place) {
    auto uri = common.uri();
    if (!uri) return fail(uri.error());
    // A tenant in the URI would outrank the flag.
    if (!place.tenant.empty()) uri->tenant = place.tenant;
    if (!place.seal_key_file.empty()) uri->seal_key_file = place.seal_key_file;
    return open_pool(*uri, tool_namespace(place));
}

std::string check_key(const std::string& key) {
    if (key.empty()) return "expected a key, saw an empty one";
    if (!key.starts_with(kDigestPrefix)) return {};
    client::Digest digest;
    if (from_hex(std::string_view(key).substr(kDigestPrefix.size()), digest.bytes)) return {};
    return fmt::format("expected digest: and {} hex digits, saw \"{}\"", 2 * digest.bytes.size(), key);
}

Result<client::Digest> key_digest(const client::PoolClient& pool, const std::string& key) {
    client::Digest digest;
    if (!key.starts_with(kDigestPrefix)) return pool.key(as_bytes(key));
    if (!from_hex(std::string_view(key).substr(kDigestPrefix.size()), digest.bytes))
        return fail(Errc::Invalid, "{}", check_key(key));
    return digest;
}

Result<std::vector<client::Digest>> key_digests(const client::PoolClient& pool,
                                                const std::vector<std::string>& keys) {
    std::vector<client::Digest> digests;
    for (const auto& key : keys) {
        const auto digest = key_digest(pool, key);
        if (!digest) return fail(digest.error());
        digests.push_back(*digest);
    }
    return digests;
}

}  // namespace cmpool::cli
