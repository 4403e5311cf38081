#include <algorithm>
#include <array>

#include <cmpool/client/environment.h>

#include <poll.h>

namespace cmpool::client {
namespace {

class PollWaiter final : public Waiter {
public:
    explicit PollWaiter(std::shared_ptr<const Clock> clock) : clock_(std::move(clock)) {}

    void wait(std::span<transport::Lane* const> lanes, Instant until) override {
        std::array<pollfd, 2> fds{};
        const std::size_t count = std::min(lanes.size(), fds.size());
        for (std::size_t index = 0; index < count; ++index) {
            const short events = lanes[index]->wants_write() ? POLLIN | POLLOUT : POLLIN;
            fds[index] = {lanes[index]->event_fd(), events, 0};
        }
        timespec limit{};
        if (until != Instant::never()) {
            const std::int64_t ns = std::max<std::int64_t>((until - clock_->now()).count(), 0);
            limit = {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
        }
        ::ppoll(fds.data(), count, until == Instant::never() ? nullptr : &limit, nullptr);
    }

private:
    std::shared_ptr<const Clock> clock_;
};

}  // namespace

Environment system_environment() {
    Environment environment;
    environment.clock = std::make_shared<SystemClock>();
    environment.entropy = std::make_shared<SystemEntropy>();
    // A fabric keeps what opened it alive, since a Match may outlive its client.
    const auto entropy = environment.entropy;
    const auto owned = [entropy](std::unique_ptr<transport::Fabric> fabric) {
        return std::shared_ptr<transport::Fabric>(fabric.release(),
                                                  [entropy](transport::Fabric* end) { delete end; });
    };
    environment.network = owned(transport::open_tcp(*entropy));
    environment.local = owned(transport::open_shm({}, *entropy));
    environment.waiter = std::make_shared<PollWaiter>(environment.clock);
    return environment;
}

}  // namespace cmpool::client
