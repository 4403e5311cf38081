#include <algorithm>
#include <charconv>

#include <cmpool/base/bytes.h>
#include <cmpool/client/pool_uri.h>
#include <cmpool/transport/fabric.h>

#include <fmt/ranges.h>

namespace cmpool::client {
namespace {

constexpr std::string_view kScheme = "cmpool://";
constexpr std::size_t kAddressesMax = 16;
constexpr std::int64_t kDeadlineMsMax = 3'600'000;

std::pair<std::string_view, std::string_view> split(std::string_view text, char at) {
    const auto found = text.find(at);
    if (found == std::string_view::npos) return {text, {}};
    return {text.substr(0, found), text.substr(found + 1)};
}

Result<std::int64_t> number(std::string_view text, std::int64_t min, std::int64_t max,
                            std::string_view what) {
    std::int64_t value = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || rest != text.data() + text.size() || value < min || value > max) {
        return fail(Errc::Invalid, "expected {} from {} to {}, saw \"{}\"", what, min, max, text);
    }
    return value;
}

// %26 is an "&" that belongs to the value. Source: RFC 3986, 2.1.
Result<std::string> decode(std::string_view text) {
    std::string plain;
    while (!text.empty()) {
        const bool escaped = text.front() == '%';
        std::byte value{static_cast<unsigned char>(text.front())};
        if (escaped && (text.size() < 3 || !from_hex(text.substr(1, 2), {&value, 1}))) {
            return fail(Errc::Invalid, "expected two hexadecimal digits after %, saw \"{}\"",
                        text.substr(0, 3));
        }
        plain.push_back(static_cast<char>(value));
        text.remove_prefix(escaped ? 3 : 1);
    }
    return plain;
}

Result<void> check_address(std::string_view address) {
    const auto colon = address.rfind(':');
    if (colon == std::string_view::npos || colon == 0) {
        return fail(Errc::Invalid, "expected HOST:PORT in a pool's address, saw \"{}\"", address);
    }
    if (auto port = number(address.substr(colon + 1), 1, 65535, "a port"); !port) return fail(port.error());
    return {};
}

Result<void> apply(PoolUri& uri, std::string_view name, std::string_view value) {
    if (name == "transport") {
        if (value == "shm") uri.transport = Transport::Shm;
        if (value == "tcp") uri.transport = Transport::Tcp;
        if (value == "shm" || value == "tcp" || value == "auto") return {};
        return fail(Errc::Invalid, "expected transport=shm, tcp or auto, saw \"{}\"", value);
    }
    if (name == "kv") {
        const auto names = transport::plane_names();
        const bool known = value == kMessages || std::find(names.begin(), names.end(), value) != names.end();
        if (value != "auto" && !known) {
            return fail(Errc::Invalid, "expected kv=auto, {} or {}, saw \"{}\"", kMessages,
                        fmt::join(names, " or "), value);
        }
        uri.kv = value == "auto" ? std::string_view{} : value;
        return {};
    }
    if (name == "deadline_ms") {
        const auto parsed = number(value, 1, kDeadlineMsMax, "deadline_ms");
        if (!parsed) return fail(parsed.error());
        uri.deadline = std::chrono::milliseconds(*parsed);
        return {};
    }
    if (name == "tenant") return uri.tenant = value, Result<void>{};
    if (name == "key") return uri.tenant_key = value, Result<void>{};
    if (name == "seal_key_file") return uri.seal_key_file = value, Result<void>{};
    return fail(Errc::Invalid,
                "expected transport, kv, deadline_ms, tenant, key or seal_key_file after \"?\", saw \"{}\"",
                name);
}

}  // namespace

Result<PoolUri> PoolUri::parse(std::string_view text) {
    if (!text.starts_with(kScheme)) {
        return fail(Errc::Invalid, "expected a pool such as cmpool://HOST:PORT, saw \"{}\"", text);
    }
    auto [addresses, query] = split(text.substr(kScheme.size()), '?');
    PoolUri uri;
    do {
        const auto [address, rest] = split(addresses, ',');
        if (auto fine = check_address(address); !fine) return fail(fine.error());
        if (uri.address.empty()) {
            uri.address = address;
        } else {
            uri.others.emplace_back(address);
        }
        if (uri.others.size() >= kAddressesMax)
            return fail(Errc::Invalid, "expected at most {} addresses of a pool, saw more", kAddressesMax);
        addresses = rest;
    } while (!addresses.empty());
    while (!query.empty()) {
        const auto [parameter, rest] = split(query, '&');
        const auto [name, value] = split(parameter, '=');
        const auto plain = decode(value);
        if (!plain) return fail(plain.error());
        if (auto applied = apply(uri, name, *plain); !applied) return fail(applied.error());
        query = rest;
    }
    return uri;
}

}  // namespace cmpool::client
