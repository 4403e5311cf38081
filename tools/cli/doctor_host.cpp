#include "doctor.h"

#include <filesystem>
#include <fstream>
#include <optional>

#include <cmpool/base/units.h>

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

void check_huge_pages(Checks& checks) {
    constexpr const char* kPath = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    const auto line = first_line(kPath);
    if (!line) {
        checks.push_back(
            {"huge pages", Health::Warn, fmt::format("{} cannot be read", kPath),
             "pool memory on tmpfs has 4 KiB pages then; a runtime folder on hugetlbfs has 2 MiB ones"});
        return;
    }
    const auto mode = chosen(*line);
    // The pool asks for huge pages by madvise; "force" is for testing, but gives them too.
    if (mode == "always" || mode == "advise" || mode == "within_size" || mode == "force") {
        checks.push_back({"huge pages",
                          Health::Ok,
                          fmt::format("shared memory may have 2 MiB pages (shmem_enabled is {})", mode),
                          {}});
        return;
    }
    checks.push_back(
        {"huge pages", Health::Warn,
         fmt::format("shared memory has 4 KiB pages (shmem_enabled is {}): large copies miss the TLB more "
                     "often, and a pool starts more slowly",
                     mode),
         fmt::format(
             "as root: echo advise > {}, then restart cmpoold; or give it a --runtime-dir on hugetlbfs",
             kPath)});
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

}  // namespace

void check_local_memory(Checks& checks, const client::Status& status) {
    // Only whom the kernel named is known to be on this host.
    if (!status.pool_uid) return;
    check_folder(checks, status.local_address);
    check_huge_pages(checks);
}

void check_host(Checks& checks) {
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
