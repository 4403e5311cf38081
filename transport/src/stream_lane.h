#pragma once

#include "executor.h"
#include "inbox.h"
#include "outbox.h"
#include "pending.h"

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include <cmpool/base/unique_fd.h>
#include <cmpool/transport/lane.h>

namespace cmpool::transport {

/// What a lane is made of: a connected (or connecting) stream socket, or the reason why there is none.
struct StreamPeer {
    UniqueFd socket;
    PeerIdentity identity;
    std::optional<Error> absent;
};

/// Marks `socket` nonblocking and close-on-exec.
void make_nonblocking(int socket) noexcept;

/// A lane over a stream socket: frames out, frames in, and the peer's requests carried out as they
/// arrive. `tcp` is this and nothing more; `shm` adds memory that both can see.
///
///   Limits  kLaneDepth operations; frame.h bounds each frame; one receive() moves at most
///           kReceiveBytesMax and stops after kReceiveMessagesMax messages, and where a large one begins or
///           ends
class StreamLane : public Lane {
public:
    StreamLane(StreamPeer peer, const Caps& caps, const SegmentTable& table, Duties duties);
    ~StreamLane() override;

    [[nodiscard]] Result<std::size_t> post(std::span<const Op> batch) override;
    [[nodiscard]] std::unique_ptr<RemoteSegment> imported(std::uint64_t cookie) override;
    [[nodiscard]] std::size_t poll(std::span<Completion> out) override;
    [[nodiscard]] Result<std::size_t> receive(Receiver& receiver) override;
    void discard_landing() noexcept override;
    [[nodiscard]] int event_fd() const noexcept override { return socket_.get(); }
    [[nodiscard]] bool wants_write() const noexcept override { return blocked(); }
    [[nodiscard]] Result<void> quiesce(Nanos limit) override;
    [[nodiscard]] std::size_t free_slots() const noexcept override;
    [[nodiscard]] const Caps& caps() const noexcept override { return caps_; }
    [[nodiscard]] const PeerIdentity& peer() const noexcept override { return identity_; }

protected:
    /// Starts anything but a Send. Errors: Invalid, Unsupported; nothing has been started then.
    [[nodiscard]] virtual Result<void> start_one_sided(const Op& op) = 0;
    /// post() has started what it could: one doorbell for all of it.
    virtual void ring() {}
    /// The peer has answered request() for an Import; `value` is the answer's.
    virtual void import_answered(const PendingOp& import, std::optional<Errc> error, UniqueFd fd,
                                 std::uint64_t value);
    /// A request of the peer, or its setup. Errors: Invalid ends the lane.
    [[nodiscard]] virtual Result<void> asked(const FrameHeader& header, Bytes head);
    /// The lane ends, and with it what does not travel in its stream: each such operation completes now.
    /// True when one of them may still land at the peer.
    [[nodiscard]] virtual bool end_elsewhere() { return false; }

    /// Sends a request and waits for its answer in the background. The slot is counted here.
    void request(FrameKind kind, const RequestHead& head, const Op& op, PendingOp pending);
    /// Ends an operation that the slot count has seen.
    void complete(const Completion& completion, bool signal);
    void take_slot() noexcept { ++in_flight_; }
    /// A read or an atomic that does not travel in the stream: fenced messages wait for its end.
    void begun_elsewhere() noexcept { outbox_.begun_elsewhere(); }
    void ended_elsewhere() noexcept { outbox_.answered(); }
    [[nodiscard]] Result<void> answer(std::uint64_t cookie, std::uint16_t status, std::uint64_t value) {
        return outbox_.answer(cookie, status, value);
    }
    void send_setup(Bytes head);
    /// Ends the lane from our side.
    void give_up(std::string why);
    [[nodiscard]] int socket() const noexcept { return socket_.get(); }
    [[nodiscard]] bool blocked() const noexcept { return !ended_ && outbox_.blocked(); }
    [[nodiscard]] const SegmentTable& segments() const noexcept { return table_; }
    void keep_import(std::uint64_t cookie, std::unique_ptr<RemoteSegment> segment);
    [[nodiscard]] const std::optional<Error>& ended() const noexcept { return ended_; }
    void flush();

private:
    enum class Stage : std::uint8_t { Header, BigHead, Payload };
    enum class Cause : std::uint8_t { Peer, Us };  ///< Peer: it has closed, and executes nothing more

    [[nodiscard]] Result<void> start(const Op& op);
    void start_send(const Op& op);
    void settle(std::vector<std::unique_ptr<OutFrame>>& sends, std::optional<Errc> error);
    void end(Error error, Cause cause);
    void break_off(const Error& error);  // the peer broke the rules

    // One step each; false when more bytes are needed first, or the lane has ended.
    [[nodiscard]] bool advance(Receiver& receiver);
    [[nodiscard]] bool read_header(Receiver& receiver);
    [[nodiscard]] bool read_big_head(Receiver& receiver);
    [[nodiscard]] bool read_payload(Receiver& receiver);
    void begin_payload(Receiver& receiver, Bytes head);
    void end_payload(Receiver& receiver);
    [[nodiscard]] Result<void> begin_read_data();
    [[nodiscard]] Result<void> take_answer();
    [[nodiscard]] Inbox::Filled fill(std::uint64_t most);

    UniqueFd socket_;
    PeerIdentity identity_;
    const Caps& caps_;
    const SegmentTable& table_;
    Outbox outbox_;
    Executor executor_;
    Inbox inbox_;
    PendingTable pending_;
    std::vector<Completion> completions_;
    std::unordered_map<std::uint64_t, std::unique_ptr<RemoteSegment>> imports_;
    std::size_t in_flight_ = 0;  // taken, and not yet handed out by poll()
    std::optional<Error> ended_;
    bool ending_ = false;
    bool unsettled_ = false;  // a write may still land at the peer
    std::optional<Error> send_failed_;
    bool heard_ = false;  // the peer has sent something

    // The frame that is arriving.
    Stage stage_ = Stage::Header;
    FrameHeader header_;
    Bytes head_;
    std::vector<std::byte> big_head_;
    std::uint64_t payload_left_ = 0;
    Landing message_landing_;
    Landing* landing_ = nullptr;  // null: the payload is a write's
    std::size_t messages_ = 0;
    bool drained_ = false;
};

}  // namespace cmpool::transport
