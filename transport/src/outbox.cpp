#include "outbox.h"

#include "shared_copy.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/socket.h>

namespace cmpool::transport {

namespace {

constexpr std::size_t kLinedUpMax = 64;  // frames
constexpr std::size_t kSlicesMax = 256;  // per sendmsg; IOV_MAX is 1024
constexpr std::size_t kSpareMax = 64;    // frames kept for reuse
constexpr std::size_t kSpareHeadMax = 16 * KiB;

void put(std::vector<std::byte>& into, Bytes bytes) { into.insert(into.end(), bytes.begin(), bytes.end()); }

// Attaches a descriptor to the message's first byte.
struct FdControl {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> bytes{};

    void attach(msghdr& message, int fd) noexcept {
        message.msg_control = bytes.data();
        message.msg_controllen = bytes.size();
        cmsghdr* control = CMSG_FIRSTHDR(&message);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(sizeof fd);
        std::memcpy(CMSG_DATA(control), &fd, sizeof fd);
    }
};

}  // namespace

std::unique_ptr<OutFrame> Outbox::blank() {
    if (spare_.empty()) return std::make_unique<OutFrame>();
    auto frame = std::move(spare_.back());
    spare_.pop_back();
    return frame;
}

void Outbox::recycle(std::unique_ptr<OutFrame> frame) {
    if (spare_.size() == kSpareMax || frame->front.capacity() > kSpareHeadMax) return;
    auto front = std::move(frame->front);
    auto slices = std::move(frame->gather);
    front.clear();
    slices.clear();
    *frame = OutFrame{.front = std::move(front), .gather = std::move(slices)};
    spare_.push_back(std::move(frame));
}

Result<void> Outbox::queue(Answer answer) {
    if (answers_.size() >= kLaneDepth) {
        return fail(Errc::Invalid, "more than {} requests of the peer wait for their answer", kLaneDepth);
    }
    answers_.push_back(std::move(answer));
    return {};
}

Result<void> Outbox::answer(std::uint64_t cookie, std::uint16_t status, std::uint64_t value) {
    return queue({.header = {.kind = FrameKind::Reply, .status = status, .cookie = cookie, .value = value}});
}

Result<void> Outbox::answer_fd(std::uint64_t cookie, std::shared_ptr<SegmentEntry> segment) {
    return queue({.header = {.kind = FrameKind::Reply, .carries_fd = true, .cookie = cookie},
                  .segment = std::move(segment)});
}

Result<void> Outbox::answer_data(std::uint64_t cookie, std::shared_ptr<SegmentEntry> segment,
                                 std::uint64_t offset, std::uint64_t length) {
    return queue({.header = {.kind = FrameKind::ReadData, .cookie = cookie},
                  .segment = std::move(segment),
                  .offset = offset,
                  .left = length});
}

// Copies the next piece. Pieces end between words, so that none of them is torn.
void Outbox::stage(Answer& answer, OutFrame& frame) {
    if (stage_.empty()) stage_.resize(kReplyChunkBytes);
    const std::byte* from = answer.segment->memory.data() + answer.offset;
    const auto past = reinterpret_cast<std::uintptr_t>(from) % sizeof(std::uint64_t);
    const auto count = std::min<std::uint64_t>(answer.left, kReplyChunkBytes - past);
    const std::shared_lock held(answer.segment->gate);
    if (answer.segment->revoked) {
        answer.header.status = static_cast<std::uint16_t>(Errc::Denied);
        answer.header.last = true;
        answer.header.payload_bytes = 0;  // a piece before this one may have set it
        return;
    }
    copy_from_shared(stage_.data(), from, count);
    answer.offset += count;
    answer.left -= count;
    answer.header.last = answer.left == 0;
    answer.header.payload_bytes = count;
    frame.gather.assign(1, Bytes(stage_).first(count));
    frame.payload_bytes = count;
    frame.staged = stage_busy_ = true;
}

bool Outbox::line_up_answer() {
    if (answers_.empty()) return false;
    Answer& answer = answers_.front();
    const bool data = answer.header.kind == FrameKind::ReadData;
    if (data && stage_busy_) return false;
    auto frame = blank();
    if (data) stage(answer, *frame);
    put(frame->front, encode_frame(answer.header));
    if (answer.header.carries_fd) frame->passes = std::move(answer.segment);
    lined_up_.push_back(std::move(frame));
    if (!data || answer.header.last) answers_.pop_front();
    return true;
}

void Outbox::line_up() {
    while (lined_up_.size() < kLinedUpMax) {
        if (line_up_answer()) continue;
        if (operations_.empty() || (operations_.front()->fence && in_flight_ > 0)) return;
        if (operations_.front()->awaits) ++in_flight_;
        lined_up_.push_back(std::move(operations_.front()));
        operations_.pop_front();
    }
}

std::size_t Outbox::gather(iovec* slices, std::size_t count_max) const noexcept {
    std::size_t count = 0;
    for (const auto& frame : lined_up_) {
        if (frame->passes && frame != lined_up_.front()) break;  // a descriptor goes with the first byte
        std::uint64_t skip = frame->sent_bytes;
        const auto add = [&](Bytes piece) {
            const auto skipped = std::min<std::uint64_t>(skip, piece.size());
            skip -= skipped;
            piece = piece.subspan(skipped);
            if (piece.empty() || count == count_max) return;
            slices[count++] = {const_cast<std::byte*>(piece.data()), piece.size()};
        };
        add(frame->front);
        for (auto piece = frame->gather.begin(); piece != frame->gather.end() && count < count_max; ++piece) {
            add(*piece);
        }
        if (count == count_max) break;
    }
    return count;
}

void Outbox::advance(std::uint64_t sent, std::vector<std::unique_ptr<OutFrame>>& done) {
    while (!lined_up_.empty()) {
        OutFrame& frame = *lined_up_.front();
        const auto step = std::min(sent, frame.bytes() - frame.sent_bytes);
        frame.sent_bytes += step;
        sent -= step;
        if (frame.sent_bytes < frame.bytes()) return;
        if (frame.staged) stage_busy_ = false;
        auto finished = std::move(lined_up_.front());
        lined_up_.pop_front();
        if (finished->is_send) {
            done.push_back(std::move(finished));
        } else {
            recycle(std::move(finished));
        }
    }
}

Result<void> Outbox::flush(int socket, std::vector<std::unique_ptr<OutFrame>>& done) {
    for (;;) {
        line_up();
        if (lined_up_.empty()) return {};
        std::array<iovec, kSlicesMax> slices;
        msghdr message{};
        message.msg_iov = slices.data();
        message.msg_iovlen = gather(slices.data(), slices.size());
        FdControl control;
        const OutFrame& first = *lined_up_.front();
        if (first.passes && first.sent_bytes == 0) control.attach(message, first.passes->exported.get());
        const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
        if (sent < 0) return fail(Errc::PeerDown, "sending failed: {}", std::strerror(errno));
        advance(static_cast<std::uint64_t>(sent), done);
    }
}

void Outbox::abandon(std::vector<std::unique_ptr<OutFrame>>& unsent) {
    for (auto* queue : {&lined_up_, &operations_}) {
        for (auto& frame : *queue) {
            if (frame->is_send) unsent.push_back(std::move(frame));
        }
        queue->clear();
    }
    answers_.clear();
    stage_busy_ = false;
}

}  // namespace cmpool::transport
