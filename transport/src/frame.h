#pragma once

#include <array>
#include <cstdint>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/base/units.h>
#include <cmpool/transport/types.h>

namespace cmpool::transport {

// What one frame of a stream lane may hold. Checked before any of it is believed.
inline constexpr std::uint32_t kLaneDepth = 1024;
inline constexpr std::uint64_t kHeadBytesMax = 1 * MiB;
inline constexpr std::uint64_t kPayloadBytesMax = 72 * MiB;  // 64 MiB, and slack for a batch of replies
inline constexpr std::uint64_t kOpBytesMax = 64 * MiB;
inline constexpr std::uint64_t kReplyChunkBytes = 128 * KiB;
inline constexpr std::size_t kFrameBytes = 40;
inline constexpr std::size_t kRequestBytes = 48;
inline constexpr std::size_t kSetupBytes = 40;

enum class FrameKind : std::uint8_t {
    Message = 1,
    Read = 2,
    Write = 3,
    WriteNotify = 4,
    Cas = 5,
    FetchAdd = 6,
    Import = 7,
    ReadData = 8,  ///< a piece of what a Read asked for; the last one completes it
    Reply = 9,     ///< how any other request ended
    Setup = 10,    ///< where one-sided operations come in, told once by either side; not on every back end
};

/// What stands before everything else on a stream.
///
///   Layout  little-endian: magic u32, kind u8, flags u8, status u16, head_bytes u32, zero u32,
///           payload_bytes u64, cookie u64, value u64
struct FrameHeader {
    FrameKind kind = FrameKind::Message;
    bool last = false;         ///< ReadData: nothing more follows for this cookie
    bool carries_fd = false;   ///< Reply to Import: a descriptor travels beside the first byte
    std::uint16_t status = 0;  ///< ReadData, Reply: 0 or an Errc
    std::uint32_t head_bytes = 0;
    std::uint64_t payload_bytes = 0;
    std::uint64_t cookie = 0;  ///< the requester's name for its operation
    std::uint64_t value = 0;   ///< Reply: the word before an atomic

    friend bool operator==(const FrameHeader&, const FrameHeader&) noexcept = default;
};

/// Head of Read, Write, WriteNotify, Cas, FetchAdd and Import: six u64, little-endian, in this order.
struct RequestHead {
    std::uint64_t segment = 0;
    std::uint64_t token = 0;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::uint64_t operand = 0;
    std::uint64_t extra = 0;  ///< Cas: the expected word; WriteNotify: offset of the notify word
};

[[nodiscard]] std::array<std::byte, kFrameBytes> encode_frame(const FrameHeader& header) noexcept;
/// Reads the first kFrameBytes of `bytes`. Errors: Invalid, with what was expected and what was seen,
/// for anything that a correct peer would not send.
[[nodiscard]] Result<FrameHeader> parse_frame(Bytes bytes);

[[nodiscard]] std::array<std::byte, kRequestBytes> encode_request(const RequestHead& head) noexcept;
/// `bytes` holds at least kRequestBytes, which parse_frame() has made sure of.
[[nodiscard]] RequestHead parse_request(Bytes bytes) noexcept;

}  // namespace cmpool::transport
