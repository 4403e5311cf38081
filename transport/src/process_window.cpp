#include "process_window.h"

#include "landing.h"

#include <array>
#include <cerrno>

#include <sys/uio.h>

namespace cmpool::transport {

namespace {

constexpr std::size_t kSlicesMax = 256;

Errc process_error(int error) noexcept {
    if (error == EPERM || error == ENOSYS) return Errc::Denied;
    return error == ESRCH ? Errc::PeerDown : Errc::Invalid;
}

}  // namespace

std::optional<Errc> read_process(std::int32_t pid, std::uint64_t address,
                                 std::span<const MutableBytes> scatter) noexcept {
    Landing landing({scatter.begin(), scatter.end()});
    std::array<iovec, kSlicesMax> slices;
    while (const auto count = landing.slices(slices.data(), slices.size(), UINT64_MAX)) {
        std::size_t asked = 0;
        for (std::size_t at = 0; at < count; ++at) asked += slices[at].iov_len;
        const iovec from{reinterpret_cast<void*>(address), asked};
        const ssize_t got = ::process_vm_readv(pid, slices.data(), count, &from, 1, 0);
        if (got <= 0) return process_error(got == 0 ? EFAULT : errno);
        // A short read stops at the first page that is missing; the next call says so.
        landing.advance(static_cast<std::uint64_t>(got));
        address += static_cast<std::uint64_t>(got);
    }
    return std::nullopt;
}

}  // namespace cmpool::transport
