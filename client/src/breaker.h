#pragma once

#include <chrono>
#include <utility>

#include <cmpool/base/backoff.h>
#include <cmpool/base/clock.h>

namespace cmpool::client {

/// Turns a sick pool into misses at once. One failure opens it; while it is open nobody waits for
/// the pool, which is asked on the side, ever more rarely, until it answers.
class Breaker {
public:
    static constexpr std::chrono::milliseconds kRetryMin{100};
    static constexpr std::chrono::milliseconds kRetryMax{2000};

    [[nodiscard]] bool open() const noexcept { return open_; }
    /// Time to ask again?
    [[nodiscard]] bool due(Instant now) const noexcept { return open_ && now >= retry_at_; }
    [[nodiscard]] Instant retry_at() const noexcept { return open_ ? retry_at_ : Instant::never(); }

    void trip(Instant now) noexcept {
        if (!std::exchange(open_, true)) retries_.reset();
        retry_at_ = now + retries_.next();
    }
    void close() noexcept { open_ = false; }

private:
    bool open_ = false;
    Backoff retries_{kRetryMin, kRetryMax};
    Instant retry_at_{};
};

}  // namespace cmpool::client
