#pragma once

#include "frame.h"
#include "outbox.h"
#include "segment_table.h"

#include <memory>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::transport {

/// Which of the peer's requests a stream lane carries out; the others end the lane.
struct Duties {
    bool one_sided = false;      ///< Read, Write, WriteNotify, Cas, FetchAdd: where no hardware does it
    bool hands_out_fds = false;  ///< Import, answered with a descriptor
};

/// Carries out a peer's one-sided operations on our segments, when they arrive.
///
///   Errors  a refused request is answered; only a broken limit or a forbidden kind is an error here
class Executor {
public:
    Executor(const SegmentTable& table, Outbox& outbox, Duties duties)
        : table_(table), outbox_(outbox), duties_(duties) {}

    /// Any request but the two writes. Errors: Invalid.
    [[nodiscard]] Result<void> execute(const FrameHeader& header, const RequestHead& request);

    /// A write's payload follows: land() takes it as it comes, end_write() answers.
    [[nodiscard]] Result<void> begin_write(const FrameHeader& header, const RequestHead& request);
    /// Takes what makes whole words of the target, and says how much that was.
    [[nodiscard]] std::size_t land(Bytes bytes);
    [[nodiscard]] Result<void> end_write();

private:
    [[nodiscard]] Result<void> execute_atomic(const FrameHeader& header, const RequestHead& request);
    [[nodiscard]] Result<std::shared_ptr<SegmentEntry>> check_write() const;

    const SegmentTable& table_;
    Outbox& outbox_;
    Duties duties_;

    // The write that is landing.
    FrameHeader header_;
    RequestHead request_;
    std::shared_ptr<SegmentEntry> target_;
    std::uint64_t landed_bytes_ = 0;
    std::uint16_t status_ = 0;
};

}  // namespace cmpool::transport
