#include "tcp_lane.h"

#include "op_check.h"

#include <typeinfo>

#include <cmpool/base/assert.h>

namespace cmpool::transport {

namespace {

FrameKind frame_kind(OpKind kind) noexcept {
    switch (kind) {
        case OpKind::Write:
            return FrameKind::Write;
        case OpKind::WriteNotify:
            return FrameKind::WriteNotify;
        case OpKind::Cas:
            return FrameKind::Cas;
        case OpKind::FetchAdd:
            return FrameKind::FetchAdd;
        default:
            return FrameKind::Read;
    }
}

}  // namespace

Result<void> TcpLane::import(const Descriptor& descriptor, Token token, std::uint64_t cookie) {
    auto name = open_descriptor(descriptor);
    if (!name) return fail(name.error());
    if (name->kind != SegmentKind::Tcp) return fail(Errc::Invalid, "a descriptor of another back end");
    if (free_slots() == 0) return fail(Errc::Again, "all slots of the lane are taken");
    take_slot();
    keep_import(cookie, std::make_unique<TcpRemote>(*name, token));
    complete({.cookie = cookie, .kind = OpKind::Import}, true);
    return {};
}

Result<void> TcpLane::start_one_sided(const Op& op) {
    if (auto fine = check_op(op, kOpBytesMax); !fine) return fine;
    CMPOOL_ASSERT(typeid(*op.remote) == typeid(TcpRemote));
    const auto& remote = static_cast<const TcpRemote&>(*op.remote);
    PendingOp pending{.kind = op.kind, .signal = op.signal, .cookie = op.cookie, .bytes = op_bytes(op)};
    if (op.kind == OpKind::Read) pending.landing = Landing({op.scatter.begin(), op.scatter.end()});
    const RequestHead head{.segment = remote.segment(),
                           .token = remote.token().value,
                           .offset = op.offset,
                           .length = pending.bytes,
                           .operand = op.operand,
                           .extra = op.kind == OpKind::Cas ? op.compare : op.notify_offset};
    request(frame_kind(op.kind), head, op, std::move(pending));
    return {};
}

}  // namespace cmpool::transport
