#include "executor.h"

#include "shared_copy.h"

#include <algorithm>

namespace cmpool::transport {

namespace {

constexpr std::uint64_t kWord = sizeof(std::uint64_t);

std::uint16_t wire(Errc code) noexcept { return static_cast<std::uint16_t>(code); }

}  // namespace

Result<void> Executor::execute(const FrameHeader& header, const RequestHead& request) {
    const bool import = header.kind == FrameKind::Import;
    if (import ? !duties_.hands_out_fds : !duties_.one_sided) {
        return fail(Errc::Invalid, "request kind {} is not for this lane",
                    static_cast<unsigned>(header.kind));
    }
    if (header.kind == FrameKind::Cas || header.kind == FrameKind::FetchAdd) {
        return execute_atomic(header, request);
    }
    const RangeRequest range{.token = Token{request.token},
                             .offset = import ? 0 : request.offset,
                             .length = import ? 0 : request.length};
    auto segment = table_.check(request.segment, range);
    if (!segment) return outbox_.answer(header.cookie, wire(segment.error().code));
    if (!import) {
        if (request.length > kOpBytesMax) return outbox_.answer(header.cookie, wire(Errc::Invalid));
        return outbox_.answer_data(header.cookie, std::move(*segment), request.offset, request.length);
    }
    if (!(*segment)->exported) return outbox_.answer(header.cookie, wire(Errc::Unsupported));
    return outbox_.answer_fd(header.cookie, std::move(*segment));
}

Result<void> Executor::execute_atomic(const FrameHeader& header, const RequestHead& request) {
    if (request.offset % kWord != 0) return outbox_.answer(header.cookie, wire(Errc::Invalid));
    const RangeRequest range{Token{request.token}, Access::Atomic, request.offset, kWord};
    auto segment = table_.check(request.segment, range);
    if (!segment) return outbox_.answer(header.cookie, wire(segment.error().code));
    const std::shared_lock held((*segment)->gate);
    if ((*segment)->revoked) return outbox_.answer(header.cookie, wire(Errc::Denied));
    std::byte* word = (*segment)->memory.data() + request.offset;
    const auto before = header.kind == FrameKind::Cas
                            ? compare_swap_word(word, request.extra, request.operand)
                            : fetch_add_word(word, request.operand);
    return outbox_.answer(header.cookie, 0, before);
}

Result<std::shared_ptr<SegmentEntry>> Executor::check_write() const {
    RangeRequest range{Token{request_.token}, Access::ReadWrite, request_.offset, header_.payload_bytes};
    auto segment = table_.check(request_.segment, range);
    if (!segment || header_.kind == FrameKind::Write) return segment;
    if (request_.extra % kWord != 0) return fail(Errc::Invalid, "notify word at {}", request_.extra);
    range.offset = request_.extra;
    range.length = kWord;
    return table_.check(request_.segment, range);
}

Result<void> Executor::begin_write(const FrameHeader& header, const RequestHead& request) {
    if (!duties_.one_sided) return fail(Errc::Invalid, "writes are not for this lane");
    header_ = header;
    request_ = request;
    landed_bytes_ = 0;
    status_ = 0;
    auto segment = check_write();
    if (segment) {
        target_ = std::move(*segment);
    } else {
        target_.reset();
        status_ = wire(segment.error().code);
    }
    return {};
}

std::size_t Executor::land(Bytes bytes) {
    const auto left = header_.payload_bytes - landed_bytes_;
    std::size_t count = std::min<std::uint64_t>(left, bytes.size());
    if (target_ && count < left) {
        // Stop between words of the target: the rest of a word comes with the next bytes.
        const auto end = reinterpret_cast<std::uintptr_t>(target_->memory.data()) + request_.offset +
                         landed_bytes_ + count;
        const auto past = end % kWord;
        count = past > count ? 0 : count - past;
    }
    if (target_) {
        const std::shared_lock held(target_->gate);
        if (target_->revoked) {
            status_ = wire(Errc::Denied);
        } else {
            copy_to_shared(target_->memory.data() + request_.offset + landed_bytes_, bytes.data(), count);
        }
    }
    if (status_ != 0) target_.reset();
    landed_bytes_ += count;
    return count;
}

Result<void> Executor::end_write() {
    if (target_ && header_.kind == FrameKind::WriteNotify) {
        const std::shared_lock held(target_->gate);
        if (target_->revoked) {
            status_ = wire(Errc::Denied);
        } else {
            store_word(target_->memory.data() + request_.extra, request_.operand);
        }
    }
    target_.reset();
    return outbox_.answer(header_.cookie, status_);
}

}  // namespace cmpool::transport
