#include "stream_lane.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <cmpool/base/assert.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace cmpool::transport {

namespace {

std::uint64_t total_bytes(std::span<const Bytes> pieces) noexcept {
    std::uint64_t total = 0;
    for (const Bytes piece : pieces) total += piece.size();
    return total;
}

bool changes_the_peer(OpKind kind) noexcept {
    return kind == OpKind::Write || kind == OpKind::WriteNotify || kind == OpKind::Cas ||
           kind == OpKind::FetchAdd;
}

}  // namespace

void make_nonblocking(int socket) noexcept {
    ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
    ::fcntl(socket, F_SETFD, FD_CLOEXEC);
}

StreamLane::StreamLane(StreamPeer peer, const Caps& caps, const SegmentTable& table, Duties duties)
    : socket_(std::move(peer.socket)),
      identity_(std::move(peer.identity)),
      caps_(caps),
      table_(table),
      executor_(table, outbox_, duties),
      inbox_(duties.hands_out_fds),
      ended_(std::move(peer.absent)) {}

StreamLane::~StreamLane() = default;

std::size_t StreamLane::free_slots() const noexcept { return kLaneDepth - in_flight_; }

Result<std::size_t> StreamLane::post(std::span<const Op> batch) {
    if (ended_) return fail(*ended_);
    if (send_failed_) return fail(*send_failed_);
    std::size_t taken = 0;
    Result<void> started;
    for (; taken < batch.size() && free_slots() > 0; ++taken) {
        started = start(batch[taken]);
        if (!started) break;
    }
    ring();
    flush();
    if (taken > 0 || batch.empty()) return taken;
    if (!started) return fail(started.error());
    return fail(Errc::Again, "all {} slots of the lane to {} are taken", kLaneDepth, identity_.address);
}

Result<void> StreamLane::start(const Op& op) {
    if (op.kind != OpKind::Send) return start_one_sided(op);
    const auto payload = total_bytes(op.gather);
    if (op.head.size() > caps_.head_bytes_max || payload > caps_.payload_bytes_max) {
        return fail(Errc::Invalid, "message with head {} bytes, payload {} bytes", op.head.size(), payload);
    }
    start_send(op);
    return {};
}

void StreamLane::start_send(const Op& op) {
    auto frame = outbox_.blank();
    frame->payload_bytes = total_bytes(op.gather);
    const auto header = encode_frame({.kind = FrameKind::Message,
                                      .head_bytes = static_cast<std::uint32_t>(op.head.size()),
                                      .payload_bytes = frame->payload_bytes});
    frame->front.assign(header.begin(), header.end());
    frame->front.insert(frame->front.end(), op.head.begin(), op.head.end());
    frame->gather.assign(op.gather.begin(), op.gather.end());
    frame->is_send = true;
    frame->fence = op.fence;
    frame->signal = op.signal;
    frame->cookie = op.cookie;
    take_slot();
    outbox_.push(std::move(frame));
}

void StreamLane::request(FrameKind kind, const RequestHead& head, const Op& op, PendingOp pending) {
    auto frame = outbox_.blank();
    if (kind == FrameKind::Write || kind == FrameKind::WriteNotify) {
        frame->payload_bytes = total_bytes(op.gather);
        frame->gather.assign(op.gather.begin(), op.gather.end());
    }
    frame->fence = op.fence;
    frame->awaits = kind == FrameKind::Read || kind == FrameKind::Cas || kind == FrameKind::FetchAdd;
    const auto header = encode_frame({.kind = kind,
                                      .head_bytes = kRequestBytes,
                                      .payload_bytes = frame->payload_bytes,
                                      .cookie = pending_.add(std::move(pending))});
    const auto request = encode_request(head);
    frame->front.assign(header.begin(), header.end());
    frame->front.insert(frame->front.end(), request.begin(), request.end());
    take_slot();
    outbox_.push(std::move(frame));
}

void StreamLane::complete(const Completion& completion, bool signal) {
    if (signal || completion.error) {
        completions_.push_back(completion);
    } else {
        --in_flight_;
    }
}

std::size_t StreamLane::poll(std::span<Completion> out) {
    const auto count = std::min(out.size(), completions_.size());
    if (count == 0) return 0;
    for (std::size_t at = 0; at < count; ++at) out[at] = completions_[at];
    completions_.erase(completions_.begin(), completions_.begin() + static_cast<std::ptrdiff_t>(count));
    in_flight_ -= count;
    return count;
}

void StreamLane::keep_import(std::uint64_t cookie, std::unique_ptr<RemoteSegment> segment) {
    imports_[cookie] = std::move(segment);
}

std::unique_ptr<RemoteSegment> StreamLane::imported(std::uint64_t cookie) {
    auto found = imports_.extract(cookie);
    return found.empty() ? nullptr : std::move(found.mapped());
}

void StreamLane::import_answered(const PendingOp&, std::optional<Errc>, UniqueFd, std::uint64_t) {}

Result<void> StreamLane::asked(const FrameHeader& header, Bytes head) {
    if (header.kind == FrameKind::Setup) return fail(Errc::Invalid, "a setup is not for this lane");
    return executor_.execute(header, parse_request(head));
}

void StreamLane::send_setup(Bytes head) {
    auto frame = outbox_.blank();
    const auto header =
        encode_frame({.kind = FrameKind::Setup, .head_bytes = static_cast<std::uint32_t>(head.size())});
    frame->front.assign(header.begin(), header.end());
    frame->front.insert(frame->front.end(), head.begin(), head.end());
    outbox_.push(std::move(frame));
}

void StreamLane::give_up(std::string why) { end({Errc::PeerDown, std::move(why)}, Cause::Us); }

void StreamLane::settle(std::vector<std::unique_ptr<OutFrame>>& sends, std::optional<Errc> error) {
    for (auto& frame : sends) {
        complete({.cookie = frame->cookie,
                  .kind = OpKind::Send,
                  .bytes = error ? 0 : frame->payload_bytes,
                  .error = error},
                 frame->signal);
        outbox_.recycle(std::move(frame));
    }
    sends.clear();
}

void StreamLane::flush() {
    if (ended_ || send_failed_) return;
    thread_local std::vector<std::unique_ptr<OutFrame>> done;
    auto flushed = outbox_.flush(socket_.get(), done);
    settle(done, std::nullopt);
    // What the peer said before it left may still wait to be read: receive() ends the lane.
    if (!flushed) send_failed_ = std::move(flushed.error());
}

void StreamLane::end(Error error, Cause cause) {
    if (ended_ || std::exchange(ending_, true)) return;
    // What others may still do through us has ended before they can see that we are gone.
    if (end_elsewhere()) unsettled_ = cause == Cause::Us;
    ended_ = std::move(error);
    stage_ = Stage::Header;
    std::vector<std::unique_ptr<OutFrame>> unsent;
    outbox_.abandon(unsent);
    settle(unsent, Errc::PeerDown);
    for (const PendingOp& op : pending_.take_all()) {
        unsettled_ = unsettled_ || (cause == Cause::Us && changes_the_peer(op.kind));
        complete({.cookie = op.cookie, .kind = op.kind, .error = Errc::PeerDown}, true);
    }
    // Half-closed, the peer's own closing still tells us when it has executed the last write.
    ::shutdown(socket_.get(), unsettled_ ? SHUT_WR : SHUT_RDWR);
}

void StreamLane::break_off(const Error& error) { end({Errc::PeerDown, error.detail}, Cause::Us); }

Result<void> StreamLane::quiesce(Nanos limit) {
    end({Errc::PeerDown, "the lane was quiesced"}, Cause::Us);
    const SystemClock clock;
    const Instant deadline = clock.now() + limit;
    std::array<std::byte, 4096> scratch;
    while (unsettled_) {
        const ssize_t got = ::recv(socket_.get(), scratch.data(), scratch.size(), MSG_DONTWAIT);
        if (got > 0 || (got < 0 && errno == EINTR)) continue;
        if (got == 0 || errno != EAGAIN) {
            unsettled_ = false;
            break;
        }
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock.now());
        if (left.count() <= 0) {
            return fail(Errc::Deadline, "writes to {} may still land", identity_.address);
        }
        pollfd wait{socket_.get(), POLLIN, 0};
        ::poll(&wait, 1, static_cast<int>(std::min<std::int64_t>(left.count(), 1000)));
    }
    return {};
}

}  // namespace cmpool::transport
