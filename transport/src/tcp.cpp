#include "owned_memory.h"
#include "stream_listener.h"
#include "tcp_address.h"
#include "tcp_lane.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <cmpool/base/assert.h>
#include <cmpool/transport/fabric.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace cmpool::transport {

namespace {

constexpr int kBacklog = 4096;

constexpr Caps kCaps{.hard_revoke = true,
                     .ordered = true,
                     .atomics = Atomics::Cpu,
                     .lane_depth = kLaneDepth,
                     .op_bytes_max = kOpBytesMax,
                     .head_bytes_max = kHeadBytesMax,
                     .payload_bytes_max = kPayloadBytesMax};

void no_delay(int socket) noexcept {
    const int on = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

TcpAddress local_address(int socket) noexcept {
    TcpAddress address;
    address.bytes = sizeof address.storage;
    ::getsockname(socket, reinterpret_cast<sockaddr*>(&address.storage), &address.bytes);
    return address;
}

PeerIdentity identify(int socket, const TcpAddress& peer) {
    const bool here = peer.loopback() || peer.same_host(local_address(socket));
    return {.same_host = here, .address = peer.text()};
}

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
        auto targets = resolve_tcp(address, true);
        if (!targets) return fail(targets.error());
        const TcpAddress& target = targets->front();
        UniqueFd socket(::socket(target.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        const int on = 1;
        ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (::bind(socket.get(), target.get(), target.bytes) != 0 || ::listen(socket.get(), kBacklog) != 0) {
            return fail(Errc::PeerDown, "cannot listen on {}: {}", address, std::strerror(errno));
        }
        std::string taken = local_address(socket.get()).text();
        return std::make_unique<StreamListener>(
            std::move(socket), std::move(taken),
            [this](UniqueFd incoming) { return welcome(std::move(incoming)); });
    }

    [[nodiscard]] Result<std::unique_ptr<Lane>> connect(std::string_view address) override {
        auto targets = resolve_tcp(address, false);
        if (!targets && targets.error().code == Errc::Invalid) return fail(targets.error());
        StreamPeer peer;
        if (targets) {
            peer = reach(address, *targets);
        } else {
            peer = {.socket = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
                    .identity = {.address = std::string(address)},
                    .absent = targets.error()};
        }
        return std::make_unique<TcpLane>(std::move(peer), kCaps, table_);
    }

private:
    // The first address that does not refuse at once; a far one is decided later, by its silence.
    static StreamPeer reach(std::string_view name, const std::vector<TcpAddress>& targets) {
        StreamPeer peer{.identity = {.address = std::string(name)}};
        for (const TcpAddress& target : targets) {
            const int family = target.storage.ss_family;
            peer.socket.reset(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
            no_delay(peer.socket.get());
            const bool begun = ::connect(peer.socket.get(), target.get(), target.bytes) == 0 ||
                               errno == EINPROGRESS || errno == EINTR;
            peer.identity = identify(peer.socket.get(), target);
            if (begun) return StreamPeer{std::move(peer.socket), std::move(peer.identity), std::nullopt};
            peer.absent = Error{Errc::PeerDown, fmt::format("{}: {}", name, std::strerror(errno))};
        }
        return peer;
    }

    std::unique_ptr<Lane> welcome(UniqueFd socket) {
        no_delay(socket.get());
        TcpAddress address;
        address.bytes = sizeof address.storage;
        ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&address.storage), &address.bytes);
        auto identity = identify(socket.get(), address);
        return std::make_unique<TcpLane>(StreamPeer{std::move(socket), std::move(identity), std::nullopt},
                                         kCaps, table_);
    }

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
