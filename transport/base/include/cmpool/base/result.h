#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <tl/expected.hpp>

namespace cmpool {

/// Why an operation failed. A code exists only where some caller acts differently on it; the rest
/// of the story is Error::detail. A stale epoch is no error: the answer carries the newer view.
/// The numbers travel in messages: they never change their meaning.
enum class Errc : std::uint16_t {
    Again = 1,        ///< the queue is full: poll, then post the rest
    NoCapacity = 2,   ///< nothing is evictable: back off, then retry
    Deadline = 3,     ///< time is up: treat as a miss; buffers stay parked until settled
    LeaseLost = 4,    ///< the bytes may be reused by now: drop the view
    PeerDown = 5,     ///< the lane failed: ask another replica
    Corrupt = 6,      ///< checksum or digest mismatch: never trust this copy again
    Denied = 7,       ///< wrong token, key or tenant: do not retry
    Mismatch = 8,     ///< another fingerprint or protocol version: show both sides to a person
    Unsupported = 9,  ///< this back end cannot: choose by Caps instead
    Invalid = 10,     ///< the request itself is wrong: retrying cannot help
};

/// The code's name as it stands above, for logs and people.
[[nodiscard]] std::string_view to_string(Errc code) noexcept;

struct Error {
    Errc code;
    std::string detail;  ///< for people: which block, which peer, expected and seen
};

template <class T>
using Result = tl::expected<T, Error>;  // C++23's std::expected, one edit away

/// `return fail(Errc::NoCapacity, "all {} blocks of shard {} are pinned", pinned, shard);`
template <class... Args>
[[nodiscard]] tl::unexpected<Error> fail(Errc code, fmt::format_string<Args...> format, Args&&... args) {
    return tl::unexpected<Error>(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}

/// Hands a failure on: `if (!mapped) return fail(mapped.error());`
[[nodiscard]] inline tl::unexpected<Error> fail(Error error) {
    return tl::unexpected<Error>(std::move(error));
}

}  // namespace cmpool
