#include "frame.h"

#include "wire.h"

namespace cmpool::transport {

namespace {

constexpr std::uint32_t kMagic = 0x31504d43;  // "CMP1": the digit is the protocol's version
constexpr std::uint8_t kFlagLast = 1;
constexpr std::uint8_t kFlagFd = 2;

struct Limits {
    std::uint64_t head_min, head_max, payload_max;
    std::uint8_t flags;
};

Limits limits_of(FrameKind kind) noexcept {
    switch (kind) {
        case FrameKind::Message:
            return {0, kHeadBytesMax, kPayloadBytesMax, 0};
        case FrameKind::Write:
        case FrameKind::WriteNotify:
            return {kRequestBytes, kRequestBytes, kOpBytesMax, 0};
        case FrameKind::Read:
        case FrameKind::Cas:
        case FrameKind::FetchAdd:
        case FrameKind::Import:
            return {kRequestBytes, kRequestBytes, 0, 0};
        case FrameKind::ReadData:
            return {0, 0, kReplyChunkBytes, kFlagLast};
        case FrameKind::Reply:
            return {0, 0, 0, kFlagFd};
        case FrameKind::Setup:
            return {kSetupBytes, kSetupBytes, 0, 0};
    }
    return {1, 0, 0, 0};  // no length fits
}

}  // namespace

std::array<std::byte, kFrameBytes> encode_frame(const FrameHeader& header) noexcept {
    std::array<std::byte, kFrameBytes> out{};
    const int flags = (header.last ? kFlagLast : 0) | (header.carries_fd ? kFlagFd : 0);
    store(out, 0, kMagic);
    store(out, 4, header.kind);
    store(out, 5, static_cast<std::uint8_t>(flags));
    store(out, 6, header.status);
    store(out, 8, header.head_bytes);
    store(out, 16, header.payload_bytes);
    store(out, 24, header.cookie);
    store(out, 32, header.value);
    return out;
}

Result<FrameHeader> parse_frame(Bytes bytes) {
    if (bytes.size() < kFrameBytes) return fail(Errc::Invalid, "a frame of {} bytes", bytes.size());
    if (const auto magic = load<std::uint32_t>(bytes, 0); magic != kMagic) {
        return fail(Errc::Invalid, "frame starts with {:#010x}, expected {:#010x}", magic, kMagic);
    }
    FrameHeader header{.kind = FrameKind{load<std::uint8_t>(bytes, 4)},
                       .status = load<std::uint16_t>(bytes, 6),
                       .head_bytes = load<std::uint32_t>(bytes, 8),
                       .payload_bytes = load<std::uint64_t>(bytes, 16),
                       .cookie = load<std::uint64_t>(bytes, 24),
                       .value = load<std::uint64_t>(bytes, 32)};
    const auto flags = load<std::uint8_t>(bytes, 5);
    header.last = (flags & kFlagLast) != 0;
    header.carries_fd = (flags & kFlagFd) != 0;
    const Limits limits = limits_of(header.kind);
    const bool lengths_fit = header.head_bytes >= limits.head_min && header.head_bytes <= limits.head_max &&
                             header.payload_bytes <= limits.payload_max;
    if (!lengths_fit) {
        return fail(Errc::Invalid, "frame kind {} with head {} bytes, payload {} bytes",
                    static_cast<unsigned>(header.kind), header.head_bytes, header.payload_bytes);
    }
    const bool reply = header.kind == FrameKind::ReadData || header.kind == FrameKind::Reply;
    const auto status_max = reply ? static_cast<std::uint16_t>(Errc::Invalid) : std::uint16_t{0};
    if ((flags & ~limits.flags) != 0 || header.status > status_max || load<std::uint32_t>(bytes, 12) != 0) {
        return fail(Errc::Invalid, "frame kind {} with flags {:#x}, status {}",
                    static_cast<unsigned>(header.kind), flags, header.status);
    }
    return header;
}

std::array<std::byte, kRequestBytes> encode_request(const RequestHead& head) noexcept {
    std::array<std::byte, kRequestBytes> out{};
    store(out, 0, head.segment);
    store(out, 8, head.token);
    store(out, 16, head.offset);
    store(out, 24, head.length);
    store(out, 32, head.operand);
    store(out, 40, head.extra);
    return out;
}

RequestHead parse_request(Bytes bytes) noexcept {
    return {.segment = load<std::uint64_t>(bytes, 0),
            .token = load<std::uint64_t>(bytes, 8),
            .offset = load<std::uint64_t>(bytes, 16),
            .length = load<std::uint64_t>(bytes, 24),
            .operand = load<std::uint64_t>(bytes, 32),
            .extra = load<std::uint64_t>(bytes, 40)};
}

}  // namespace cmpool::transport
