#include "op_check.h"

#include "segment_table.h"

namespace cmpool::transport {

namespace {

constexpr std::uint64_t kWord = sizeof(std::uint64_t);

bool atomic(OpKind kind) noexcept { return kind == OpKind::Cas || kind == OpKind::FetchAdd; }

}  // namespace

std::uint64_t op_bytes(const Op& op) noexcept {
    if (atomic(op.kind)) return kWord;
    std::uint64_t total = 0;
    if (op.kind == OpKind::Read) {
        for (const MutableBytes piece : op.scatter) total += piece.size();
    } else {
        for (const Bytes piece : op.gather) total += piece.size();
    }
    return total;
}

Result<void> check_op(const Op& op, std::uint64_t op_bytes_max) {
    if (op.kind == OpKind::Import) return fail(Errc::Invalid, "imports begin with Lane::import()");
    if (op.remote == nullptr) return fail(Errc::Invalid, "a one-sided operation without a segment");
    const auto bytes = op_bytes(op);
    if (bytes > op_bytes_max || !range_fits(op.offset, bytes, op.remote->size())) {
        return fail(Errc::Invalid, "range {}+{} of a segment of {} bytes", op.offset, bytes,
                    op.remote->size());
    }
    const bool notify = op.kind == OpKind::WriteNotify;
    if (notify && !range_fits(op.notify_offset, kWord, op.remote->size())) {
        return fail(Errc::Invalid, "notify word at {} of {} bytes", op.notify_offset, op.remote->size());
    }
    if ((atomic(op.kind) && op.offset % kWord != 0) || (notify && op.notify_offset % kWord != 0)) {
        return fail(Errc::Invalid, "a word at {} is not aligned", notify ? op.notify_offset : op.offset);
    }
    return {};
}

Access access_for(OpKind kind) noexcept {
    if (kind == OpKind::Read) return Access::Read;
    return atomic(kind) ? Access::Atomic : Access::ReadWrite;
}

}  // namespace cmpool::transport
