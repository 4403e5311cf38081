#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/rng.h>
#include <cmpool/base/unique_fd.h>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace cmpool::testing {

/// Segments of another process, by what their names end with, to be written as if its memory had failed.
class SegmentsOf {
public:
    SegmentsOf(pid_t pid, std::string_view ending) {
        std::vector<ino_t> seen;
        for (const auto& each : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
            std::error_code gone;
            std::string name = std::filesystem::read_symlink(each.path(), gone).string();
            name = name.substr(0, name.find(" (deleted)"));
            if (name.find("/segment-") == std::string::npos || !name.ends_with(ending)) continue;
            const UniqueFd fd(::open(each.path().c_str(), O_RDWR | O_CLOEXEC));
            struct stat status {};
            if (!fd || ::fstat(fd.get(), &status) != 0) continue;
            if (std::find(seen.begin(), seen.end(), status.st_ino) != seen.end()) continue;
            seen.push_back(status.st_ino);
            const auto bytes = static_cast<std::size_t>(status.st_size);
            void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
            if (at != MAP_FAILED) all_.push_back({static_cast<std::byte*>(at), bytes});
        }
    }
    SegmentsOf(const SegmentsOf&) = delete;
    SegmentsOf& operator=(const SegmentsOf&) = delete;
    ~SegmentsOf() {
        for (const auto each : all_) ::munmap(each.data(), each.size());
    }

    [[nodiscard]] const std::vector<MutableBytes>& all() const noexcept { return all_; }
    /// One bit anywhere.
    void flip(Rng& rng) const {
        const auto& segment = all_[rng.below(all_.size())];
        segment[rng.below(segment.size())] ^= std::byte{1} << static_cast<int>(rng.below(8));
    }

private:
    std::vector<MutableBytes> all_;
};

}  // namespace cmpool::testing
