#include "host.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include <cmpool/base/units.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/pool/server.h>

#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

namespace cmpool::daemon {
namespace {

constexpr std::uint64_t kCapacityDefault = 1 * GiB;
constexpr int kLockAttempts = 100;
/// How names of index segments end in the runtime folder.
constexpr std::string_view kIndexSuffix = "-index";
/// What stat() counts blocks of a file in, whatever the file system's own are.
constexpr std::uint64_t kStatBlockBytes = 512;

// Whole megabytes read better, and fit pages of every size.
std::uint64_t whole_megabytes(std::uint64_t bytes) { return bytes / MiB * MiB; }

std::optional<std::uint64_t> read_number(const char* path) {
    std::ifstream file(path);
    std::uint64_t value = 0;
    if (!(file >> value)) return std::nullopt;
    return value;
}

// What this process may still take: the host's word, or its container's where that is less.
std::uint64_t available_bytes() {
    std::uint64_t available = UINT64_MAX;
    std::ifstream info("/proc/meminfo");
    for (std::string line; std::getline(info, line);) {
        if (line.starts_with("MemAvailable:")) available = std::stoull(line.substr(13)) * KiB;
    }
    for (const auto& [limit, used] : {std::pair{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
                                      std::pair{"/sys/fs/cgroup/memory/memory.limit_in_bytes",
                                                "/sys/fs/cgroup/memory/memory.usage_in_bytes"}}) {
        const auto most = read_number(limit);
        const auto taken = read_number(used);
        if (most && taken) available = std::min(available, *most - std::min(*most, *taken));
    }
    return available;
}

Result<std::uint64_t> free_bytes(const std::string& folder) {
    struct statfs space {};
    if (::statfs(folder.c_str(), &space) != 0) {
        return fail(Errc::Denied, "expected to see what {} has free, saw \"{}\"", folder,
                    std::strerror(errno));
    }
    return static_cast<std::uint64_t>(space.f_bavail) * static_cast<std::uint64_t>(space.f_bsize);
}

// Counters, not a walk through page tables: a pool maps millions of pages.
std::uint64_t resident_unshared_bytes() {
    std::uint64_t bytes = 0;
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        for (const std::string_view name : {"RssAnon:", "RssFile:"}) {
            if (line.starts_with(name)) bytes += std::stoull(line.substr(name.size())) * KiB;
        }
    }
    return bytes;
}

std::uint64_t index_segment_bytes(const std::string& folder) {
    std::uint64_t bytes = 0;
    std::error_code error;
    std::filesystem::directory_iterator file(folder, error);
    for (; !error && file != std::filesystem::directory_iterator(); file.increment(error)) {
        const auto& path = file->path();
        struct stat seen {};
        if (path.native().ends_with(kIndexSuffix) && ::stat(path.c_str(), &seen) == 0)
            bytes += static_cast<std::uint64_t>(seen.st_blocks) * kStatBlockBytes;
    }
    return bytes;
}

Result<void> make_folder(const std::string& folder, mode_t mode, mode_t forbidden) {
    std::error_code error;
    const auto parent = std::filesystem::path(folder).parent_path();
    if (!parent.empty()) std::filesystem::create_directories(parent, error);
    if (::mkdir(folder.c_str(), mode) == 0) {
        ::chmod(folder.c_str(), mode);  // whatever the umask says
    } else if (errno != EEXIST) {
        return fail(Errc::Denied, "expected to make the folder {}, saw \"{}\"", folder, std::strerror(errno));
    }
    struct stat seen {};
    if (::lstat(folder.c_str(), &seen) != 0 || !S_ISDIR(seen.st_mode)) {
        return fail(Errc::Denied, "expected {} to be a folder, saw something else", folder);
    }
    if (seen.st_uid != ::geteuid() || (seen.st_mode & forbidden) != 0 ||
        ::access(folder.c_str(), W_OK) != 0) {
        return fail(Errc::Denied, "expected {} to belong to uid {} with mode {:o}, saw uid {} with mode {:o}",
                    folder, ::geteuid(), mode, seen.st_uid, seen.st_mode & 0777);
    }
    return {};
}

std::string holder_of(int fd) {
    std::array<char, 32> text{};
    const auto bytes = ::pread(fd, text.data(), text.size() - 1, 0);
    return bytes > 0 ? std::string(text.data(), static_cast<std::size_t>(bytes)) : "unknown";
}

// A file that its last holder has unlinked locks nothing any more.
bool still_there(int fd, const std::string& path) {
    struct stat ours {};
    struct stat there {};
    return ::fstat(fd, &ours) == 0 && ::stat(path.c_str(), &there) == 0 && ours.st_ino == there.st_ino &&
           ours.st_dev == there.st_dev;
}

}  // namespace

std::string host_name() {
    std::array<char, HOST_NAME_MAX + 1> name{};
    return ::gethostname(name.data(), name.size() - 1) == 0 && name[0] != '\0' ? name.data() : "local";
}

std::uint32_t default_shards() {
    cpu_set_t ours;
    const int count = ::sched_getaffinity(0, sizeof ours, &ours) == 0 ? CPU_COUNT(&ours) : 1;
    return std::clamp<std::uint32_t>(static_cast<std::uint32_t>(count) / 2, 1, kDefaultShardsMax);
}

Result<std::uint64_t> raise_descriptor_limit() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < kDescriptorsMin) {
        return fail(
            Errc::NoCapacity,
            "expected a limit of at least {} open files, saw a hard limit of {}: raise it (ulimit -Hn)",
            kDescriptorsMin, limit.rlim_max);
    }
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

Result<void> prepare_runtime_folder(const std::string& folder) {
    if (auto made = make_folder(folder, 0711, 0022); !made) return made;
    struct statfs space {};
    if (::statfs(folder.c_str(), &space) != 0) {
        return fail(Errc::Denied, "expected to see what {} lies on, saw \"{}\"", folder,
                    std::strerror(errno));
    }
    const auto type = static_cast<std::uint64_t>(space.f_type);
    if (type == TMPFS_MAGIC || type == HUGETLBFS_MAGIC) return {};
    return fail(
        Errc::Invalid,
        "expected the runtime folder on tmpfs or hugetlbfs, saw {} on a file system of type {:#x}: blocks "
        "would be written to a disk; choose another with --runtime-dir",
        folder, type);
}

Result<void> prepare_data_folder(const std::string& folder) { return make_folder(folder, 0700, 0022); }

Result<std::uint64_t> choose_capacity(std::uint64_t wanted, const std::string& folder) {
    const auto room = free_bytes(folder);
    if (!room) return room;
    if (wanted > *room) {
        return fail(Errc::NoCapacity, "expected {} of memory in {}, saw {} free: give less with --capacity",
                    format_bytes(wanted), folder, format_bytes(*room));
    }
    if (wanted != 0) return wanted;
    // The index and its pages want room in that folder too.
    const auto chosen = whole_megabytes(std::min({kCapacityDefault, available_bytes() / 4, *room / 4 * 3}));
    if (chosen < pool::kCapacityMin) {
        return fail(Errc::NoCapacity, "expected at least {} of memory, saw {} available and {} free in {}",
                    format_bytes(pool::kCapacityMin), format_bytes(available_bytes()), format_bytes(*room),
                    folder);
    }
    return chosen;
}

OwnMemory own_memory(const std::string& runtime_folder, std::uint64_t client_pages) {
    const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    OwnMemory own{.private_bytes = 0, .index_bytes = index_segment_bytes(runtime_folder)};
    own.private_bytes = resident_unshared_bytes() + own.index_bytes +
                        client_pages * round_up(sizeof(model::ControlPage), page_bytes);
    return own;
}

Result<FolderLock> FolderLock::take(const std::string& folder) {
    const std::string path = folder + "/cmpoold.lock";
    for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
        UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!fd) return fail(Errc::Denied, "expected to open {}, saw \"{}\"", path, std::strerror(errno));
        if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
            return fail(Errc::Again, "expected {} to be free, saw that the cmpoold with pid {} uses it",
                        folder, holder_of(fd.get()));
        }
        if (!still_there(fd.get(), path)) continue;
        const auto pid = std::to_string(::getpid());
        if (::ftruncate(fd.get(), 0) != 0 || ::pwrite(fd.get(), pid.data(), pid.size(), 0) < 0) {
            return fail(Errc::NoCapacity, "expected to write {}, saw \"{}\"", path, std::strerror(errno));
        }
        return FolderLock(path, std::move(fd));
    }
    return fail(Errc::Again, "expected to lock {}, saw others take and leave it {} times", path,
                kLockAttempts);
}

FolderLock::~FolderLock() {
    if (fd_) ::unlink(path_.c_str());
}

}  // namespace cmpool::daemon
