#pragma once

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include <cmpool/base/clock.h>

namespace cmpool::engine {

/// How a thread that waits for several things is told that one of them happened. A call of notify()
/// before wait() is not lost.
///
///   Threads  notify() from any; wait() from one
class Wake {
public:
    void notify() {
        const std::scoped_lock lock(mutex_);
        rung_ = true;
        changed_.notify_one();
    }
    /// Returns after a notify() since the last wait(), or after `limit`.
    void wait(Nanos limit) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, std::max(limit, Nanos{0}), [this] { return rung_; });
        rung_ = false;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool rung_ = false;
};

}  // namespace cmpool::engine
