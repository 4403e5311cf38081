#include "stream_listener.h"
#include "table_segment.h"
#include "tcp_socket.h"
#include "verbs_lane.h"

#include <algorithm>
#include <mutex>

#include <cmpool/transport/fabric.h>

namespace cmpool::transport {

namespace {

/// Memory that devices read and write for peers, as long as its grants last.
class VerbsSegment final : public TableSegment {
public:
    VerbsSegment(VerbsShared& shared, OwnedMemory owned, const std::shared_ptr<VerbsEntry>& entry)
        : TableSegment(shared.segments, std::move(owned), entry,
                       describe({.kind = SegmentKind::Verbs,
                                 .access = entry->access,
                                 .segment = entry->id,
                                 .base = entry->base(),
                                 .length = entry->memory.size()})),
          registry_(shared.registry),
          entry_(entry) {
        registry_.add(entry_);
    }
    ~VerbsSegment() override { registry_.remove(*entry_); }

private:
    VerbsRegistry& registry_;
    std::shared_ptr<VerbsEntry> entry_;
};

class VerbsFabric final : public Fabric {
public:
    VerbsFabric(std::vector<std::unique_ptr<VerbsDevice>> devices, Entropy& entropy) : entropy_(entropy) {
        shared_.devices = std::move(devices);
        const bool atomics = std::all_of(shared_.devices.begin(), shared_.devices.end(),
                                         [](const auto& device) { return device->limits().atomics; });
        caps_ = {.one_sided = true,
                 .hard_revoke = true,
                 .ordered = true,
                 .exposes_pool = true,
                 .atomics = atomics ? Atomics::Device : Atomics::None,
                 .lane_depth = kLaneDepth,
                 .op_bytes_max = kOpBytesMax,
                 .head_bytes_max = kHeadBytesMax,
                 .payload_bytes_max = kPayloadBytesMax};
    }

    [[nodiscard]] const Caps& caps() const noexcept override { return caps_; }

    [[nodiscard]] Result<std::unique_ptr<Segment>> allocate(const SegmentSpec& spec) override {
        auto owned = OwnedMemory::anonymous(spec.bytes, spec.prefault);
        if (!owned) return fail(owned.error());
        const MutableBytes memory = owned->bytes();
        return make(std::move(*owned), memory, spec.access);
    }

    [[nodiscard]] Result<std::unique_ptr<Segment>> register_memory(MutableBytes memory,
                                                                   Access access) override {
        const bool aligned = reinterpret_cast<std::uintptr_t>(memory.data()) % sizeof(std::uint64_t) == 0;
        if (memory.empty() || (!aligned && access != Access::None)) {
            return fail(Errc::Invalid, "memory to register must start at a multiple of 8, and not be empty");
        }
        return make({}, memory, access);
    }

    [[nodiscard]] Result<std::unique_ptr<Listener>> listen(std::string_view address) override {
        auto socket = tcp_listen(address);
        if (!socket) return fail(socket.error());
        std::string taken = local_address(socket->get()).text();
        return std::make_unique<StreamListener>(
            std::move(*socket), std::move(taken), [this](UniqueFd incoming) {
                return lane(tcp_welcome(std::move(incoming)), VerbsLane::Role::Answers);
            });
    }

    [[nodiscard]] Result<std::unique_ptr<Lane>> connect(std::string_view address) override {
        auto peer = tcp_connect(address);
        if (!peer) return fail(peer.error());
        return lane(std::move(*peer), VerbsLane::Role::Opens);
    }

    [[nodiscard]] std::vector<std::string> explain() const override {
        std::vector<std::string> lines;
        for (const auto& device : shared_.devices) {
            for (auto& line : device->explain()) lines.push_back(std::move(line));
        }
        return lines;
    }

private:
    std::unique_ptr<Lane> lane(StreamPeer peer, VerbsLane::Role role) {
        const auto sequence = static_cast<std::uint32_t>(draw());
        return std::make_unique<VerbsLane>(std::move(peer), caps_, shared_, role, sequence);
    }

    Result<std::unique_ptr<Segment>> make(OwnedMemory owned, MutableBytes memory, Access access) {
        const auto id = draw();
        auto entry = std::make_shared<VerbsEntry>(id, Token{draw()}, access, memory);
        for (const auto& device : shared_.devices) {
            if (auto ready = entry->prepare(*device); !ready) return fail(ready.error());
        }
        return std::make_unique<VerbsSegment>(shared_, std::move(owned), entry);
    }

    std::uint64_t draw() {
        const std::scoped_lock lock(entropy_mutex_);
        return entropy_.next_u64();
    }

    Entropy& entropy_;
    std::mutex entropy_mutex_;  // an Entropy belongs to nobody, a fabric to every thread
    VerbsShared shared_;
    Caps caps_;
};

}  // namespace

Result<std::unique_ptr<Fabric>> open_verbs(Entropy& entropy) {
    auto devices = VerbsDevice::open_all();
    if (!devices) return fail(devices.error());
    return std::make_unique<VerbsFabric>(std::move(*devices), entropy);
}

}  // namespace cmpool::transport
