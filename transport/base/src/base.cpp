#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <cmpool/base/assert.h>
#include <cmpool/base/bytes.h>
#include <cmpool/base/clock.h>
#include <cmpool/base/host_port.h>
#include <cmpool/base/result.h>
#include <cmpool/base/rng.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/base/units.h>

#include <sys/random.h>
#include <time.h>
#include <unistd.h>

namespace cmpool {

std::string_view to_string(Errc code) noexcept {
    switch (code) {
        case Errc::Again:
            return "Again";
        case Errc::NoCapacity:
            return "NoCapacity";
        case Errc::Deadline:
            return "Deadline";
        case Errc::LeaseLost:
            return "LeaseLost";
        case Errc::PeerDown:
            return "PeerDown";
        case Errc::Corrupt:
            return "Corrupt";
        case Errc::Denied:
            return "Denied";
        case Errc::Mismatch:
            return "Mismatch";
        case Errc::Unsupported:
            return "Unsupported";
        case Errc::Invalid:
            return "Invalid";
    }
    return "Unknown";
}

void assert_failed(const char* expression, const char* file, int line) noexcept {
    std::fprintf(stderr, "cmpool: broken invariant: %s (%s:%d)\n", expression, file, line);
    std::abort();
}

Instant SystemClock::now() const noexcept {
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    return {std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec};
}

namespace {

constexpr std::uint64_t rotate_left(std::uint64_t value, int count) noexcept {
    return (value << count) | (value >> (64 - count));
}

// splitmix64 spreads a seed of any quality over the four words.
std::uint64_t split_mix(std::uint64_t& state) noexcept {
    std::uint64_t mixed = (state += 0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
}

}  // namespace

Rng::Rng(std::uint64_t seed) noexcept {
    for (auto& word : state_) word = split_mix(seed);
}

std::uint64_t Rng::next() noexcept {
    const std::uint64_t result = rotate_left(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotate_left(state_[3], 45);
    return result;
}

std::uint64_t Rng::below(std::uint64_t bound) noexcept {
    if (bound <= UINT32_MAX) return (next() >> 32) * bound >> 32;
    return next() % bound;
}

bool Rng::chance(double probability) noexcept {
    return static_cast<double>(next() >> 11) * 0x1p-53 < probability;
}

std::uint64_t Entropy::next_u64() noexcept {
    std::uint64_t value = 0;
    fill(std::as_writable_bytes(std::span(&value, 1)));
    return value;
}

void SystemEntropy::fill(std::span<std::byte> out) noexcept {
    while (!out.empty()) {
        const ssize_t got = getrandom(out.data(), out.size(), 0);
        if (got > 0) out = out.subspan(static_cast<std::size_t>(got));
        CMPOOL_ASSERT(got > 0 || errno == EINTR);
    }
}

void SeededEntropy::fill(std::span<std::byte> out) noexcept {
    for (auto& byte : out) byte = static_cast<std::byte>(rng_.next());
}

void UniqueFd::reset(int fd) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

Result<std::uint64_t> parse_bytes(std::string_view text) {
    std::uint64_t number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string unit(rest, text.data() + text.size());
    for (auto& letter : unit) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    std::uint64_t scale = 0;
    if (unit.empty() || unit == "b") scale = 1;
    if (unit == "k" || unit == "kib") scale = KiB;
    if (unit == "m" || unit == "mib") scale = MiB;
    if (unit == "g" || unit == "gib") scale = GiB;
    if (unit == "t" || unit == "tib") scale = 1024 * GiB;
    std::uint64_t bytes = 0;
    if (error != std::errc{} || scale == 0 || __builtin_mul_overflow(number, scale, &bytes)) {
        return fail(Errc::Invalid, "expected a size such as 4096, 64k, 256MiB or 8G, saw \"{}\"", text);
    }
    return bytes;
}

std::string format_bytes(std::uint64_t bytes) {
    constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double scaled = static_cast<double>(bytes);
    std::size_t unit = 0;
    while (scaled >= 1024 && unit + 1 < kUnits.size()) {
        scaled /= 1024;
        ++unit;
    }
    const bool whole = unit == 0 || scaled == static_cast<double>(static_cast<std::uint64_t>(scaled));
    return whole ? fmt::format("{:.0f} {}", scaled, kUnits[unit])
                 : fmt::format("{:.1f} {}", scaled, kUnits[unit]);
}

std::string to_hex(Bytes bytes) {
    std::string text;
    text.reserve(bytes.size() * 2);
    for (const auto byte : bytes)
        fmt::format_to(std::back_inserter(text), "{:02x}", static_cast<unsigned>(byte));
    return text;
}

bool from_hex(std::string_view text, MutableBytes out) noexcept {
    if (text.size() != out.size() * 2) return false;
    for (std::size_t index = 0; index < out.size(); ++index) {
        unsigned value = 0;
        const char* first = text.data() + index * 2;
        const auto [rest, error] = std::from_chars(first, first + 2, value, 16);
        if (error != std::errc{} || rest != first + 2) return false;
        out[index] = static_cast<std::byte>(value);
    }
    return true;
}

Result<HostPort> HostPort::parse(std::string_view text) {
    const auto colon = text.rfind(':');
    std::string_view host = text.substr(0, std::min(colon, text.size()));
    const std::string_view port =
        colon == std::string_view::npos ? std::string_view{} : text.substr(colon + 1);
    const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = host.substr(1, host.size() - 2);
    HostPort found{std::string(host)};
    const auto [rest, error] = std::from_chars(port.data(), port.data() + port.size(), found.port);
    const bool whole = !port.empty() && error == std::errc{} && rest == port.data() + port.size();
    if (!whole || (!bracketed && host.find(':') != std::string_view::npos)) {
        return fail(Errc::Invalid, "expected HOST:PORT such as 10.0.0.1:7001 or [::1]:7001, saw \"{}\"",
                    text);
    }
    return found;
}

}  // namespace cmpool
