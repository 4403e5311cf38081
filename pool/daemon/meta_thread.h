#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace cmpool::daemon {

/// A thread for what waits on a disk, so that the data thread never does.
///
///   Lifetime  its end waits for the job that runs; jobs that wait are dropped
///   Threads   post() from any
///   Limits    kJobsMax jobs waiting
class MetaThread {
public:
    static constexpr std::size_t kJobsMax = 1024;

    MetaThread();
    ~MetaThread();
    MetaThread(const MetaThread&) = delete;
    MetaThread& operator=(const MetaThread&) = delete;

    /// False when kJobsMax jobs wait already.
    [[nodiscard]] bool post(std::function<void()> job);

private:
    void run();

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> jobs_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace cmpool::daemon
