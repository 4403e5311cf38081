#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::engine {

/// Bytes that are read piece by piece: a file, or memory.
class ByteSource {
public:
    virtual ~ByteSource() = default;

    /// For people.
    [[nodiscard]] virtual const std::string& name() const noexcept = 0;
    /// As it was when the source was opened.
    [[nodiscard]] virtual std::uint64_t size() const noexcept = 0;
    /// Fills `out` from the offset on. Errors: Invalid when the bytes are not all there.
    [[nodiscard]] virtual Result<void> read(std::uint64_t offset, MutableBytes out) = 0;
};

/// Errors: Invalid when it is no regular file that can be read.
[[nodiscard]] Result<std::unique_ptr<ByteSource>> open_file(const std::filesystem::path& path);
/// The bytes are borrowed.
[[nodiscard]] std::unique_ptr<ByteSource> view_bytes(std::string name, Bytes bytes);

}  // namespace cmpool::engine
