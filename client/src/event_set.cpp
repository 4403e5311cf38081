#include "event_set.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/epoll.h>
#include <sys/timerfd.h>

namespace cmpool::client {

Result<std::unique_ptr<EventSet>> EventSet::create() {
    auto set = std::make_unique<EventSet>();
    set->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    set->timer_.reset(::timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK));
    epoll_event event{.events = EPOLLIN, .data = {}};
    if (!set->epoll_ || !set->timer_ ||
        ::epoll_ctl(set->epoll_.get(), EPOLL_CTL_ADD, set->timer_.get(), &event) != 0) {
        return fail(Errc::NoCapacity, "an event descriptor: {}", std::strerror(errno));
    }
    return set;
}

void EventSet::watch(std::span<transport::Lane* const> lanes, Instant deadline, Instant now) {
    std::vector<Watched> wanted;
    for (const auto* lane : lanes) wanted.push_back({lane->event_fd(), lane->wants_write()});
    if (wanted != watched_) {
        // A descriptor that was closed has left the set by itself.
        for (const auto& old : watched_) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, old.fd, nullptr);
        for (const auto& lane : wanted) {
            epoll_event event{.events = lane.write ? EPOLLIN | EPOLLOUT : EPOLLIN, .data = {}};
            ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, lane.fd, &event);
        }
        watched_ = std::move(wanted);
    }
    // Armed anew also when it has run out, so that the descriptor does not stay readable.
    if (deadline == deadline_ && deadline > now) return;
    deadline_ = deadline;
    itimerspec when{};
    if (deadline != Instant::never()) {
        const std::int64_t ns = std::max<std::int64_t>((deadline - now).count(), 1);
        when.it_value = {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
    }
    ::timerfd_settime(timer_.get(), 0, &when, nullptr);
}

}  // namespace cmpool::client
