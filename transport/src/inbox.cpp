#include "inbox.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <sys/socket.h>

namespace cmpool::transport {

namespace {

constexpr std::size_t kFdsPerCall = 4;  // an honest peer sends one at a time
constexpr std::size_t kFdsMax = 64;     // descriptors that no frame has claimed
constexpr std::size_t kSlicesMax = 256;

Inbox::Filled filled(ssize_t got, std::size_t asked) noexcept {
    if (got > 0) {
        const auto bytes = static_cast<std::size_t>(got);
        return {.got = Inbox::Got::Bytes, .bytes = bytes, .short_read = bytes < asked};
    }
    if (got == 0) return {.got = Inbox::Got::End};
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return {.got = Inbox::Got::Nothing};
    return {.got = Inbox::Got::Failed, .error = errno};
}

}  // namespace

Inbox::Filled Inbox::fill(int socket, std::size_t most) noexcept {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    iovec slice{buffer_.get() + end_, std::min(most, kInboxBytes - end_)};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kFdsPerCall)> space;
    msghdr message{};
    message.msg_iov = &slice;
    message.msg_iovlen = 1;
    if (takes_fds_) {
        message.msg_control = space.data();
        message.msg_controllen = space.size();
    }
    const Filled result = filled(::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC), slice.iov_len);
    end_ += result.bytes;
    if (!takes_fds_ || result.got != Got::Bytes) return result;
    for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
        for (std::size_t offset = 0; CMSG_LEN(offset) < at->cmsg_len; offset += sizeof(int)) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(at) + offset, sizeof fd);
            fds_.emplace_back(fd);
        }
    }
    if (fds_.size() > kFdsMax) return {.got = Got::Failed, .error = EPROTO};
    return result;
}

Inbox::Filled Inbox::fill(int socket, Landing& landing, std::uint64_t bytes) noexcept {
    std::array<iovec, kSlicesMax> slices;
    std::size_t count = landing.slices(slices.data(), slices.size(), bytes);
    thread_local std::array<std::byte, 64 * KiB> scratch;  // where unwanted bytes go
    if (count == 0) slices[count++] = {scratch.data(), std::min<std::uint64_t>(bytes, scratch.size())};
    std::size_t asked = 0;
    for (std::size_t at = 0; at < count; ++at) asked += slices[at].iov_len;
    const Filled result = filled(::readv(socket, slices.data(), static_cast<int>(count)), asked);
    landing.advance(result.bytes);
    return result;
}

UniqueFd Inbox::take_fd() noexcept {
    if (fds_.empty()) return {};
    UniqueFd fd = std::move(fds_.front());
    fds_.pop_front();
    return fd;
}

}  // namespace cmpool::transport
