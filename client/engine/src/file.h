#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::engine {

/// A whole regular file. Errors: Invalid when it cannot be read or is larger than bytes_max.
[[nodiscard]] Result<std::vector<std::byte>> read_file(const std::filesystem::path& path,
                                                       std::uint64_t bytes_max);

/// Adds the file's name to what was wrong with its content.
template <class T>
[[nodiscard]] Result<T> name_file(Result<T> parsed, const std::filesystem::path& path) {
    if (!parsed) return fail(parsed.error().code, "{}: {}", path.string(), parsed.error().detail);
    return parsed;
}

}  // namespace cmpool::engine
