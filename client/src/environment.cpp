#include <algorithm>
#include <array>

#include <cmpool/client/environment.h>

#include <poll.h>
#include <sched.h>

namespace cmpool::client {
namespace {

/// How long it pays to look again and again before sleeping: answers often come sooner than a sleeper
/// wakes. Where they usually do not, nobody spins.
class Spin {
public:
    [[nodiscard]] Nanos budget() const noexcept { return usual_ <= kWorthIt ? 2 * usual_ : Nanos{0}; }
    void waited(Nanos time) noexcept { usual_ += (std::min(time, 4 * kWorthIt) - usual_) / 8; }

private:
    static constexpr Nanos kWorthIt{30'000};
    Nanos usual_{0};  ///< moving average, of spinning and sleeping alike
};

class PollWaiter final : public Waiter {
public:
    explicit PollWaiter(std::shared_ptr<const Clock> clock) : clock_(std::move(clock)) {}

    void wait(std::span<transport::Lane* const> lanes, Instant until) override {
        const std::size_t count = std::min(lanes.size(), fds_.size());
        for (std::size_t index = 0; index < count; ++index) {
            const short events = lanes[index]->wants_write() ? POLLIN | POLLOUT : POLLIN;
            fds_[index] = {lanes[index]->event_fd(), events, 0};
        }
        const Instant begin = clock_->now();
        const Instant spins_until = std::min(begin + spin_.budget(), until);
        bool ready = false;
        for (Instant now = begin; !ready && now < spins_until; now = clock_->now()) {
            ready = poll_for(count, Nanos{0});
            // Whoever answers may need this very core.
            if (!ready) ::sched_yield();
        }
        if (!ready) poll_for(count, until == Instant::never() ? Nanos::max() : until - clock_->now());
        spin_.waited(clock_->now() - begin);
    }

private:
    bool poll_for(std::size_t count, Nanos limit) {
        const std::int64_t ns = std::max<std::int64_t>(limit.count(), 0);
        const timespec left{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
        return ::ppoll(fds_.data(), count, limit == Nanos::max() ? nullptr : &left, nullptr) > 0;
    }

    std::shared_ptr<const Clock> clock_;
    std::array<pollfd, 2> fds_{};
    Spin spin_;
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
