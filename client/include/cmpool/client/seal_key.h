#pragma once

#include <array>
#include <cstddef>
#include <string>

#include <cmpool/base/result.h>

namespace cmpool::client {

/// What all clients of a sealed namespace share and no server is told: 256 bits of chance, from
/// `openssl rand -out FILE 32` or the like. Each namespace's own keys are derived from it.
using SealKey = std::array<std::byte, 32>;

/// Reads one from a file that nobody but its owner may read: 32 bytes, or 64 hexadecimal digits and at most a
/// line's end. Errors: Invalid for what is no such file; Denied where others may read or write it, or where
/// it is neither ours nor root's.
[[nodiscard]] Result<SealKey> read_seal_key(const std::string& path);

}  // namespace cmpool::client
