#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/testing/temp_folder.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

namespace cmpool::testing {

/// The wall clock of processes that were started under it; the steady ones stay as they are.
class WallClock {
public:
    WallClock() {
        const UniqueFd file(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        CMPOOL_ASSERT(::ftruncate(file.get(), kBytes) == 0);
        void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
        CMPOOL_ASSERT(at != MAP_FAILED);
        words_ = static_cast<std::int64_t*>(at);
    }
    WallClock(const WallClock&) = delete;
    WallClock& operator=(const WallClock&) = delete;
    ~WallClock() { ::munmap(words_, kBytes); }

    /// A sanitizer wants to be the first library that is loaded.
    static bool can_jump() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
        MESSAGE("skipped: nothing can be preloaded into a program with a sanitizer");
        return false;
#else
        return true;
#endif
    }
    /// A command that becomes the command behind it, with this clock.
    [[nodiscard]] std::vector<std::string> wrapper() const {
        return {"/usr/bin/env", "LD_PRELOAD=" CMPOOL_WALL_JUMPS, "CMPOOL_WALL_FILE=" + path_};
    }
    void move(std::int64_t seconds) noexcept { std::atomic_ref(words_[0]).store(seconds); }
    /// How often the processes have looked at it.
    [[nodiscard]] std::int64_t looks() const noexcept { return std::atomic_ref(words_[1]).load(); }

private:
    static constexpr std::size_t kBytes = 2 * sizeof(std::int64_t);
    TempFolder folder_;
    std::string path_ = folder_ / "wall";
    std::int64_t* words_ = nullptr;
};

}  // namespace cmpool::testing
