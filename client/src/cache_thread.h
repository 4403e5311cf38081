#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_set>

#include <cmpool/client/meeting.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/client/rank_cache.h>

namespace cmpool::client {

inline constexpr std::size_t kRecentMax = 16'384;

/// Digests that were stored lately: two generations, of which the older is forgotten.
class Recent {
public:
    [[nodiscard]] bool contains(const Digest& digest) const {
        return young_.contains(digest) || old_.contains(digest);
    }
    void add(const Digest& digest) {
        if (young_.size() >= kRecentMax) {
            old_ = std::move(young_);
            young_.clear();
        }
        young_.insert(digest);
    }
    void forget(const Digest& digest) {
        young_.erase(digest);
        old_.erase(digest);
    }

private:
    std::unordered_set<Digest> young_, old_;
};

/// What the threads of a cache share.
struct Shared {
    std::mutex mutex;
    CostModel costs;
    Recent recent;
    SystemClock clock;
    std::function<void()> on_progress;

    void progressed() const {
        if (on_progress) on_progress();
    }
};

/// Which blocks a rank names, and which of their bytes are its own.
struct Share {
    Rank rank;

    [[nodiscard]] bool parted() const noexcept {
        return rank.count > 1 && rank.holds == Rank::Holds::OwnHeads;
    }
    [[nodiscard]] bool striped() const noexcept {
        return rank.count > 1 && rank.holds == Rank::Holds::TheSame;
    }
    [[nodiscard]] std::uint32_t parts() const noexcept { return parted() ? rank.count : 1; }
    [[nodiscard]] Digest key(const Digest& block) const noexcept {
        return parted() ? model::part_digest(block, rank.index, rank.count) : block;
    }
    [[nodiscard]] ByteRange range(const KvPages& kv) const noexcept {
        return striped() ? kv.stripe(rank.index, rank.count) : ByteRange{};
    }
    /// Bytes that this rank loads of a block.
    [[nodiscard]] std::uint64_t block_bytes(const KvPages& kv) const noexcept {
        return striped() ? range(kv).length : kv.page_bytes();
    }
};

/// Calls of one kind, one after the other, on a thread with a client of its own.
template <class Job, class Worker>
class Line {
public:
    explicit Line(std::unique_ptr<Worker> worker, std::size_t jobs_max)
        : worker_(std::move(worker)),
          jobs_max_(jobs_max),
          thread_([this](const std::stop_token& stop) { run(stop); }) {}

    [[nodiscard]] bool hand_in(Job job) {
        const std::scoped_lock lock(mutex_);
        if (jobs_.size() >= jobs_max_) return false;
        jobs_.push_back(std::move(job));
        changed_.notify_one();
        return true;
    }

private:
    void run(const std::stop_token& stop) {
        worker_->open();
        std::unique_lock lock(mutex_);
        while (changed_.wait(lock, stop, [this] { return !jobs_.empty(); }) && !stop.stop_requested()) {
            Job job = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            worker_->work(job, stop);
            lock.lock();
        }
        for (Job& job : jobs_) worker_->give_up(job);
    }

    std::unique_ptr<Worker> worker_;
    std::size_t jobs_max_;
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::deque<Job> jobs_;
    std::jthread thread_;  // last: it ends before what it uses
};

/// A pool, as a thread sees it that may find it absent.
class Caller {
public:
    Caller(std::string uri, const NamespaceSpec& spec, const KvPages& kv, const Share& share, Shared& shared)
        : uri_(std::move(uri)), spec_(spec), kv_(kv), share_(share), shared_(shared) {}

    void open() {
        auto pool = PoolClient::open(uri_, spec_);
        if (!pool) return;  // the caller's own client had the same answer
        pool_ = std::move(*pool);
        if (auto pages = pool_->register_buffer(kv_.memory)) pages_.emplace(std::move(*pages));
    }

protected:
    std::string uri_;
    NamespaceSpec spec_;
    KvPages kv_;
    Share share_;
    Shared& shared_;
    std::unique_ptr<PoolClient> pool_;
    std::optional<Registration> pages_;
};

}  // namespace cmpool::client
