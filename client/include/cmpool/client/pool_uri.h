#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/client/seal_key.h>

namespace cmpool::client {

/// How a client reaches a pool. Auto: shm on the same host, else tcp.
enum class Transport : std::uint8_t { Auto, Shm, Tcp };

inline constexpr std::chrono::milliseconds kDeadlineDefault{200};
inline constexpr const char* kMessages = "messages";
inline constexpr const char* kDefaultUri = "cmpool://127.0.0.1:7411";

/// Where a pool is and how to talk to it.
///
///   Source
///   cmpool://HOST:PORT[,HOST:PORT...]?transport=shm|tcp&kv=PLANE&deadline_ms=N&tenant=NAME&key=SECRET&seal_key_file=PATH,
///           values percent-encoded as in RFC 3986
struct PoolUri {
    std::string address;              ///< HOST:PORT
    std::vector<std::string> others;  ///< nodes of the same cluster, asked when the first does not answer
    Transport transport = Transport::Auto;
    /// What blocks are read over on another host; messages always travel as `transport` says. Empty: what
    /// both sides have; kMessages: nothing else; else the one plane of that name, also on the same host.
    std::string kv;
    Nanos deadline = kDeadlineDefault;  ///< of a call that names none
    std::string tenant;                 ///< empty: that of the namespace
    std::string tenant_key;             ///< proves a tenant over tcp
    std::string seal_key_file;  ///< of a sealed namespace: read_seal_key()'s; PoolClient::open() reads it
    std::optional<SealKey> seal_key{};  ///< no part of the text

    /// Errors: Invalid, with what was expected and what was seen.
    [[nodiscard]] static Result<PoolUri> parse(std::string_view text);
};

}  // namespace cmpool::client
