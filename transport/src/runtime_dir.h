#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <cmpool/base/result.h>
#include <cmpool/base/unique_fd.h>

namespace cmpool::transport {

/// Makes sure that the folder exists (created 0711: others may reach a socket in it, not list it),
/// is ours, and that nobody else can put files into it. Errors: Denied, with what to change.
[[nodiscard]] Result<void> prepare_runtime_dir(const std::string& folder);

/// A new file for a segment that peers may only read: 0600, so that another uid can neither open it
/// nor reopen a descriptor of it for writing. It has lost its name already: nobody can cut it short, which
/// would be a SIGBUS for whoever has mapped it. `bytes` of memory are reserved: using it cannot fail.
/// Errors: NoCapacity, Denied.
struct SegmentFile {
    UniqueFd fd;         ///< read and write, ours
    UniqueFd read_only;  ///< for peers
};
[[nodiscard]] Result<SegmentFile> create_segment_file(const std::string& folder, std::string_view name,
                                                      std::uint64_t id, std::uint64_t bytes);

/// Gives all of the file's memory back at once, even while peers map it: they read zeros.
void punch_all(int fd, std::uint64_t bytes) noexcept;

}  // namespace cmpool::transport
