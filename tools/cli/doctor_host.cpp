#include "doctor.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>
#include <cmpool/transport/fabric.h>

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>

namespace cmpool::cli {
namespace {

std::optional<std::string> first_line(const char* path) {
    std::ifstream file(path);
    std::string line;
    if (!std::getline(file, line)) return std::nullopt;
    return line;
}

// "always within_size advise [never] deny force": the kernel brackets what holds.
std::string chosen(const std::string& line) {
    const auto begin = line.find('[');
    const auto end = line.find(']');
    if (begin == std::string::npos || end == std::string::npos || end < begin) return line;
    return line.substr(begin + 1, end - begin - 1);
}

/// The file system that a folder lies on.
struct Mount {
    std::string point, type, options;
};

std::optional<Mount> mount_of(const std::string& folder) {
    std::ifstream table("/proc/self/mountinfo");
    std::optional<Mount> best;
    for (std::string line; std::getline(table, line);) {
        // ID PARENT DEVICE ROOT POINT OPTIONS [TAGS..] - TYPE SOURCE SUPER-OPTIONS
        std::istringstream words(line);
        Mount mount;
        std::string word;
        for (int skipped = 0; skipped < 4; ++skipped) words >> word;
        words >> mount.point;
        while (words >> word && word != "-") continue;
        words >> mount.type >> word >> mount.options;
        const bool below =
            folder == mount.point || mount.point == "/" || folder.starts_with(mount.point + "/");
        if (below && (!best || mount.point.size() >= best->point.size())) best = mount;
    }
    return best;
}

// A tmpfs gives 2 MiB pages by an option of its mount, whatever is set for other shared memory; only "deny"
// and "force", both for testing, are stronger.
void check_huge_pages(Checks& checks, const std::string& folder) {
    const auto mount = mount_of(folder);
    if (!mount) return;
    const auto line = first_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    const auto everywhere = line ? chosen(*line) : "deny";
    const auto asks = [&](std::string_view mode) {
        return ("," + mount->options + ",").find(fmt::format(",huge={},", mode)) != std::string::npos;
    };
    const bool by_mount = asks("always") || asks("advise") || asks("within_size");
    if (mount->type == "hugetlbfs" || everywhere == "force" || (by_mount && everywhere != "deny")) {
        checks.push_back(
            {"huge pages", Health::Ok, fmt::format("{} gives 2 MiB pages where it can", mount->point), {}});
        return;
    }
    checks.push_back(
        {"huge pages", Health::Warn,
         fmt::format("{} gives 4 KiB pages: a get of a small block takes a third longer, and a pool starts "
                     "more slowly",
                     mount->point),
         everywhere == "deny"
             ? "this kernel gives none on tmpfs; a --runtime-dir on hugetlbfs has them"
             : fmt::format("as root: mount -o remount,huge=advise {}, then restart cmpoold", mount->point)});
}

void check_folder(Checks& checks, const std::string& socket) {
    const auto folder = std::filesystem::path(socket).parent_path().string();
    struct statfs space {};
    if (::statfs(folder.c_str(), &space) != 0) {
        checks.push_back({"runtime dir", Health::Warn,
                          fmt::format("the pool says it lives in {}, which this process cannot see", folder),
                          "let both see the same folder: mount it into both containers"});
        return;
    }
    const auto block_bytes = static_cast<std::uint64_t>(space.f_bsize);
    const auto type = static_cast<std::uint64_t>(space.f_type);
    const char* name = type == TMPFS_MAGIC ? "tmpfs" : type == HUGETLBFS_MAGIC ? "hugetlbfs" : nullptr;
    const auto detail =
        fmt::format("{} is on {}, {} free of {}", folder, name == nullptr ? "a disk" : name,
                    format_bytes(space.f_bavail * block_bytes), format_bytes(space.f_blocks * block_bytes));
    if (name == nullptr) {
        checks.push_back({"runtime dir", Health::Warn, detail, "give cmpoold a --runtime-dir on tmpfs"});
    } else {
        checks.push_back({"runtime dir", Health::Ok, detail, {}});
    }
}

// What could read another host's memory one-sided, and why each of its ports would do or not.
void check_planes(Checks& checks) {
    SystemEntropy entropy;
    for (const auto& name : transport::plane_names()) {
        const auto fabric = transport::open_plane(name, entropy);
        if (!fabric) checks.push_back({name, Health::Ok, fabric.error().detail, {}});
        if (!fabric) continue;
        for (const auto& line : (*fabric)->explain()) checks.push_back({name, Health::Ok, line, {}});
    }
}

}  // namespace

void check_local_memory(Checks& checks, const client::Status& status) {
    // Only whom the kernel named is known to be on this host.
    if (!status.pool_uid) return;
    check_folder(checks, status.local_address);
    check_huge_pages(checks, std::filesystem::path(status.local_address).parent_path().string());
}

void check_host(Checks& checks) {
    check_planes(checks);
    const auto source = first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if (!source) {
        checks.push_back({"clock", Health::Ok, "the kernel does not name its clock source here", {}});
        return;
    }
    // These are read through the kernel, each time.
    const bool slow = *source == "hpet" || *source == "acpi_pm" || *source == "jiffies" || *source == "pit";
    checks.push_back(
        {"clock", slow ? Health::Warn : Health::Ok,
         fmt::format("the clock source is {}{}", *source,
                     slow ? ": each look at the clock costs about a microsecond" : ""),
         slow ? "see why the kernel gave up the processor's own: dmesg | grep -i clocksource" : ""});
}

}  // namespace cmpool::cli
