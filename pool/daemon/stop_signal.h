#pragma once

#include <cmpool/base/unique_fd.h>

namespace cmpool::daemon {

/// SIGTERM and SIGINT as something to wait for. The first one makes the descriptor readable; a second
/// one ends the process at once, wherever it is.
///
///   Lifetime  one in a process; its handler stays
class StopSignal {
public:
    StopSignal();
    [[nodiscard]] int fd() const noexcept { return readable_.get(); }

private:
    UniqueFd readable_;
    UniqueFd writable_;
};

}  // namespace cmpool::daemon
