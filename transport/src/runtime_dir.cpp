#include "runtime_dir.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <cmpool/base/units.h>
#include <cmpool/transport/fabric.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace cmpool::transport {

namespace {

constexpr std::string_view kPrefix = "segment-";
constexpr std::size_t kNameMax = 64;

// A name for people must not become a path.
std::string plain_name(std::string_view name) {
    std::string plain(name.substr(0, kNameMax));
    std::replace_if(
        plain.begin(), plain.end(),
        [](unsigned char letter) { return std::isalnum(letter) == 0 && letter != '-'; }, '_');
    return plain;
}

Result<void> check_free(int fd, const std::string& folder, std::uint64_t bytes) {
    struct statvfs space {};
    if (::fstatvfs(fd, &space) != 0) return {};
    const std::uint64_t free_bytes = std::uint64_t{space.f_bavail} * space.f_frsize;
    if (free_bytes >= bytes) return {};
    return fail(Errc::NoCapacity, "{} has {} free, the segment needs {}", folder, format_bytes(free_bytes),
                format_bytes(bytes));
}

}  // namespace

Result<void> prepare_runtime_dir(const std::string& folder) {
    if (folder.empty())
        return fail(Errc::Invalid, "this process has no runtime folder: set one to share memory");
    std::error_code made;
    if (!std::filesystem::exists(folder, made)) {
        std::filesystem::create_directories(std::filesystem::path(folder).parent_path(), made);
        if (::mkdir(folder.c_str(), 0711) == 0) ::chmod(folder.c_str(), 0711);  // whatever the umask
    }
    struct stat status {};
    if (::lstat(folder.c_str(), &status) != 0) {
        return fail(Errc::Denied, "runtime folder {}: {}", folder, std::strerror(errno));
    }
    if (!S_ISDIR(status.st_mode)) return fail(Errc::Denied, "runtime folder {} is no folder", folder);
    if (status.st_uid != ::geteuid()) {
        return fail(Errc::Denied, "runtime folder {} belongs to uid {}, this process is uid {}: chown it",
                    folder, status.st_uid, ::geteuid());
    }
    if ((status.st_mode & 0022) != 0) {
        return fail(Errc::Denied, "runtime folder {} has mode {:o}, so others may write to it: chmod 0711 it",
                    folder, status.st_mode & 0777);
    }
    return {};
}

Result<SegmentFile> create_segment_file(const std::string& folder, std::string_view name, std::uint64_t id,
                                        std::uint64_t bytes) {
    SegmentFile file;
    const std::string path =
        fmt::format("{}/{}{}-{:016x}-{}", folder, kPrefix, ::getpid(), id, plain_name(name));
    file.fd.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file.fd) return fail(Errc::Denied, "creating {}: {}", path, std::strerror(errno));
    auto room = check_free(file.fd.get(), folder, bytes);
    // Memory is taken now: a page that is missing later would be a SIGBUS in the middle of a put.
    if (room && ::fallocate(file.fd.get(), 0, 0, static_cast<off_t>(bytes)) != 0) {
        room = fail(Errc::NoCapacity, "reserving {} in {}: {}", format_bytes(bytes), folder,
                    std::strerror(errno));
    }
    file.read_only.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (room && !file.read_only) room = fail(Errc::Denied, "opening {}: {}", path, std::strerror(errno));
    ::unlink(path.c_str());
    if (!room) return fail(room.error());
    return file;
}

void punch_all(int fd, std::uint64_t bytes) noexcept {
    ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes));
}

Result<std::size_t> remove_stale_segments(const std::string& runtime_dir) {
    if (auto ready = prepare_runtime_dir(runtime_dir); !ready) return fail(ready.error());
    std::size_t removed = 0;
    std::error_code error;
    for (const auto& each : std::filesystem::directory_iterator(runtime_dir, error)) {
        const std::string path = each.path().string();
        if (!each.path().filename().string().starts_with(kPrefix) || !each.is_regular_file(error)) continue;
        // Not punched: a client of the crashed pool may still read a view that it has borrowed.
        if (::unlink(path.c_str()) == 0) ++removed;
    }
    if (error) return fail(Errc::Denied, "listing {}: {}", runtime_dir, error.message());
    return removed;
}

}  // namespace cmpool::transport
