#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/base/rng.h>
#include <cmpool/transport/lane.h>
#include <cmpool/transport/segment.h>
#include <cmpool/transport/types.h>

namespace cmpool::transport {

/// Where lanes from elsewhere come in.
class Listener {
public:
    virtual ~Listener() = default;
    /// The next lane that somebody opened to us. Errors: Again when none is waiting; NoCapacity when
    /// the process has no descriptor left for it.
    [[nodiscard]] virtual Result<std::unique_ptr<Lane>> accept() = 0;
    [[nodiscard]] virtual int event_fd() const noexcept = 0;
    /// What to connect() to, with the port that was really taken.
    [[nodiscard]] virtual const std::string& address() const noexcept = 0;
};

/// One back end, opened once a process: `shm`, `tcp`, `verbs`, `sim`, later `urma`.
///
///   Lifetime  outlives its segments, listeners and lanes
///   Threads   any; what it opens belongs to the thread that opened it
class Fabric {
public:
    virtual ~Fabric() = default;
    [[nodiscard]] virtual const Caps& caps() const noexcept = 0;
    /// Memory of ours that peers can import. Errors: NoCapacity, Invalid, Denied (folder rights).
    [[nodiscard]] virtual Result<std::unique_ptr<Segment>> allocate(const SegmentSpec& spec) = 0;
    /// Memory that exists already. On `shm` (Caps::pull) this is a window into this process that a
    /// peer may read if the kernel lets it; nothing is pinned or copied, so it costs nothing.
    [[nodiscard]] virtual Result<std::unique_ptr<Segment>> register_memory(MutableBytes memory,
                                                                           Access access) = 0;
    /// Errors: Invalid for an address of another form, PeerDown for one that is taken (says by what).
    [[nodiscard]] virtual Result<std::unique_ptr<Listener>> listen(std::string_view address) = 0;
    /// Begins a lane to a listener and returns at once: operations may be posted, and a peer that is
    /// not there shows as PeerDown from post() or receive().
    [[nodiscard]] virtual Result<std::unique_ptr<Lane>> connect(std::string_view address) = 0;
    /// For people: one sentence for each thing that it may travel through, and how it is reached.
    [[nodiscard]] virtual std::vector<std::string> explain() const { return {}; }
};

/// `tcp`: address HOST:PORT; port 0 picks one. Segments are executed by the target's lane thread.
[[nodiscard]] std::unique_ptr<Fabric> open_tcp(Entropy& entropy);

/// `verbs`: RDMA, address HOST:PORT of a TCP connection that sets it up and carries the messages. One-sided
/// operations go through the device whose port has this connection's local address (a loopback address: any
/// that is up). Memory stays locked while it is a segment.
/// Errors: Unsupported without a device, Denied when none can be opened.
[[nodiscard]] Result<std::unique_ptr<Fabric>> open_verbs(Entropy& entropy);

struct ShmOptions {
    /// Where segments and sockets live: tmpfs or hugetlbfs, owned by the pool's uid. Empty for a
    /// process that only connects and imports.
    std::string runtime_dir;
};
/// `shm`: address is a socket's path. Segments that peers may only read are 0600 files in
/// runtime_dir, handed over as read-only descriptors; those that peers may write are made by the
/// owner and sealed against shrinking and growing.
[[nodiscard]] std::unique_ptr<Fabric> open_shm(ShmOptions options, Entropy& entropy);
/// Removes the segments that a crashed pool left in its folder; their memory is free when the last
/// client has let go of it. Returns how many. Only for whoever holds the folder's lock, before its first
/// allocate(): opening a fabric deletes nothing. Errors: Denied, Invalid.
[[nodiscard]] Result<std::size_t> remove_stale_segments(const std::string& runtime_dir);

/// The back ends that read memory across hosts without its owner's help, by name, so that those above need
/// not know which there are: servers say NAME://ADDRESS, clients open what both sides have.
[[nodiscard]] std::vector<std::string> plane_names();
/// Errors: Unsupported for a name that this build does not know, or where the host has no such device.
[[nodiscard]] Result<std::unique_ptr<Fabric>> open_plane(std::string_view name, Entropy& entropy);
struct PlaneAddress {
    std::string name, address;
};
/// Errors: Invalid for another form than NAME://ADDRESS.
[[nodiscard]] Result<PlaneAddress> parse_plane(std::string_view text);

/// What `open_faulty` may do to the lanes of a real back end; all probabilities per call.
struct FaultPlan {
    std::uint64_t seed = 1;
    double delay_completion = 0;  ///< poll() holds a completion back for some calls
    double reorder_completion = 0;
    double short_post = 0;    ///< post() takes fewer operations than it could
    double lose_message = 0;  ///< a message that was sent never arrives
    double kill_lane = 0;     ///< the lane fails as if the peer had died
};
/// Wraps a back end so that it is no kinder than a fabric may be.
[[nodiscard]] std::unique_ptr<Fabric> open_faulty(std::unique_ptr<Fabric> inner, FaultPlan plan);

}  // namespace cmpool::transport
