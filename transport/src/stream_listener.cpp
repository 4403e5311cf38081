#include "stream_listener.h"

#include <cerrno>
#include <cstring>

#include <sys/socket.h>
#include <unistd.h>

namespace cmpool::transport {

StreamListener::~StreamListener() {
    if (!unlink_path_.empty()) ::unlink(unlink_path_.c_str());
}

Result<std::unique_ptr<Lane>> StreamListener::accept() {
    UniqueFd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket) return make_lane_(std::move(socket));
    // Out of descriptors is the one failure that waiting may cure; the rest belongs to peers that
    // left before we looked.
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        return fail(Errc::NoCapacity, "accepting on {}: {}", address_, std::strerror(errno));
    }
    return fail(Errc::Again, "nobody is waiting on {}", address_);
}

}  // namespace cmpool::transport
