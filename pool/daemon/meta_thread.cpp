#include "meta_thread.h"

#include <utility>

namespace cmpool::daemon {

MetaThread::MetaThread() : thread_([this] { run(); }) {}

MetaThread::~MetaThread() {
    {
        const std::scoped_lock lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
}

bool MetaThread::post(std::function<void()> job) {
    {
        const std::scoped_lock lock(mutex_);
        if (jobs_.size() >= kJobsMax) return false;
        jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
    return true;
}

void MetaThread::run() {
    while (true) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
        if (stopping_) return;
        auto job = std::move(jobs_.front());
        jobs_.pop_front();
        lock.unlock();
        job();
    }
}

}  // namespace cmpool::daemon
