#pragma once

#include "landing.h"

#include <deque>
#include <memory>

#include <cmpool/base/bytes.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/base/units.h>

namespace cmpool::transport {

/// Bytes that have arrived and are not yet understood. Small messages are parsed here; large payloads
/// go past it, straight to where they belong.
///
///   Limits  kInboxBytes of memory, and as many descriptors as one recvmsg can bring
class Inbox {
public:
    static constexpr std::size_t kInboxBytes = 32 * KiB;

    enum class Got : std::uint8_t { Bytes, Nothing, End, Failed };
    struct Filled {
        Got got = Got::Nothing;
        std::size_t bytes = 0;
        bool short_read = false;  ///< the socket was most likely drained
        int error = 0;            ///< errno, for Failed
    };

    explicit Inbox(bool takes_fds) : takes_fds_(takes_fds) {}

    [[nodiscard]] Bytes unread() const noexcept { return {buffer_.get() + begin_, end_ - begin_}; }
    void consume(std::size_t bytes) noexcept { begin_ += bytes; }
    /// One recv of at most `most` bytes into the buffer, which moves what is unread to its front: views
    /// into it die.
    [[nodiscard]] Filled fill(int socket, std::size_t most) noexcept;
    /// One readv to where the bytes belong; views into the buffer stay valid.
    [[nodiscard]] static Filled fill(int socket, Landing& landing, std::uint64_t bytes) noexcept;
    /// The next descriptor that came along; none when the peer sent none.
    [[nodiscard]] UniqueFd take_fd() noexcept;

private:
    bool takes_fds_;
    std::unique_ptr<std::byte[]> buffer_{new std::byte[kInboxBytes]};
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    std::deque<UniqueFd> fds_;
};

}  // namespace cmpool::transport
