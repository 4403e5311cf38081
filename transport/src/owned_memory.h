#pragma once

#include <cstdint>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::transport {

/// A memory mapping of ours; none when empty.
class OwnedMemory {
public:
    OwnedMemory() = default;
    OwnedMemory(OwnedMemory&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
    OwnedMemory& operator=(OwnedMemory&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~OwnedMemory();

    /// Private zeroed memory. Errors: NoCapacity, Invalid for no bytes at all.
    [[nodiscard]] static Result<OwnedMemory> anonymous(std::uint64_t bytes, bool prefault);
    /// All of a file. Errors: NoCapacity.
    [[nodiscard]] static Result<OwnedMemory> file(int fd, std::uint64_t bytes, bool writable);

    /// Touches every page now. Errors: NoCapacity where memory is missing.
    [[nodiscard]] Result<void> prefault() const;
    [[nodiscard]] MutableBytes bytes() const noexcept { return bytes_; }

private:
    explicit OwnedMemory(MutableBytes bytes) noexcept : bytes_(bytes) {}
    MutableBytes bytes_;
};

/// Rounded up to whole pages. Errors: Invalid for none, or for more than an address can name.
[[nodiscard]] Result<std::uint64_t> whole_pages(std::uint64_t bytes);

}  // namespace cmpool::transport
