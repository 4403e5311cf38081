#pragma once

#include "stream_lane.h"
#include "tcp_address.h"

#include <string>
#include <string_view>

#include <cmpool/base/result.h>
#include <cmpool/base/unique_fd.h>

namespace cmpool::transport {

[[nodiscard]] TcpAddress local_address(int socket) noexcept;

/// Listens on HOST:PORT. Errors: Invalid for another form; PeerDown when the address is taken.
[[nodiscard]] Result<UniqueFd> tcp_listen(std::string_view address);

/// Begins to connect to HOST:PORT and returns at once; a far peer's absence shows later, by its silence.
/// Errors: Invalid for another form.
[[nodiscard]] Result<StreamPeer> tcp_connect(std::string_view address);

/// What is known of whoever connected to us.
[[nodiscard]] StreamPeer tcp_welcome(UniqueFd socket);

}  // namespace cmpool::transport
