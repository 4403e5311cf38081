#include "processes.h"

#include <cmpool/base/unique_fd.h>

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cmpool::daemon {
namespace {

class PidfdHandle final : public pool::ProcessWatch::Handle {
public:
    explicit PidfdHandle(UniqueFd fd) noexcept : fd_(std::move(fd)) {}

    [[nodiscard]] bool alive() const noexcept override {
        pollfd ended{.fd = fd_.get(), .events = POLLIN, .revents = 0};
        // In doubt it runs: to free what a living reader uses would be worse.
        return ::poll(&ended, 1, 0) <= 0;
    }

private:
    UniqueFd fd_;
};

}  // namespace

std::unique_ptr<pool::ProcessWatch::Handle> PidfdWatch::watch(std::int32_t pid) {
    UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!fd) return nullptr;
    auto handle = std::make_unique<PidfdHandle>(std::move(fd));
    if (!handle->alive()) return nullptr;
    return handle;
}

}  // namespace cmpool::daemon
