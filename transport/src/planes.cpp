#include <array>

#include <cmpool/transport/fabric.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace cmpool::transport {

namespace {

struct Known {
    std::string_view name;
    Result<std::unique_ptr<Fabric>> (*open)(Entropy&);
};
constexpr std::array kKnown{Known{"verbs", open_verbs}};

}  // namespace

std::vector<std::string> plane_names() {
    std::vector<std::string> names;
    names.reserve(kKnown.size());
    for (const Known& known : kKnown) names.emplace_back(known.name);
    return names;
}

Result<std::unique_ptr<Fabric>> open_plane(std::string_view name, Entropy& entropy) {
    for (const Known& known : kKnown) {
        if (known.name == name) return known.open(entropy);
    }
    return fail(Errc::Unsupported, "expected a plane that this build has ({}), saw \"{}\"",
                fmt::join(plane_names(), ", "), name);
}

Result<PlaneAddress> parse_plane(std::string_view text) {
    const auto colon = text.find("://");
    if (colon == std::string_view::npos || colon == 0 || text.size() == colon + 3) {
        return fail(Errc::Invalid, "expected a plane such as NAME://HOST:PORT, saw \"{}\"", text);
    }
    return PlaneAddress{std::string(text.substr(0, colon)), std::string(text.substr(colon + 3))};
}

}  // namespace cmpool::transport
