#pragma once

#include "frame.h"
#include "segment_table.h"

#include <array>
#include <deque>
#include <memory>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/transport/types.h>

#include <sys/uio.h>

namespace cmpool::transport {

/// A frame on its way out. Heads are copied, payloads are not.
struct OutFrame {
    std::vector<std::byte> front;  ///< header and head
    std::vector<Bytes> gather;
    std::uint64_t payload_bytes = 0;
    std::uint64_t sent_bytes = 0;
    bool fence = false;   ///< waits until no read or atomic of ours is in flight
    bool awaits = false;  ///< is a read or an atomic itself
    bool staged = false;  ///< its payload lies in the stage
    bool is_send = false;
    bool signal = false;
    std::uint64_t cookie = 0;              ///< Send: the caller's
    std::shared_ptr<SegmentEntry> passes;  ///< the segment whose descriptor travels along

    [[nodiscard]] std::uint64_t bytes() const noexcept { return front.size() + payload_bytes; }
};

/// What a lane has to send, in the order it goes out: answers to the peer first, then our own
/// operations, whole frames only.
///
///   Limits  answers: kLaneDepth, above which the peer breaks its own limit; operations: the lane's
class Outbox {
public:
    /// An empty frame, recycled so that the steady state allocates nothing.
    [[nodiscard]] std::unique_ptr<OutFrame> blank();
    void push(std::unique_ptr<OutFrame> frame) { operations_.push_back(std::move(frame)); }

    /// All fail with Invalid once more answers wait than a correct peer can ask for.
    [[nodiscard]] Result<void> answer(std::uint64_t cookie, std::uint16_t status, std::uint64_t value = 0);
    [[nodiscard]] Result<void> answer_fd(std::uint64_t cookie, std::shared_ptr<SegmentEntry> segment);
    [[nodiscard]] Result<void> answer_data(std::uint64_t cookie, std::shared_ptr<SegmentEntry> segment,
                                           std::uint64_t offset, std::uint64_t length);

    /// Sends as much as the socket takes; Sends that are wholly in the kernel go to `done`.
    /// Errors: PeerDown.
    [[nodiscard]] Result<void> flush(int socket, std::vector<std::unique_ptr<OutFrame>>& done);
    /// One of our reads or atomics has been answered.
    void answered() noexcept { --in_flight_; }
    /// One has begun that travels elsewhere: fenced frames wait for it too, until answered().
    void begun_elsewhere() noexcept { ++in_flight_; }
    [[nodiscard]] bool blocked() const noexcept { return !lined_up_.empty(); }
    /// Hands over the Sends that will never go out, and forgets the rest.
    void abandon(std::vector<std::unique_ptr<OutFrame>>& unsent);
    void recycle(std::unique_ptr<OutFrame> frame);

private:
    struct Answer {
        FrameHeader header;
        std::shared_ptr<SegmentEntry> segment;
        std::uint64_t offset = 0;
        std::uint64_t left = 0;
    };

    [[nodiscard]] Result<void> queue(Answer answer);
    void line_up();
    [[nodiscard]] bool line_up_answer();
    void stage(Answer& answer, OutFrame& frame);
    [[nodiscard]] std::size_t gather(iovec* slices, std::size_t count_max) const noexcept;
    void advance(std::uint64_t sent, std::vector<std::unique_ptr<OutFrame>>& done);

    std::deque<Answer> answers_;
    std::deque<std::unique_ptr<OutFrame>> operations_;
    std::deque<std::unique_ptr<OutFrame>> lined_up_;  // order on the wire is settled
    std::vector<std::unique_ptr<OutFrame>> spare_;
    std::vector<std::byte> stage_;  // a consistent copy of what a Read asked for
    bool stage_busy_ = false;
    std::size_t in_flight_ = 0;  // reads and atomics sent and not answered
};

}  // namespace cmpool::transport
