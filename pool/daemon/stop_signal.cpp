#include "stop_signal.h"

#include <csignal>

#include <cmpool/base/assert.h>

#include <fcntl.h>
#include <unistd.h>

namespace cmpool::daemon {
namespace {

volatile std::sig_atomic_t stop_fd = -1;  // a handler has no other way to know anything

extern "C" void on_stop(int) {
    ::signal(SIGTERM, SIG_DFL);
    ::signal(SIGINT, SIG_DFL);
    const char any = 1;
    [[maybe_unused]] const auto written = ::write(stop_fd, &any, 1);
}

}  // namespace

StopSignal::StopSignal() {
    int pipe_fds[2];
    CMPOOL_ASSERT(::pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) == 0);
    readable_.reset(pipe_fds[0]);
    writable_.reset(pipe_fds[1]);
    stop_fd = writable_.get();
    struct sigaction action {};
    action.sa_handler = on_stop;
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGTERM, &action, nullptr);
    ::sigaction(SIGINT, &action, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGXFSZ, SIG_IGN);  // a file that must not grow any more is a write that fails
}

}  // namespace cmpool::daemon
