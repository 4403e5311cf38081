#include "metrics_text.h"

#include <array>
#include <iterator>
#include <map>
#include <string_view>

#include <fmt/format.h>

namespace cmpool::cli {
namespace {

/// Statistics of which there may be any number: namespace_7_bytes is the bytes of namespace 7.
struct Family {
    std::string_view prefix;
    std::string_view label;
};
constexpr std::array<Family, 2> kNumbered{{{"namespace_", "namespace"}, {"domain_", "domain"}}};
constexpr std::string_view kMessages = "messages_";

struct Sample {
    std::string name;
    std::string label;  ///< as `, KEY="VALUE"`, or empty
};

Sample sample_of(std::string_view statistic) {
    if (statistic.starts_with(kMessages)) {
        return {"messages", fmt::format(",message=\"{}\"", statistic.substr(kMessages.size()))};
    }
    for (const Family& family : kNumbered) {
        if (!statistic.starts_with(family.prefix)) continue;
        const auto rest = statistic.substr(family.prefix.size());
        const auto digits = rest.find_first_not_of("0123456789");
        if (digits == 0 || digits == std::string_view::npos || rest[digits] != '_') continue;
        return {fmt::format("{}{}", family.prefix, rest.substr(digits + 1)),
                fmt::format(",{}=\"{}\"", family.label, rest.substr(0, digits))};
    }
    return {std::string(statistic), {}};
}

std::string escaped(std::string_view text) {
    std::string out;
    for (const char each : text) {
        if (each == '\n') {
            out += "\\n";
            continue;
        }
        if (each == '"' || each == '\\') out += '\\';
        out += each;
    }
    return out;
}

}  // namespace

std::string metrics_text(const std::vector<client::MemberStatistics>& members, std::uint64_t epoch) {
    // All samples of a name stand together.
    std::map<std::string, std::string, std::less<>> samples;
    samples["view_epoch"] = fmt::format("cmpool_view_epoch {}\n", epoch);
    for (const auto& [member, statistics, trouble] : members) {
        const std::string node = escaped(member.name);
        fmt::format_to(std::back_inserter(samples["up"]), "cmpool_up{{member=\"{}\"}} {}\n", node,
                       trouble ? 0 : 1);
        for (const auto& [name, value] : statistics) {
            const Sample sample = sample_of(name);
            fmt::format_to(std::back_inserter(samples[sample.name]), "cmpool_{}{{member=\"{}\"{}}} {}\n",
                           sample.name, node, sample.label, value);
        }
    }
    std::string text;
    for (const auto& [name, lines] : samples) text += fmt::format("# TYPE cmpool_{} untyped\n", name) + lines;
    return text;
}

}  // namespace cmpool::cli
