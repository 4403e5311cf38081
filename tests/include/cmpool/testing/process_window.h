#pragma once

#include <cerrno>

#include <doctest/doctest.h>
#include <sys/uio.h>
#include <unistd.h>

namespace cmpool::testing {

/// Whether memory of another process can be read at all, and a message where it cannot: emulators of another
/// processor do not know how.
[[nodiscard]] inline bool reads_processes() {
    char from = 1;
    char to = 0;
    const iovec local{&to, 1};
    const iovec remote{&from, 1};
    const bool knows = ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0) == 1 || errno != ENOSYS;
    if (!knows) MESSAGE("skipped: there is no process_vm_readv here");
    return knows;
}

}  // namespace cmpool::testing
