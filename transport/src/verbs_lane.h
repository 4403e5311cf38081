#pragma once

#include "descriptor.h"
#include "segment_table.h"
#include "stream_lane.h"
#include "verbs_memory.h"
#include "verbs_queue.h"

#include <deque>
#include <memory>
#include <vector>

#include <cmpool/transport/segment.h>

namespace cmpool::transport {

/// What a peer's segment is to one queue pair: where it begins, and a key that opens it to this one only.
class VerbsRemote final : public RemoteSegment {
public:
    VerbsRemote(const SegmentName& name, std::uint32_t key, std::uint64_t lane) noexcept
        : name_(name), key_(key), lane_(lane) {}
    [[nodiscard]] std::uint64_t size() const noexcept override { return name_.length; }
    [[nodiscard]] Access access() const noexcept override { return name_.access; }
    [[nodiscard]] Result<MutableBytes> map() override {
        return fail(Errc::Unsupported, "verbs maps nothing: read the segment instead");
    }
    [[nodiscard]] std::uint64_t base() const noexcept { return name_.base; }
    [[nodiscard]] std::uint32_t key() const noexcept { return key_; }
    [[nodiscard]] std::uint64_t lane() const noexcept { return lane_; }

private:
    SegmentName name_;
    std::uint32_t key_;
    std::uint64_t lane_;
};

/// What the lanes of a fabric share.
struct VerbsShared {
    std::vector<std::unique_ptr<VerbsDevice>> devices;
    VerbsRegistry registry;
    SegmentTable segments;
};

/// Messages, imports and the set-up travel through a TCP connection; one-sided operations are work requests
/// of a queue pair. One post() is one doorbell, and of its requests only those announce their end that
/// the caller asked for, and the last.
///
///   Always  bytes of registered memory go straight between it and the device; all others through the stage
///   Limits  the device's queue depth of requests at once; further operations wait in the lane
class VerbsLane final : public StreamLane {
public:
    enum class Role : std::uint8_t { Opens, Answers };
    VerbsLane(StreamPeer peer, const Caps& caps, VerbsShared& shared, Role role, std::uint32_t sequence);
    ~VerbsLane() override;

    [[nodiscard]] Result<void> import(const Descriptor& descriptor, Token token,
                                      std::uint64_t cookie) override;
    [[nodiscard]] std::size_t poll(std::span<Completion> out) override;
    [[nodiscard]] Result<std::size_t> receive(Receiver& receiver) override;
    [[nodiscard]] int event_fd() const noexcept override { return events_.get(); }
    /// The event descriptor sees to that by itself.
    [[nodiscard]] bool wants_write() const noexcept override { return false; }
    [[nodiscard]] LaneCounts counts() const noexcept override { return queue_ ? queue_->counts() : counts_; }

protected:
    [[nodiscard]] Result<void> start_one_sided(const Op& op) override;
    void ring() override;
    void import_answered(const PendingOp& import, std::optional<Errc> error, UniqueFd fd,
                         std::uint64_t value) override;
    [[nodiscard]] Result<void> asked(const FrameHeader& header, Bytes head) override;
    [[nodiscard]] bool end_elsewhere() override;

private:
    /// An operation, from post() until its last request has ended.
    struct Work {
        OpKind kind = OpKind::Read;  ///< Import: binding a window for the peer
        bool signal = true;
        bool fence = false;
        bool delivered = false;
        bool direct = false;   ///< its memory is registered
        bool in_line = false;  ///< its bytes are few enough to travel in the request itself
        std::uint64_t cookie = 0;
        std::uint64_t bytes = 0;
        std::uint64_t remote = 0;
        std::uint64_t notify = 0;  ///< the word's place
        std::uint32_t key = 0;
        std::uint64_t operand = 0;
        std::uint64_t compare = 0;
        std::vector<MutableBytes> pieces;  ///< never written to unless it is a read
        std::vector<VerbsPiece> known;     ///< the same, where direct
        std::shared_ptr<VerbsGrant> grant;

        std::uint64_t issued = 0;  ///< bytes that requests have been made for
        bool body_issued = false;
        bool all_issued = false;
        std::size_t outstanding = 0;
        std::uint64_t value = 0;
        std::optional<Errc> error;
    };
    /// A request on its way.
    struct Posted {
        Work* work;
        std::optional<std::uint32_t> slot;  ///< of the stage
        std::uint64_t offset = 0;           ///< in the operation's bytes
        std::uint64_t bytes = 0;
    };

    /// Ends only when something of the peer's is here.
    [[nodiscard]] static bool brings_back(OpKind kind) noexcept {
        return kind == OpKind::Read || kind == OpKind::Cas || kind == OpKind::FetchAdd;
    }
    [[nodiscard]] VerbsDevice* choose_device(VerbsPort& port, std::string& why) const;
    [[nodiscard]] Result<void> open_queue();
    [[nodiscard]] Result<void> set_up(const VerbsEnd& peer);
    [[nodiscard]] Result<void> import_asked(const FrameHeader& header, const RequestHead& request);
    void fill(Work& work, const Op& op, const VerbsRemote& remote);

    // Making requests, as far as there is room.
    void issue();
    [[nodiscard]] bool issue_next(Work& work);
    [[nodiscard]] bool issue_direct(Work& work);
    [[nodiscard]] bool issue_staged(Work& work);
    [[nodiscard]] bool issue_inline(Work& work);
    [[nodiscard]] bool issue_atomic(Work& work);
    [[nodiscard]] bool issue_tail(Work& work);
    [[nodiscard]] bool issue_binding(Work& work);
    [[nodiscard]] std::optional<std::uint32_t> take_slot_of_stage();
    void add(Work& work, VerbsRequest request, Posted posted);
    void send_batch();
    [[nodiscard]] bool room() const noexcept;

    void reap();
    void settle();
    void request_ended(Posted& posted, std::optional<Errc> error);
    void finish(Work& work);
    void arm();
    void watch_socket() noexcept;

    VerbsShared& shared_;
    Role role_;
    std::uint32_t sequence_;
    std::uint64_t id_;
    UniqueFd events_;
    std::unique_ptr<VerbsQueue> queue_;
    std::unique_ptr<VerbsStage> stage_;
    bool connected_ = false;
    std::deque<std::unique_ptr<Work>> works_;  ///< in order of posting
    std::size_t next_ = 0;                     ///< of works_: the first that is not wholly issued
    std::deque<Posted> posted_;                ///< requests that have not ended, oldest first
    std::uint64_t oldest_ = 0;                 ///< the number of the first of them
    std::vector<VerbsRequest> batch_;          ///< made, and not yet given to the device
    std::size_t bindings_ = 0;
    std::vector<std::shared_ptr<VerbsGrant>> grants_;
    std::optional<std::string> broken_;  ///< why the queue pair is of no use any more
    std::uint32_t watched_ = 0;
    bool event_due_ = false;
    LaneCounts counts_;
};

}  // namespace cmpool::transport
