// The incoming half of StreamLane.
#include "stream_lane.h"

#include <algorithm>
#include <cstring>

#include <cmpool/base/assert.h>

namespace cmpool::transport {

namespace {

// Of one receive(): others have their turns in between.
constexpr std::uint64_t kReceiveBytesMax = 128 * KiB;
constexpr std::size_t kReceiveMessagesMax = 16;
constexpr std::uint64_t kLargePayloadBytes = 16 * KiB;
constexpr std::size_t kHeadsBytes = 2 * KiB;         // most heads are shorter
constexpr std::size_t kBigHeadKeptBytes = 64 * KiB;  // a larger buffer is given back after use

std::optional<Errc> status_error(std::uint16_t status) noexcept {
    return status == 0 ? std::nullopt : std::optional(static_cast<Errc>(status));
}

}  // namespace

Result<std::size_t> StreamLane::receive(Receiver& receiver) {
    if (ended_) return fail(*ended_);
    messages_ = 0;
    // The last call read all there was: to ask the kernel again at once is a system call for nothing.
    // What came since then, event_fd() shows.
    if (std::exchange(drained_, false)) return 0;
    for (std::uint64_t moved = 0; moved < kReceiveBytesMax && messages_ < kReceiveMessagesMax;) {
        const Inbox::Filled filled = fill(kReceiveBytesMax - moved);
        if (filled.got == Inbox::Got::Nothing) {
            if (send_failed_ && messages_ == 0) end(*send_failed_, Cause::Peer);
            break;
        }
        if (filled.got != Inbox::Got::Bytes) {
            const std::string why =
                filled.got == Inbox::Got::End ? "the peer closed the lane" : std::strerror(filled.error);
            // A socket says once why it was never connected: to the send that came before.
            const bool never_connected = send_failed_ && !heard_;
            end({Errc::PeerDown,
                 fmt::format("{}: {}", identity_.address, never_connected ? send_failed_->detail : why)},
                Cause::Peer);
            break;
        }
        moved += filled.bytes;
        heard_ = true;
        const bool in_payload = stage_ == Stage::Payload;
        const std::size_t ended_before = messages_;
        // All that is buffered is handled now: nothing else would say that it is there.
        while (advance(receiver)) {
        }
        if (stage_ == Stage::Payload && header_.kind == FrameKind::Message)
            receiver.landed(*this, header_.payload_bytes - payload_left_);
        drained_ = filled.short_read && messages_ > 0;
        if (ended_ || drained_) break;
        // What a large message asks for when it begins, and when it ends, takes time of its own.
        const bool large = header_.payload_bytes >= kLargePayloadBytes;
        if (large && (messages_ > ended_before || (!in_payload && stage_ == Stage::Payload))) break;
    }
    flush();
    if (messages_ > 0) return messages_;
    if (ended_) return fail(*ended_);
    return 0;
}

Inbox::Filled StreamLane::fill(std::uint64_t most) {
    if (stage_ != Stage::Payload || landing_ == nullptr) {
        // After a large payload comes another: what the inbox takes of it would be copied twice.
        const bool large = header_.payload_bytes >= kLargePayloadBytes;
        return inbox_.fill(socket_.get(), std::min(most, large ? kHeadsBytes : Inbox::kInboxBytes));
    }
    const auto filled = Inbox::fill(socket_.get(), *landing_, std::min(payload_left_, most));
    payload_left_ -= filled.bytes;
    return filled;
}

bool StreamLane::advance(Receiver& receiver) {
    if (ended_) return false;
    switch (stage_) {
        case Stage::Header:
            return read_header(receiver);
        case Stage::BigHead:
            return read_big_head(receiver);
        case Stage::Payload:
            return read_payload(receiver);
    }
    return false;
}

bool StreamLane::read_header(Receiver& receiver) {
    const Bytes unread = inbox_.unread();
    if (unread.size() < kFrameBytes) return false;
    auto parsed = parse_frame(unread);
    if (!parsed) {
        break_off(parsed.error());
        return false;
    }
    header_ = *parsed;
    if (kFrameBytes + header_.head_bytes > Inbox::kInboxBytes) {
        inbox_.consume(kFrameBytes);
        big_head_.clear();
        stage_ = Stage::BigHead;
        return true;
    }
    if (unread.size() < kFrameBytes + header_.head_bytes) return false;
    inbox_.consume(kFrameBytes + header_.head_bytes);
    begin_payload(receiver, unread.subspan(kFrameBytes, header_.head_bytes));
    return !ended_;
}

bool StreamLane::read_big_head(Receiver& receiver) {
    const Bytes unread = inbox_.unread();
    const auto count = std::min<std::size_t>(unread.size(), header_.head_bytes - big_head_.size());
    big_head_.insert(big_head_.end(), unread.begin(), unread.begin() + static_cast<std::ptrdiff_t>(count));
    inbox_.consume(count);
    if (big_head_.size() < header_.head_bytes) return false;
    begin_payload(receiver, big_head_);
    return !ended_;
}

void StreamLane::begin_payload(Receiver& receiver, Bytes head) {
    stage_ = Stage::Payload;
    payload_left_ = header_.payload_bytes;
    landing_ = &message_landing_;
    head_ = head;
    Result<void> fine;
    switch (header_.kind) {
        case FrameKind::Message:
            receiver.place(*this, head, header_.payload_bytes, message_landing_.restart());
            break;
        case FrameKind::ReadData:
            fine = begin_read_data();
            break;
        case FrameKind::Write:
        case FrameKind::WriteNotify:
            landing_ = nullptr;
            fine = executor_.begin_write(header_, parse_request(head));
            break;
        case FrameKind::Reply:
            fine = take_answer();
            break;
        default:
            fine = asked(header_, head);
    }
    if (!fine) break_off(fine.error());
}

bool StreamLane::read_payload(Receiver& receiver) {
    const Bytes unread = inbox_.unread();
    if (landing_ == nullptr) {
        const auto landed = executor_.land(unread);
        inbox_.consume(landed);
        payload_left_ -= landed;
    } else {
        const auto count = std::min<std::uint64_t>(unread.size(), payload_left_);
        landing_->take(unread.first(count));
        inbox_.consume(count);
        payload_left_ -= count;
    }
    if (payload_left_ > 0) return false;
    end_payload(receiver);
    return !ended_;
}

void StreamLane::end_payload(Receiver& receiver) {
    stage_ = Stage::Header;
    if (header_.kind == FrameKind::Message) {
        ++messages_;
        receiver.message(*this, head_, header_.payload_bytes);
        if (big_head_.capacity() > kBigHeadKeptBytes) std::vector<std::byte>().swap(big_head_);
    } else if (landing_ == nullptr) {
        if (auto fine = executor_.end_write(); !fine) break_off(fine.error());
    } else if (header_.kind == FrameKind::ReadData && header_.last) {
        const PendingOp op = pending_.take(header_.cookie);
        outbox_.answered();
        const auto error = status_error(header_.status);
        complete({.cookie = op.cookie, .kind = op.kind, .bytes = error ? 0 : op.bytes, .error = error},
                 op.signal);
    }
}

Result<void> StreamLane::begin_read_data() {
    PendingOp* op = pending_.find(header_.cookie);
    if (op == nullptr || op->kind != OpKind::Read) {
        return fail(Errc::Invalid, "data for a read that nobody asked for");
    }
    op->landed_bytes += header_.payload_bytes;
    const bool whole = op->landed_bytes == op->bytes;
    if (op->landed_bytes > op->bytes || (header_.last && header_.status == 0 && !whole)) {
        return fail(Errc::Invalid, "{} bytes for a read of {}", op->landed_bytes, op->bytes);
    }
    landing_ = &op->landing;
    return {};
}

Result<void> StreamLane::take_answer() {
    const PendingOp* found = pending_.find(header_.cookie);
    // A read is answered by ReadData; only its refusal comes without any.
    if (found == nullptr || (found->kind == OpKind::Read && header_.status == 0)) {
        return fail(Errc::Invalid, "an answer that nobody asked for");
    }
    const PendingOp op = pending_.take(header_.cookie);
    const auto error = status_error(header_.status);
    UniqueFd fd;
    if (header_.carries_fd) fd = inbox_.take_fd();
    if (op.kind == OpKind::Import) {
        import_answered(op, error, std::move(fd), header_.value);
        return {};
    }
    const bool atomic = op.kind == OpKind::Cas || op.kind == OpKind::FetchAdd;
    if (atomic || op.kind == OpKind::Read) outbox_.answered();
    complete({.cookie = op.cookie,
              .kind = op.kind,
              .bytes = error ? 0 : op.bytes,
              .value = atomic && !error ? header_.value : 0,
              .error = error},
             op.signal);
    return {};
}

void StreamLane::discard_landing() noexcept {
    if (stage_ == Stage::Payload && header_.kind == FrameKind::Message) message_landing_.divert();
}

}  // namespace cmpool::transport
