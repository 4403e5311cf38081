#pragma once

#include <string>

#include <cmpool/base/host_port.h>

#include <httplib.h>

namespace cmpool::tools {

/// Makes an HTTP server listen on HOST:PORT; port 0 picks one. Returns what was taken. Errors: Invalid for
/// another form; PeerDown when it is in use, or not ours.
inline Result<std::string> bind_http(httplib::Server& server, const std::string& address) {
    const auto where = HostPort::parse(address);
    if (!where) return fail(where.error());
    int taken = where->port;
    if (taken == 0) {
        taken = server.bind_to_any_port(where->host);
    } else if (!server.bind_to_port(where->host, taken)) {
        taken = -1;
    }
    if (taken < 0) return fail(Errc::PeerDown, "cannot listen on {}: it is in use, or not ours", address);
    return fmt::format("{}:{}", address.substr(0, address.rfind(':')), taken);
}

}  // namespace cmpool::tools
