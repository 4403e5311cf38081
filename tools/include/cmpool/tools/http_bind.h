#pragma once

#include <cstdint>
#include <string>

#include <cmpool/base/result.h>

#include <fmt/format.h>
#include <httplib.h>

namespace cmpool::tools {

/// Makes an HTTP server listen on HOST:PORT; port 0 picks one. Returns what was taken. Errors: Invalid for
/// another form; PeerDown when it is in use, or not ours.
inline Result<std::string> bind_http(httplib::Server& server, const std::string& address) {
    const auto colon = address.rfind(':');
    std::uint64_t port = 65'536;
    const std::string digits = colon == std::string::npos ? "" : address.substr(colon + 1);
    if (!digits.empty() && digits.size() <= 5 && digits.find_first_not_of("0123456789") == std::string::npos)
        port = std::stoul(digits);
    if (port > 65'535) return fail(Errc::Invalid, "expected HOST:PORT, saw \"{}\"", address);
    const std::string host = address.substr(0, colon);
    int taken = static_cast<int>(port);
    if (port == 0) {
        taken = server.bind_to_any_port(host);
    } else if (!server.bind_to_port(host, taken)) {
        taken = -1;
    }
    if (taken < 0) return fail(Errc::PeerDown, "cannot listen on {}: it is in use, or not ours", address);
    return fmt::format("{}:{}", host, taken);
}

}  // namespace cmpool::tools
