#include "print.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include <cmpool/base/units.h>

#include <fmt/format.h>

namespace cmpool::cli {
namespace {

constexpr std::size_t kColumns = 100;

}  // namespace

std::string grouped(std::uint64_t number) {
    std::string text = std::to_string(number);
    for (std::size_t at = text.size(); at > 3;) text.insert(at -= 3, ",");
    return text;
}

std::string format_age(std::uint64_t age_ms) {
    const double age_s = static_cast<double>(age_ms) / 1e3;
    if (age_s < 120) return fmt::format("{:.0f} s", age_s);
    if (age_s < 7200) return fmt::format("{:.1f} min", age_s / 60);
    if (age_s < 172800) return fmt::format("{:.1f} h", age_s / 3600);
    return fmt::format("{:.1f} d", age_s / 86400);
}

std::string hex(const client::Digest& digest) { return to_hex(digest.bytes); }

double milliseconds(Nanos time) { return std::chrono::duration<double, std::milli>(time).count(); }

std::string wrapped(std::string_view text, std::size_t indent) {
    std::string lines;
    std::size_t column = indent;
    while (!text.empty()) {
        const auto space = text.find(' ');
        const auto word = text.substr(0, space);
        text = space == std::string_view::npos ? std::string_view{} : text.substr(space + 1);
        if (column > indent && column + 1 + word.size() > kColumns) {
            lines += "\n" + std::string(indent, ' ');
            column = indent;
        } else if (column > indent) {
            lines += ' ';
            ++column;
        }
        lines += word;
        column += word.size();
    }
    return lines;
}

void print_json(const Json& object) {
    fmt::print("{}\n", object.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void complain(std::string_view sentence) { fmt::print(stderr, "cmpool-cli: {}\n", sentence); }

Result<void> write_out(Bytes bytes, const std::string& file) {
    const auto close = [](std::FILE* open) { return open == stdout ? std::fflush(open) : std::fclose(open); };
    std::FILE* out = file.empty() ? stdout : std::fopen(file.c_str(), "wb");
    const std::string name = file.empty() ? "standard output" : file;
    const bool opened = out != nullptr;
    const bool written = opened && std::fwrite(bytes.data(), 1, bytes.size(), out) == bytes.size();
    const int why = errno;
    const bool closed = opened && close(out) == 0;
    if (written && closed) return {};
    return fail(Errc::NoCapacity, "cannot write {} to {}: {}", format_bytes(bytes.size()), name,
                std::strerror(written ? errno : why));
}

}  // namespace cmpool::cli
