#pragma once

#include <memory>
#include <span>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/transport/lane.h>

namespace cmpool::client {

/// One descriptor that is readable when a lane has something or a deadline has come: for engines
/// with an event loop of their own.
class EventSet {
public:
    [[nodiscard]] static Result<std::unique_ptr<EventSet>> create();
    [[nodiscard]] int fd() const noexcept { return epoll_.get(); }
    /// Lanes come and go with reconnects: called after everything that may have changed them.
    void watch(std::span<transport::Lane* const> lanes, Instant deadline, Instant now);

private:
    struct Watched {
        int fd;
        bool write;
        friend bool operator==(const Watched&, const Watched&) = default;
    };
    UniqueFd epoll_;
    UniqueFd timer_;
    std::vector<Watched> watched_;
    Instant deadline_{};
};

}  // namespace cmpool::client
