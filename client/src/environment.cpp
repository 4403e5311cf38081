#include <algorithm>
#include <vector>

#include <cmpool/base/spin.h>
#include <cmpool/client/environment.h>

#include <poll.h>
#include <sched.h>

namespace cmpool::client {
namespace {

class PollWaiter final : public Waiter {
public:
    explicit PollWaiter(std::shared_ptr<const Clock> clock) : clock_(std::move(clock)) {}

    void wait(std::span<transport::Lane* const> lanes, Instant until) override {
        fds_.clear();
        for (const auto* lane : lanes) {
            const short events = lane->wants_write() ? POLLIN | POLLOUT : POLLIN;
            fds_.push_back({lane->event_fd(), events, 0});
        }
        const std::int64_t ns = std::max<std::int64_t>((until - clock_->now()).count(), 0);
        const timespec left{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
        ::ppoll(fds_.data(), fds_.size(), until == Instant::never() ? nullptr : &left, nullptr);
    }

    bool spin(Nanos waited) override {
        if (waited >= spin_.budget()) return false;
        ::sched_yield();  // whoever answers may need this very core
        return true;
    }
    void waited(Nanos time) override { spin_.waited(time); }

private:
    std::shared_ptr<const Clock> clock_;
    std::vector<pollfd> fds_;
    Spin spin_;
};

}  // namespace

Result<std::shared_ptr<transport::Fabric>> Planes::open(std::string_view name, Entropy& entropy) {
    if (const auto known = by_name_.find(name); known != by_name_.end()) return known->second;
    auto fabric = transport::open_plane(name, entropy);
    if (!fabric) return fail(fabric.error());
    opened_.push_back(std::move(*fabric));
    by_name_.emplace(name, opened_.back());
    return opened_.back();
}

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
    environment.planes = std::make_shared<Planes>();
    environment.waiter = std::make_shared<PollWaiter>(environment.clock);
    return environment;
}

}  // namespace cmpool::client
