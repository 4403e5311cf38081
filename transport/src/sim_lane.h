#pragma once

#include "descriptor.h"
#include "landing.h"
#include "sim_core.h"

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include <cmpool/transport/lane.h>

namespace cmpool::transport {

/// A segment of a simulated peer.
class SimRemote final : public RemoteSegment {
public:
    SimRemote(const SegmentName& name, Token token, std::shared_ptr<SimMemory> memory, bool mappable)
        : name_(name), token_(token), memory_(std::move(memory)), mappable_(mappable) {}

    [[nodiscard]] std::uint64_t size() const noexcept override { return name_.length; }
    [[nodiscard]] Access access() const noexcept override { return name_.access; }
    [[nodiscard]] Result<MutableBytes> map() override {
        if (!mappable_) return fail(Errc::Unsupported, "this segment is read, never mapped");
        return memory_->bytes;
    }
    [[nodiscard]] Token token() const noexcept { return token_; }
    /// Null where the descriptor names nothing.
    [[nodiscard]] const std::shared_ptr<SimMemory>& memory() const noexcept { return memory_; }

private:
    SegmentName name_;
    Token token_;
    std::shared_ptr<SimMemory> memory_;
    bool mappable_;
};

/// An operation on its way, kept by the events that carry it out.
struct SimOp {
    OpKind kind = OpKind::Send;
    bool signal = true;
    bool fence = false;
    bool early = false;  ///< a Write that may complete before it is visible
    std::uint64_t cookie = 0;
    std::uint64_t bytes = 0;
    std::uint64_t offset = 0;
    std::uint64_t operand = 0, compare = 0, notify_offset = 0;
    std::uint64_t value = 0;
    std::vector<std::byte> head;
    std::vector<MutableBytes> scatter;
    std::vector<Bytes> gather;
    std::vector<std::byte> snapshot;  ///< the payload, once the caller has its buffer back
    std::shared_ptr<SimMemory> memory;
    Token token;
    std::unique_ptr<RemoteSegment> imported;  ///< Import: what it hands over
    bool completed = false;
    bool over = false;  ///< touches nothing any more
    bool cut_off = false;
    std::optional<Errc> error;

    [[nodiscard]] bool reads() const noexcept {
        return kind == OpKind::Read || kind == OpKind::Cas || kind == OpKind::FetchAdd;
    }
};
using SimOpPtr = std::shared_ptr<SimOp>;

/// What two ends have in common. An end that is gone is null.
struct SimWire {
    std::array<SimLane*, 2> ends{};
    std::array<std::string, 2> hosts;
    std::array<Instant, 2> arrived;  ///< at each end: nothing ordered arrives before this
};

class SimLane final : public Lane {
public:
    SimLane(SimCore& core, std::shared_ptr<SimWire> wire, std::size_t side, const Caps& caps,
            SimProfile profile, std::string address);
    ~SimLane() override;

    [[nodiscard]] Result<std::size_t> post(std::span<const Op> batch) override;
    [[nodiscard]] Result<void> import(const Descriptor& descriptor, Token token,
                                      std::uint64_t cookie) override;
    [[nodiscard]] std::unique_ptr<RemoteSegment> imported(std::uint64_t cookie) override;
    [[nodiscard]] std::size_t poll(std::span<Completion> out) override;
    [[nodiscard]] Result<std::size_t> receive(Receiver& receiver) override;
    void discard_landing() noexcept override { landing_.divert(); }
    [[nodiscard]] int event_fd() const noexcept override { return -1; }
    [[nodiscard]] bool wants_write() const noexcept override { return false; }
    [[nodiscard]] Result<void> quiesce(Nanos limit) override;
    [[nodiscard]] std::size_t free_slots() const noexcept override;
    [[nodiscard]] const Caps& caps() const noexcept override { return caps_; }
    [[nodiscard]] const PeerIdentity& peer() const noexcept override { return identity_; }

    /// Breaks this end: everything that is out completes with PeerDown. What has arrived can still be
    /// received.
    void end(std::string why);
    /// The other end learns of ours, after what we sent before.
    void tell_peer(const std::string& why);
    [[nodiscard]] const std::string& host() const noexcept { return wire_->hosts[side_]; }
    [[nodiscard]] const std::string& peer_host() const noexcept { return wire_->hosts[1 - side_]; }
    [[nodiscard]] const std::shared_ptr<SimWire>& wire() const noexcept { return wire_; }

private:
    /// What waits for receive(): a message, or an operation of the peer's that we carry out.
    struct Arrival {
        std::vector<std::byte> head, payload;
        SimOpPtr request;
    };

    [[nodiscard]] Result<SimOpPtr> admit(const Op& op) const;
    void start_queued();
    void start(const SimOpPtr& op);
    void start_send(const SimOpPtr& op);
    void depart(const SimOpPtr& op);
    void start_one_sided(const SimOpPtr& op);
    void start_request(const SimOpPtr& op);
    void carry_out(const SimOpPtr& op, std::uint64_t at, std::uint64_t bytes);
    void settle(const SimOpPtr& op);
    void complete(const SimOpPtr& op);
    void read_window(const SimOpPtr& op);
    void execute(const SimOpPtr& op);
    void land(Receiver& receiver);
    [[nodiscard]] Instant arrival(std::size_t side);
    void unkind();
    void on_lane(Instant when, std::size_t side, std::function<void(SimLane&)> action);

    SimCore& core_;
    std::shared_ptr<SimWire> wire_;
    std::size_t side_;
    const Caps& caps_;
    SimProfile profile_;
    PeerIdentity identity_;
    std::uint64_t number_;
    std::optional<Error> ended_;
    std::deque<SimOpPtr> queued_;    // not started: a fence holds them
    std::vector<SimOpPtr> running_;  // may still touch memory
    Instant departed_;
    Instant writes_end_;
    std::deque<Completion> completions_;
    std::map<std::uint64_t, std::unique_ptr<RemoteSegment>> imports_;
    std::size_t in_flight_ = 0;
    std::deque<Arrival> inbox_;
    Landing landing_;
    bool landing_half_ = false;  // the front message's first half has landed
    Instant landing_ready_;
};

/// Whether a peer may touch the range now. Denied, Invalid.
[[nodiscard]] std::optional<Errc> sim_access(const SimMemory* memory, Token token, Access wanted,
                                             std::uint64_t offset, std::uint64_t bytes);

}  // namespace cmpool::transport
