#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include <cmpool/base/clock.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/meta/office.h>

namespace cmpool::daemon {

/// A thread for what waits on a disk or on another node, so that no data thread ever does.
///
///   Lifetime  its end waits for the job that runs, and says good-bye to meta; jobs that wait are dropped
///   Threads   post() from any
///   Limits    kJobsMax jobs waiting; kGoodbye for the end
class MetaThread {
public:
    static constexpr std::size_t kJobsMax = 1024;
    static constexpr std::chrono::milliseconds kGoodbye{300};
    using Job = std::function<void(meta::Office&)>;
    using Tell = std::function<void(std::shared_ptr<const model::View>)>;
    using TellChange = std::function<void(const wire::NamespaceInfo&)>;

    MetaThread(std::unique_ptr<meta::Office> office, const Clock& clock);
    ~MetaThread();
    MetaThread(const MetaThread&) = delete;
    MetaThread& operator=(const MetaThread&) = delete;

    /// Jobs run from now on. `tell` is called on this thread with each new view, from the first on, and
    /// `tell_change` with each namespace that can count on something else.
    void start(Tell tell, TellChange tell_change);
    /// False when kJobsMax jobs wait already.
    [[nodiscard]] bool post(Job job);
    /// As the office says; from any thread.
    [[nodiscard]] bool meta_silent() const noexcept { return meta_silent_.load(std::memory_order_relaxed); }

private:
    void run();
    [[nodiscard]] bool run_jobs();
    void publish();
    void wait(Instant until);
    void say_goodbye();

    std::unique_ptr<meta::Office> office_;
    const Clock& clock_;
    Tell tell_;
    TellChange tell_change_;
    std::shared_ptr<const model::View> told_;
    std::atomic<bool> meta_silent_{false};
    UniqueFd bell_;
    std::mutex mutex_;  ///< of what follows
    std::deque<Job> jobs_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace cmpool::daemon
