#include "verbs_queue.h"

#include "frame.h"
#include "wire.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <cmpool/base/assert.h>

#include <fcntl.h>
#include <infiniband/verbs.h>

namespace cmpool::transport {

namespace {

constexpr std::uint32_t kSetupVersion = 1;
constexpr std::uint32_t kSequenceMask = (1u << 24) - 1;

// A peer that does not answer is asked again six times, 67 ms apart at first; 7 would mean for ever.
constexpr std::uint8_t kAckTimeout = 14;  // 4.096 us * 2^14
constexpr std::uint8_t kRetries = 6;
constexpr std::uint8_t kNotReadyTimer = 12;  // 0.64 ms
constexpr std::uint8_t kHops = 64;
constexpr std::uint32_t kInlineBytes = 64;
constexpr std::size_t kPollMax = 32;
constexpr std::size_t kBatchMax = 64;  // requests that one doorbell starts

ibv_wr_opcode opcode(OpKind kind) noexcept {
    switch (kind) {
        case OpKind::Write:
        case OpKind::WriteNotify:
            return IBV_WR_RDMA_WRITE;
        case OpKind::Cas:
            return IBV_WR_ATOMIC_CMP_AND_SWP;
        case OpKind::FetchAdd:
            return IBV_WR_ATOMIC_FETCH_AND_ADD;
        default:
            return IBV_WR_RDMA_READ;
    }
}

// What was refused by the other end, and what says only that the connection is over.
Errc meaning(ibv_wc_status status) noexcept {
    switch (status) {
        case IBV_WC_REM_ACCESS_ERR:
        case IBV_WC_REM_INV_REQ_ERR:
        case IBV_WC_REM_OP_ERR:
            return Errc::Denied;
        case IBV_WC_LOC_LEN_ERR:
        case IBV_WC_LOC_PROT_ERR:
            return Errc::Invalid;
        default:
            return Errc::PeerDown;
    }
}

Result<void> checked(int failed, const char* what, const VerbsPort& port) {
    if (failed == 0) return {};
    return fail(Errc::PeerDown, "{}: cannot {}: {}", port.text, what, std::strerror(failed));
}

}  // namespace

std::array<std::byte, kSetupBytes> encode_setup(const VerbsEnd& end) noexcept {
    std::array<std::byte, kSetupBytes> out{};
    store(out, 0, kSetupVersion);
    store(out, 4, end.number);
    store(out, 8, end.sequence);
    store(out, 12, end.lid);
    store(out, 14, end.mtu);
    store(out, 15, end.reads);
    store(out, 16, end.gid);
    store(out, 32, end.status);
    return out;
}

Result<VerbsEnd> parse_setup(Bytes bytes) {
    if (bytes.size() != kSetupBytes) return fail(Errc::Invalid, "a setup of {} bytes", bytes.size());
    if (const auto version = load<std::uint32_t>(bytes, 0); version != kSetupVersion) {
        return fail(Errc::Mismatch, "setup of version {}, ours is {}", version, kSetupVersion);
    }
    const VerbsEnd end{.number = load<std::uint32_t>(bytes, 4),
                       .sequence = load<std::uint32_t>(bytes, 8),
                       .lid = load<std::uint16_t>(bytes, 12),
                       .mtu = load<std::uint8_t>(bytes, 14),
                       .reads = load<std::uint8_t>(bytes, 15),
                       .gid = load<std::array<std::uint8_t, 16>>(bytes, 16),
                       .status = load<std::uint16_t>(bytes, 32)};
    const bool sane = end.number <= kSequenceMask && end.sequence <= kSequenceMask &&
                      end.mtu >= IBV_MTU_256 && end.mtu <= IBV_MTU_4096 &&
                      end.status <= static_cast<std::uint16_t>(Errc::Invalid);
    if (!sane) {
        return fail(Errc::Invalid, "a setup with queue pair {}, mtu {}, status {}", end.number, end.mtu,
                    end.status);
    }
    return end;
}

Result<std::unique_ptr<VerbsQueue>> VerbsQueue::create(VerbsDevice& device, const VerbsPort& port,
                                                       std::uint32_t sequence) {
    std::unique_ptr<VerbsQueue> queue(new VerbsQueue(device, port));
    if (auto made = queue->make(sequence & kSequenceMask); !made) return fail(made.error());
    return queue;
}

Result<void> VerbsQueue::make(std::uint32_t sequence) {
    const auto& limits = device_.limits();
    const auto missing = [&](const char* what) {
        return fail(Errc::NoCapacity, "{}: cannot make a {}: {}", port_.text, what, std::strerror(errno));
    };
    channel_ = ::ibv_create_comp_channel(device_.context());
    if (channel_ == nullptr) return missing("completion channel");
    ::fcntl(channel_->fd, F_SETFL, ::fcntl(channel_->fd, F_GETFL) | O_NONBLOCK);
    // Every request may end with an error of its own: none must find the queue full.
    const int completions = static_cast<int>(limits.queue_depth) + 1;
    completions_ = ::ibv_create_cq(device_.context(), completions, nullptr, channel_, 0);
    if (completions_ == nullptr) return missing("completion queue");

    ibv_qp_init_attr wanted{};
    wanted.send_cq = wanted.recv_cq = completions_;
    wanted.cap.max_send_wr = limits.queue_depth;
    wanted.cap.max_send_sge = limits.pieces_max;
    wanted.cap.max_inline_data = kInlineBytes;
    wanted.qp_type = IBV_QPT_RC;
    queue_ = ::ibv_create_qp(device_.domain(), &wanted);
    if (queue_ == nullptr) return missing("queue pair");
    inline_bytes_max_ = wanted.cap.max_inline_data;
    end_ = {.number = queue_->qp_num,
            .sequence = sequence,
            .lid = port_.lid,
            .mtu = port_.mtu,
            .reads = limits.reads_max,
            .gid = port_.gid};

    ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_INIT;
    attributes.port_num = port_.number;
    // The windows decide what may be read and written; this only says that they may exist.
    attributes.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
    if (limits.atomics) attributes.qp_access_flags |= IBV_ACCESS_REMOTE_ATOMIC;
    return checked(::ibv_modify_qp(queue_, &attributes,
                                   IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
                   "begin", port_);
}

VerbsQueue::~VerbsQueue() {
    if (queue_ != nullptr) CMPOOL_ASSERT(::ibv_destroy_qp(queue_) == 0);
    if (completions_ != nullptr) ::ibv_destroy_cq(completions_);
    if (channel_ != nullptr) ::ibv_destroy_comp_channel(channel_);
}

Result<void> VerbsQueue::connect(const VerbsEnd& peer) {
    const auto reads = std::max<std::uint8_t>(std::min(peer.reads, end_.reads), 1);
    ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_RTR;
    attributes.path_mtu = static_cast<ibv_mtu>(std::min(peer.mtu, end_.mtu));
    attributes.dest_qp_num = peer.number;
    attributes.rq_psn = peer.sequence;
    attributes.max_dest_rd_atomic = reads;
    attributes.min_rnr_timer = kNotReadyTimer;
    attributes.ah_attr.port_num = port_.number;
    attributes.ah_attr.dlid = peer.lid;
    attributes.ah_attr.is_global = port_.routed ? 1 : 0;
    attributes.ah_attr.grh.sgid_index = port_.gid_index;
    attributes.ah_attr.grh.hop_limit = kHops;
    std::memcpy(attributes.ah_attr.grh.dgid.raw, peer.gid.data(), peer.gid.size());
    auto ready =
        checked(::ibv_modify_qp(queue_, &attributes,
                                IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                    IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
                "find a way to the peer", port_);
    if (!ready) return ready;
    attributes = {};
    attributes.qp_state = IBV_QPS_RTS;
    attributes.timeout = kAckTimeout;
    attributes.retry_cnt = kRetries;
    attributes.rnr_retry = kRetries;
    attributes.sq_psn = end_.sequence;
    attributes.max_rd_atomic = reads;
    return checked(::ibv_modify_qp(queue_, &attributes,
                                   IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
                   "send", port_);
}

Result<void> VerbsQueue::post(std::span<const VerbsRequest> batch) {
    std::array<ibv_send_wr, kBatchMax> requests;
    std::array<std::array<ibv_sge, VerbsRequest::kPieces>, kBatchMax> pieces;
    while (!batch.empty()) {
        const auto count = std::min(batch.size(), kBatchMax);
        for (std::size_t at = 0; at < count; ++at) {
            const VerbsRequest& from = batch[at];
            ibv_send_wr& request = requests[at] = {};
            request.wr_id = next_number_ + at;
            request.next = at + 1 < count ? &requests[at + 1] : nullptr;
            request.sg_list = pieces[at].data();
            request.num_sge = static_cast<int>(from.count);
            for (std::size_t piece = 0; piece < from.count; ++piece)
                pieces[at][piece] = {from.pieces[piece].address, from.pieces[piece].bytes,
                                     from.pieces[piece].key};
            request.opcode = opcode(from.kind);
            if (from.signal) request.send_flags |= IBV_SEND_SIGNALED;
            if (from.fence) request.send_flags |= IBV_SEND_FENCE;
            if (from.in_line) request.send_flags |= IBV_SEND_INLINE;
            if (from.kind == OpKind::Cas || from.kind == OpKind::FetchAdd) {
                const bool swaps = from.kind == OpKind::Cas;
                request.wr.atomic = {from.remote, swaps ? from.compare : from.operand,
                                     swaps ? from.operand : 0, from.key};
            } else {
                request.wr.rdma = {from.remote, from.key};
            }
            counts_.signalled += from.signal ? 1 : 0;
        }
        ibv_send_wr* refused = nullptr;
        auto posted = checked(::ibv_post_send(queue_, requests.data(), &refused), "post", port_);
        if (!posted) return posted;
        next_number_ += count;
        counts_.requests += count;
        ++counts_.doorbells;
        batch = batch.subspan(count);
    }
    return {};
}

Result<void> VerbsQueue::bind(VerbsGrant& grant) {
    const auto held = grant.window();
    if (held.window == nullptr) return fail(Errc::Denied, "the segment is revoked");
    ibv_send_wr request{};
    request.wr_id = next_number_;
    request.opcode = IBV_WR_BIND_MW;
    request.send_flags = IBV_SEND_SIGNALED;
    request.bind_mw.mw = held.window;
    request.bind_mw.rkey = grant.binding.key;
    request.bind_mw.bind_info = {grant.binding.region, grant.binding.address, grant.binding.bytes,
                                 grant.binding.rights};
    ibv_send_wr* refused = nullptr;
    auto posted = checked(::ibv_post_send(queue_, &request, &refused), "bind a memory window", port_);
    if (!posted) return posted;
    ++next_number_;
    ++counts_.requests;
    ++counts_.doorbells;
    ++counts_.signalled;
    return {};
}

std::size_t VerbsQueue::poll(std::span<VerbsDone> out) {
    std::array<ibv_wc, kPollMax> done;
    const int most = static_cast<int>(std::min(out.size(), kPollMax));
    const auto count = static_cast<std::size_t>(std::max(::ibv_poll_cq(completions_, most, done.data()), 0));
    for (std::size_t at = 0; at < count; ++at) {
        out[at] = {.number = done[at].wr_id};
        if (done[at].status == IBV_WC_SUCCESS) continue;
        out[at].error = meaning(done[at].status);
        out[at].why = fmt::format("{}: {}", port_.text, ::ibv_wc_status_str(done[at].status));
    }
    return count;
}

void VerbsQueue::arm() { armed_ = ::ibv_req_notify_cq(completions_, 0) == 0; }

void VerbsQueue::take_event() {
    ibv_cq* which = nullptr;
    void* context = nullptr;
    while (::ibv_get_cq_event(channel_, &which, &context) == 0) {
        ::ibv_ack_cq_events(which, 1);
        armed_ = false;
    }
}

int VerbsQueue::event_fd() const noexcept { return channel_->fd; }

void VerbsQueue::stop() noexcept {
    ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_ERR;
    ::ibv_modify_qp(queue_, &attributes, IBV_QP_STATE);
}

}  // namespace cmpool::transport
