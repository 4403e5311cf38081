#pragma once

#include "frame.h"
#include "verbs_device.h"
#include "verbs_memory.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/transport/lane.h>

struct ibv_comp_channel;
struct ibv_cq;
struct ibv_qp;

namespace cmpool::transport {

/// Where a queue pair is found. Travels in a Setup frame.
///
///   Layout  little-endian: version u32, number u32, sequence u32, lid u16, mtu u8, reads u8, gid 16,
///           status u16, six zero bytes
struct VerbsEnd {
    std::uint32_t number = 0;
    std::uint32_t sequence = 0;  ///< of its first packet, 24 bits
    std::uint16_t lid = 0;
    std::uint8_t mtu = 1;
    std::uint8_t reads = 1;  ///< that it answers at once
    std::array<std::uint8_t, 16> gid{};
    std::uint16_t status = 0;  ///< 0, or the Errc that says why there is no queue pair
};
[[nodiscard]] std::array<std::byte, kSetupBytes> encode_setup(const VerbsEnd& end) noexcept;
/// Errors: Mismatch for another version; Invalid.
[[nodiscard]] Result<VerbsEnd> parse_setup(Bytes bytes);

/// One work request, its local memory already known to the device.
struct VerbsRequest {
    static constexpr std::size_t kPieces = 16;
    OpKind kind = OpKind::Read;  ///< Read, Write, Cas, FetchAdd
    bool fence = false;
    bool signal = false;
    bool in_line = false;  ///< Write: the pieces are addresses of ours, read when it is posted
    std::uint32_t key = 0;
    std::uint64_t remote = 0;
    std::uint64_t operand = 0;
    std::uint64_t compare = 0;
    std::size_t count = 0;  ///< of pieces
    std::array<VerbsPiece, kPieces> pieces;
};

/// How a request ended, or that all up to it ended well.
struct VerbsDone {
    std::uint64_t number = 0;
    std::optional<Errc> error;
    std::string why;
};

/// A reliable connected queue pair with a completion queue of its own. Requests have numbers, from 0 on,
/// in the order of posting, and end in that order.
///
///   Lifetime  destroying it waits until the device has let go of all memory
///   Threads   one
class VerbsQueue {
public:
    [[nodiscard]] static Result<std::unique_ptr<VerbsQueue>> create(VerbsDevice& device,
                                                                    const VerbsPort& port,
                                                                    std::uint32_t sequence);
    ~VerbsQueue();
    VerbsQueue(const VerbsQueue&) = delete;
    VerbsQueue& operator=(const VerbsQueue&) = delete;

    [[nodiscard]] const VerbsEnd& end() const noexcept { return end_; }
    [[nodiscard]] VerbsDevice& device() const noexcept { return device_; }
    [[nodiscard]] const VerbsPort& port() const noexcept { return port_; }
    /// Errors: PeerDown where the device finds no way to the peer.
    [[nodiscard]] Result<void> connect(const VerbsEnd& peer);

    /// One doorbell. The caller sees to it that there is room. Errors: PeerDown: the queue pair is broken.
    [[nodiscard]] Result<void> post(std::span<const VerbsRequest> batch);
    /// Has the grant's window show its range; a request like any other, always signalled. Errors: as
    /// post(); Denied when the grant has ended.
    [[nodiscard]] Result<void> bind(VerbsGrant& grant);
    [[nodiscard]] std::size_t poll(std::span<VerbsDone> out);

    /// The next completion makes event_fd() readable, once.
    void arm();
    [[nodiscard]] bool armed() const noexcept { return armed_; }
    void take_event();
    [[nodiscard]] int event_fd() const noexcept;

    /// Requests that have not ended end now, with PeerDown: poll() shows them soon.
    void stop() noexcept;
    [[nodiscard]] std::uint64_t next_number() const noexcept { return next_number_; }
    [[nodiscard]] std::uint32_t inline_bytes_max() const noexcept { return inline_bytes_max_; }
    [[nodiscard]] const LaneCounts& counts() const noexcept { return counts_; }

private:
    VerbsQueue(VerbsDevice& device, VerbsPort port) noexcept : device_(device), port_(std::move(port)) {}
    [[nodiscard]] Result<void> make(std::uint32_t sequence);

    VerbsDevice& device_;
    VerbsPort port_;
    VerbsEnd end_;
    ibv_comp_channel* channel_ = nullptr;
    ibv_cq* completions_ = nullptr;
    ibv_qp* queue_ = nullptr;
    std::uint32_t inline_bytes_max_ = 0;
    std::uint64_t next_number_ = 0;
    bool armed_ = false;
    LaneCounts counts_;
};

}  // namespace cmpool::transport
