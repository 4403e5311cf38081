#pragma once

#include "tcp_address.h"

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <cmpool/base/result.h>

struct ibv_context;
struct ibv_pd;

namespace cmpool::transport {

/// What lanes may ask of a device; our own bounds are in it already.
struct VerbsLimits {
    std::uint32_t queue_depth = 0;  ///< work requests of one queue pair
    std::uint32_t pieces_max = 0;   ///< local ranges of one work request
    std::uint8_t reads_max = 0;     ///< reads and atomics that are under way at once
    std::uint64_t slice_bytes = 0;  ///< of one work request, a multiple of 8
    bool windows = false;           ///< type 2 memory windows
    bool atomics = false;
};

/// A port of a device, and the name in its table (GID) that peers are told.
struct VerbsPort {
    std::uint8_t number = 1;
    std::uint8_t gid_index = 0;
    std::array<std::uint8_t, 16> gid{};
    std::uint16_t lid = 0;
    std::uint8_t mtu = 1;  ///< enum ibv_mtu
    bool routed = true;    ///< by GID, as on Ethernet; else by LID
    std::string text;      ///< "rxe0 port 1, GID 1 (10.0.0.1, RoCE v2)"
};

/// A device, opened once a process.
///
///   Lifetime  outlives everything that was made on it
///   Threads   any
class VerbsDevice {
public:
    /// Errors: Denied, NoCapacity.
    [[nodiscard]] static Result<std::vector<std::unique_ptr<VerbsDevice>>> open_all();
    ~VerbsDevice();
    VerbsDevice(const VerbsDevice&) = delete;
    VerbsDevice& operator=(const VerbsDevice&) = delete;

    [[nodiscard]] ibv_context* context() const noexcept { return context_; }
    [[nodiscard]] ibv_pd* domain() const noexcept { return domain_; }
    [[nodiscard]] std::size_t index() const noexcept { return index_; }
    [[nodiscard]] const VerbsLimits& limits() const noexcept { return limits_; }
    [[nodiscard]] const std::string& name() const noexcept { return name_; }

    /// The active port whose table has the address; for a loopback address any active one.
    /// Errors: PeerDown, with the reason for each port.
    [[nodiscard]] Result<VerbsPort> port_for(const TcpAddress& local) const;
    /// One sentence for each port: what it is, and whether it can be used.
    [[nodiscard]] std::vector<std::string> explain() const;

    /// Readable when take_events() has something to do.
    [[nodiscard]] int event_fd() const noexcept;
    /// What the device has to say of itself: lanes whose port or queue pair has failed lose their sockets,
    /// so that each of them ends in its own thread.
    void take_events();
    void watch(std::uint32_t queue_number, std::uint8_t port, int socket);
    void unwatch(std::uint32_t queue_number);
    /// Of asynchronous events, for statistics.
    [[nodiscard]] std::uint64_t failures() const noexcept;

private:
    struct Watched {
        std::uint8_t port;
        int socket;
    };
    VerbsDevice(ibv_context* context, ibv_pd* domain, std::size_t index);
    [[nodiscard]] std::vector<VerbsPort> names_of(std::uint8_t port) const;

    ibv_context* context_;
    ibv_pd* domain_;
    std::size_t index_;
    std::string name_;
    VerbsLimits limits_;
    std::uint8_t ports_ = 0;
    mutable std::mutex mutex_;  // of what follows
    std::unordered_map<std::uint32_t, Watched> watched_;
    std::uint64_t failures_ = 0;
};

}  // namespace cmpool::transport
