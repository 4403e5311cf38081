#include "owned_memory.h"
#include "stream_listener.h"
#include "tcp_lane.h"
#include "tcp_socket.h"

#include <algorithm>
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

/// Memory that lanes of ours read and write for peers, while it is in the table.
class TcpSegment final : public Segment {
public:
    TcpSegment(SegmentTable& table, Entropy& entropy, OwnedMemory owned, MutableBytes memory, Access access)
        : table_(table),
          owned_(std::move(owned)),
          entry_(
              std::make_shared<SegmentEntry>(entropy.next_u64(), Token{entropy.next_u64()}, access, memory)),
          descriptor_(describe(
              {.kind = SegmentKind::Tcp, .access = access, .segment = entry_->id, .length = memory.size()})) {
        table_.add(entry_);
    }
    ~TcpSegment() override { table_.remove(entry_->id); }

    [[nodiscard]] MutableBytes bytes() noexcept override { return entry_->memory; }
    [[nodiscard]] const Descriptor& descriptor() const noexcept override { return descriptor_; }
    [[nodiscard]] Token token() const noexcept override { return entry_->token; }
    [[nodiscard]] Revocation revoke() override {
        entry_->revoke();
        return Revocation::Hard;
    }
    void punch() noexcept override {
        entry_->revoke();
        std::fill(entry_->memory.begin(), entry_->memory.end(), std::byte{});
    }

private:
    SegmentTable& table_;
    OwnedMemory owned_;
    std::shared_ptr<SegmentEntry> entry_;
    Descriptor descriptor_;
};

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
        return std::make_unique<TcpSegment>(table_, entropy_, std::move(owned), memory, access);
    }

    Entropy& entropy_;
    std::mutex entropy_mutex_;  // an Entropy belongs to nobody, a fabric to every thread
    SegmentTable table_;
};

}  // namespace

std::unique_ptr<Fabric> open_tcp(Entropy& entropy) { return std::make_unique<TcpFabric>(entropy); }

}  // namespace cmpool::transport
