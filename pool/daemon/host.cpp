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
/// A domain's index takes at most so large a part of the capacity, besides it.
constexpr std::uint64_t kIndexShare = 64;
/// Address space for programs, stacks, meta's store and clients' pages, besides segments.
constexpr std::uint64_t kAddressSpaceBeside = 1 * GiB;

// Whole megabytes read better, and fit pages of every size.
std::uint64_t whole_megabytes(std::uint64_t bytes) { return bytes / MiB * MiB; }

std::optional<std::uint64_t> read_number(const std::string& path) {
    std::ifstream file(path);
    std::uint64_t value = 0;
    if (!(file >> value)) return std::nullopt;
    return value;
}

/// Files of cgroups' two versions.
struct CgroupFiles {
    const char* controller;  ///< as /proc/self/cgroup writes it
    const char* root;
    const char* limit;
    const char* used;
};
constexpr std::array<CgroupFiles, 2> kCgroups{
    {{"", "/sys/fs/cgroup", "memory.max", "memory.current"},
     {"memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"}}};

/// What is counted as used and given back where it is needed: the cache of files on disks.
std::uint64_t cached_bytes(const std::string& stat_file) {
    std::ifstream stat(stat_file);
    std::uint64_t sum = 0;
    std::string name;
    for (std::uint64_t value = 0; stat >> name >> value;) {
        if (name == "inactive_file" || name == "active_file") sum += value;
    }
    return sum;
}

/// What a container leaves, it and all that it lies in; inside of one its own folder is the root.
std::uint64_t cgroup_available_bytes() {
    std::uint64_t available = UINT64_MAX;
    std::ifstream ours("/proc/self/cgroup");
    for (std::string line; std::getline(ours, line);) {
        const auto first = line.find(':');
        const auto second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controller = line.substr(first + 1, second - first - 1);
        for (const auto& version : kCgroups) {
            if (controller != version.controller) continue;
            for (std::filesystem::path path = line.substr(second + 1);; path = path.parent_path()) {
                const std::string folder = version.root + path.string() + "/";
                const auto most = read_number(folder + version.limit);
                const auto used = read_number(folder + version.used);
                if (most && used) {
                    const auto kept = *used - std::min(*used, cached_bytes(folder + "memory.stat"));
                    available = std::min(available, *most - std::min(*most, kept));
                }
                if (path == path.parent_path()) break;
            }
        }
    }
    return available;
}

// What this process may still take: the host's word, or its container's where that is less.
std::uint64_t available_bytes() {
    std::uint64_t host = 0;
    std::ifstream info("/proc/meminfo");
    for (std::string line; std::getline(info, line);) {
        if (line.starts_with("MemAvailable:")) host = std::stoull(line.substr(13)) * KiB;
    }
    return std::min(host == 0 ? UINT64_MAX : host, cgroup_available_bytes());
}

Result<void> check_address_space(std::uint64_t capacity_bytes) {
    rlimit limit{};
    ::getrlimit(RLIMIT_AS, &limit);
    if (limit.rlim_cur == RLIM_INFINITY) return {};
    const std::uint64_t needed = capacity_bytes + capacity_bytes / kIndexShare + kAddressSpaceBeside;
    if (limit.rlim_cur >= needed) return {};
    return fail(Errc::NoCapacity,
                "expected an address space of at least {} for {} of blocks, saw a limit of {}: raise it "
                "(ulimit -v) or give less with --capacity",
                format_bytes(needed), format_bytes(capacity_bytes), format_bytes(limit.rlim_cur));
}

Result<void> check_capacity(std::uint64_t wanted, std::uint64_t room, const std::string& folder) {
    const std::uint64_t with_index = wanted + wanted / kIndexShare;
    if (with_index > room) {
        return fail(Errc::NoCapacity,
                    "expected {} of memory in {}, index included, saw {} free: give less with --capacity",
                    format_bytes(with_index), folder, format_bytes(room));
    }
    // Pages of hugetlbfs are set aside already.
    struct statfs space {};
    const bool set_aside = ::statfs(folder.c_str(), &space) == 0 && space.f_type == HUGETLBFS_MAGIC;
    const std::uint64_t available = available_bytes();
    if (!set_aside && with_index > available) {
        return fail(
            Errc::NoCapacity,
            "expected {} of memory, index included, saw that the host or this process's container has "
            "{} left: give less with --capacity",
            format_bytes(with_index), format_bytes(available));
    }
    return check_address_space(wanted);
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
    auto room = free_bytes(folder);
    if (!room) return room;
    if (wanted != 0) {
        if (auto fits = check_capacity(wanted, *room, folder); !fits) return fail(fits.error());
        return wanted;
    }
    // The index and its pages want room in that folder too.
    const auto chosen = whole_megabytes(std::min({kCapacityDefault, available_bytes() / 4, *room / 4 * 3}));
    if (chosen < pool::kCapacityMin) {
        return fail(Errc::NoCapacity, "expected at least {} of memory, saw {} available and {} free in {}",
                    format_bytes(pool::kCapacityMin), format_bytes(available_bytes()), format_bytes(*room),
                    folder);
    }
    if (auto fits = check_address_space(chosen); !fits) return fail(fits.error());
    return chosen;
}

std::uint64_t resident_private_bytes(std::uint64_t client_pages) {
    const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return resident_unshared_bytes() + client_pages * round_up(sizeof(model::ControlPage), page_bytes);
}

std::optional<ProcessorTime> processor_time() {
    std::ifstream account("/proc/thread-self/schedstat");
    ProcessorTime time{};
    if (!(account >> time.ran_ns >> time.waited_ns)) return std::nullopt;
    return time;
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
