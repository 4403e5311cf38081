#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>

#include <doctest/doctest.h>

namespace cmpool::testing {

/// A path below the folder of recorded traces and model files, which is not part of the project:
/// CMPOOL_SHARED, else ../shared beside the source tree. Nothing where it is absent; the caller
/// returns, and the line printed here says that it skipped.
[[nodiscard]] inline std::optional<std::filesystem::path> shared_data(std::string_view relative) {
    const char* root = std::getenv("CMPOOL_SHARED");
    const std::filesystem::path path =
        std::filesystem::path(root != nullptr ? root : CMPOOL_SOURCE_DIR "/../shared") / relative;
    if (std::filesystem::exists(path)) return path;
    MESSAGE("skipped: " << path.string() << " is absent; set CMPOOL_SHARED to the folder that has it");
    return std::nullopt;
}

}  // namespace cmpool::testing
