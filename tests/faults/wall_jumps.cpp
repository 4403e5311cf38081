// Preloaded into a process, moves its wall clock, and nothing else, by as many seconds as a file says: the
// first word of the file that CMPOOL_WALL_FILE names. The second word counts how often the clock was read.
#include <atomic>
#include <cstdint>
#include <cstdlib>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

namespace {

std::int64_t* words() noexcept {
    static std::int64_t* const mapped = []() -> std::int64_t* {
        const char* path = std::getenv("CMPOOL_WALL_FILE");
        const int fd = path == nullptr ? -1 : ::open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) return nullptr;
        void* at = ::mmap(nullptr, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ::close(fd);
        return at == MAP_FAILED ? nullptr : static_cast<std::int64_t*>(at);
    }();
    return mapped;
}

int moved(clockid_t clock, timespec* out) noexcept {
    const auto result = static_cast<int>(::syscall(SYS_clock_gettime, clock, out));
    const bool wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
    if (result == 0 && wall && words() != nullptr) {
        out->tv_sec += std::atomic_ref(words()[0]).load();
        std::atomic_ref(words()[1]).fetch_add(1);
    }
    return result;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, timespec* out) noexcept {
    return moved(clock, out);
}
__attribute__((visibility("default"))) int gettimeofday(timeval* out, void*) noexcept {
    timespec now{};
    const int result = moved(CLOCK_REALTIME, &now);
    *out = {now.tv_sec, now.tv_nsec / 1000};
    return result;
}
__attribute__((visibility("default"))) time_t time(time_t* out) noexcept {
    timespec now{};
    (void)moved(CLOCK_REALTIME, &now);
    if (out != nullptr) *out = now.tv_sec;
    return now.tv_sec;
}
}
