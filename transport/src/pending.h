#pragma once

#include "descriptor.h"
#include "landing.h"

#include <cstdint>
#include <deque>
#include <vector>

#include <cmpool/transport/types.h>

namespace cmpool::transport {

/// A request of ours that waits for the peer's answer.
struct PendingOp {
    OpKind kind = OpKind::Read;
    bool signal = true;
    std::uint64_t cookie = 0;  ///< the caller's
    std::uint64_t bytes = 0;
    std::uint64_t landed_bytes = 0;  ///< Read
    Landing landing;                 ///< Read
    SegmentName name;                ///< Import
    Token token;                     ///< Import
};

/// Requests in flight, by the number that travels. A number is used once, so an answer that comes
/// twice, or was made up, matches nothing.
///
///   Limits  the lane's depth
class PendingTable {
public:
    /// The number for the next request.
    [[nodiscard]] std::uint64_t add(PendingOp op);
    [[nodiscard]] PendingOp* find(std::uint64_t number) noexcept;
    [[nodiscard]] PendingOp take(std::uint64_t number);
    [[nodiscard]] std::vector<PendingOp> take_all();

private:
    struct Slot {
        std::uint32_t generation = 0;
        bool live = false;
        PendingOp op;
    };

    std::deque<Slot> slots_;  // a Slot never moves: bytes may be landing through it
    std::vector<std::uint32_t> free_;
};

}  // namespace cmpool::transport
