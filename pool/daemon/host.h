#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <cmpool/base/result.h>
#include <cmpool/base/unique_fd.h>

// What the daemon asks of the host before it serves. Every error says what was expected and what was seen.
namespace cmpool::daemon {

/// Fewest descriptors that serving makes sense with.
inline constexpr std::uint64_t kDescriptorsMin = 256;
/// Of them, how many clients' lanes do not get: for meta's files, lanes to members and clients' control
/// pages.
inline constexpr std::uint64_t kDescriptorsKept = 128;

[[nodiscard]] std::string host_name();

/// Half of the processors that this process may run on, the other half being for its clients; one at
/// least, kDefaultShardsMax at most.
[[nodiscard]] std::uint32_t default_shards();
inline constexpr std::uint32_t kDefaultShardsMax = 16;

/// Raises the soft limit of open files to the hard one. Errors: NoCapacity below kDescriptorsMin.
[[nodiscard]] Result<std::uint64_t> raise_descriptor_limit();

/// Makes the folder, for others to pass through but not to list. Errors: Denied, Invalid when it does
/// not lie in memory.
[[nodiscard]] Result<void> prepare_runtime_folder(const std::string& folder);

/// Makes the folder, for nobody else. Errors: Denied.
[[nodiscard]] Result<void> prepare_data_folder(const std::string& folder);

/// `wanted`, or when that is 0 what suits the host: 1 GiB, but at most a quarter of its available memory
/// and three quarters of what `folder` has free. Errors: NoCapacity when the folder, the host, this process's
/// container or its address space has less: said now, since a page that is missing later is a SIGBUS.
[[nodiscard]] Result<std::uint64_t> choose_capacity(std::uint64_t wanted, const std::string& folder);

/// What is resident of this process and not shared memory (heap, stacks, the program's pages), and its
/// clients' control pages. Not segments, and not the kernel's: page tables, socket buffers.
[[nodiscard]] std::uint64_t resident_private_bytes(std::uint64_t client_pages);

/// How long the calling thread has run, and how long it could have run and had no processor, which requests
/// wait for as well.
struct ProcessorTime {
    std::uint64_t ran_ns;
    std::uint64_t waited_ns;
};
/// None where the kernel keeps no such account.
[[nodiscard]] std::optional<ProcessorTime> processor_time();

/// Holds a folder for one daemon: a locked file with its pid, gone when this is.
class FolderLock {
public:
    /// Errors: Again, with the pid of who holds it; Denied.
    [[nodiscard]] static Result<FolderLock> take(const std::string& folder);
    FolderLock(FolderLock&&) noexcept = default;
    FolderLock& operator=(FolderLock&&) = delete;
    ~FolderLock();

private:
    FolderLock(std::string path, UniqueFd fd) noexcept : path_(std::move(path)), fd_(std::move(fd)) {}

    std::string path_;
    UniqueFd fd_;
};

}  // namespace cmpool::daemon
