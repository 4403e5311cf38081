// Addresses that people type: of pools, of planes. Whatever it is, it is refused with a sentence, or says the
// same when it is written out again.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <cmpool/base/assert.h>
#include <cmpool/client/pool_uri.h>
#include <cmpool/transport/fabric.h>

#include <fmt/format.h>

using namespace cmpool;

namespace {

std::string escaped(std::string_view text) {
    std::string out;
    for (const char each : text) out += fmt::format("%{:02x}", static_cast<unsigned char>(each));
    return out;
}

std::string written(const client::PoolUri& uri) {
    std::string out = "cmpool://" + uri.address;
    for (const auto& other : uri.others) out += "," + other;
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(uri.deadline).count();
    out += fmt::format("?deadline_ms={}&tenant={}&key={}", ms, escaped(uri.tenant), escaped(uri.tenant_key));
    if (!uri.kv.empty()) out += "&kv=" + uri.kv;
    if (uri.transport == client::Transport::Shm) out += "&transport=shm";
    if (uri.transport == client::Transport::Tcp) out += "&transport=tcp";
    return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    if (const auto uri = client::PoolUri::parse(text)) {
        const auto again = client::PoolUri::parse(written(*uri));
        CMPOOL_ASSERT(again.has_value());
        CMPOOL_ASSERT(again->address == uri->address && again->others == uri->others);
        CMPOOL_ASSERT(again->transport == uri->transport && again->kv == uri->kv);
        CMPOOL_ASSERT(again->deadline == uri->deadline);
        CMPOOL_ASSERT(again->tenant == uri->tenant && again->tenant_key == uri->tenant_key);
    } else {
        CMPOOL_ASSERT(uri.error().code == Errc::Invalid && !uri.error().detail.empty());
    }
    if (const auto plane = transport::parse_plane(text)) {
        CMPOOL_ASSERT(plane->name + "://" + plane->address == text);
    } else {
        CMPOOL_ASSERT(plane.error().code == Errc::Invalid);
    }
    return 0;
}
