#include "meta_thread.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <cmpool/base/assert.h>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

namespace cmpool::daemon {

MetaThread::MetaThread(std::unique_ptr<meta::Office> office, const Clock& clock)
    : office_(std::move(office)), clock_(clock), bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    CMPOOL_ASSERT(bell_);
}

void MetaThread::start(Tell tell, TellChange tell_change) {
    tell_ = std::move(tell);
    tell_change_ = std::move(tell_change);
    thread_ = std::thread([this] { run(); });
    ::pthread_setname_np(thread_.native_handle(), "meta");
}

MetaThread::~MetaThread() {
    {
        const std::scoped_lock lock(mutex_);
        stopping_ = true;
    }
    ::eventfd_write(bell_.get(), 1);
    if (thread_.joinable()) thread_.join();
}

bool MetaThread::post(Job job) {
    {
        const std::scoped_lock lock(mutex_);
        if (jobs_.size() >= kJobsMax) return false;
        jobs_.push_back(std::move(job));
    }
    ::eventfd_write(bell_.get(), 1);
    return true;
}

void MetaThread::run() {
    while (run_jobs()) {
        office_->progress();
        publish();
        wait(office_->next_deadline());
    }
    say_goodbye();
    // Here, where its callbacks belong.
    office_.reset();
}

bool MetaThread::run_jobs() {
    while (true) {
        Job job;
        {
            const std::scoped_lock lock(mutex_);
            if (stopping_) return false;
            if (jobs_.empty()) return true;
            job = std::move(jobs_.front());
            jobs_.pop_front();
        }
        job(*office_);
    }
}

void MetaThread::publish() {
    meta_silent_.store(office_->meta_silent(), std::memory_order_relaxed);
    for (const auto& info : office_->take_changes()) tell_change_(info);
    auto view = office_->view();
    if (view == told_) return;
    told_ = view;
    tell_(std::move(view));
}

void MetaThread::wait(Instant until) {
    std::vector<pollfd> fds{{bell_.get(), POLLIN, 0}, {office_->event_fd(), POLLIN, 0}};
    for (const auto* lane : office_->lanes()) {
        const auto writes = static_cast<short>(lane->wants_write() ? POLLOUT : 0);
        fds.push_back({lane->event_fd(), static_cast<short>(POLLIN | writes), 0});
    }
    const std::int64_t ns = std::max<std::int64_t>((until - clock_.now()).count(), 0);
    const timespec left{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
    ::ppoll(fds.data(), fds.size(), until == Instant::never() ? nullptr : &left, nullptr);
    eventfd_t rings = 0;
    ::eventfd_read(bell_.get(), &rings);
}

void MetaThread::say_goodbye() {
    const Instant until = clock_.now() + kGoodbye;
    office_->leave();
    while (!office_->gone() && clock_.now() < until) {
        wait(std::min(until, office_->next_deadline()));
        office_->progress();
    }
}

}  // namespace cmpool::daemon
