#include "stream_listener.h"
#include "table_segment.h"
#include "tcp_lane.h"
#include "tcp_socket.h"

#include <mutex>

#include <cmpool/transport/fabric.h>

namespace cmpool::transport {

namespace {

constexpr Caps kCaps{.hard_revoke = true,
                     .ordered = true,
                     .atomics = Atomics::Cpu,
                     .lane_depth = kLaneDepth,
                     .op_bytes_max = kOpBytesMax,
                     .head_bytes_max = kHeadBytesMax,
                     .payload_bytes_max = kPayloadBytesMax};

class TcpFabric final : public Fabric {
public:
    explicit TcpFabric(Entropy& entropy) : entropy_(entropy) {}

    [[nodiscard]] const Caps& caps() const noexcept override { return kCaps; }

    [[nodiscard]] Result<std::unique_ptr<Segment>> allocate(const SegmentSpec& spec) override {
        auto owned = OwnedMemory::anonymous(spec.bytes, spec.prefault);
        if (!owned) return fail(owned.error());
        const MutableBytes memory = owned->bytes();
        return make(std::move(*owned), memory, spec.access);
    }

    [[nodiscard]] Result<std::unique_ptr<Segment>> register_memory(MutableBytes memory,
                                                                   Access access) override {
        if (reinterpret_cast<std::uintptr_t>(memory.data()) % sizeof(std::uint64_t) != 0) {
            return fail(Errc::Invalid, "memory to register must start at a multiple of 8");
        }
        return make({}, memory, access);
    }

    [[nodiscard]] Result<std::unique_ptr<Listener>> listen(std::string_view address) override {
        auto socket = tcp_listen(address);
        if (!socket) return fail(socket.error());
        std::string taken = local_address(socket->get()).text();
        return std::make_unique<StreamListener>(
            std::move(*socket), std::move(taken), [this](UniqueFd incoming) -> std::unique_ptr<Lane> {
                return std::make_unique<TcpLane>(tcp_welcome(std::move(incoming)), kCaps, table_);
            });
    }

    [[nodiscard]] Result<std::unique_ptr<Lane>> connect(std::string_view address) override {
        auto peer = tcp_connect(address);
        if (!peer) return fail(peer.error());
        return std::make_unique<TcpLane>(std::move(*peer), kCaps, table_);
    }

private:
    std::unique_ptr<Segment> make(OwnedMemory owned, MutableBytes memory, Access access) {
        const std::scoped_lock lock(entropy_mutex_);
        const std::uint64_t id = entropy_.next_u64();
        return std::make_unique<TableSegment>(
            table_, std::move(owned),
            std::make_shared<SegmentEntry>(id, Token{entropy_.next_u64()}, access, memory),
            describe({.kind = SegmentKind::Tcp, .access = access, .segment = id, .length = memory.size()}));
    }

    Entropy& entropy_;
    std::mutex entropy_mutex_;  // an Entropy belongs to nobody, a fabric to every thread
    SegmentTable table_;
};

}  // namespace

std::unique_ptr<Fabric> open_tcp(Entropy& entropy) { return std::make_unique<TcpFabric>(entropy); }

}  // namespace cmpool::transport
