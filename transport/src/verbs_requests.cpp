// The outgoing half of VerbsLane: operations become work requests, and their ends completions.
#include "op_check.h"
#include "verbs_lane.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <typeinfo>

#include <cmpool/base/assert.h>

namespace cmpool::transport {

namespace {

constexpr std::uint64_t kWord = sizeof(std::uint64_t);

// The part [offset, offset + bytes) of a list of pieces, one after the other.
template <class Visit>
void each_part(std::span<const MutableBytes> pieces, std::uint64_t offset, std::uint64_t bytes, Visit visit) {
    for (const MutableBytes piece : pieces) {
        if (bytes == 0) return;
        if (offset >= piece.size()) {
            offset -= piece.size();
            continue;
        }
        const auto count = std::min<std::uint64_t>(piece.size() - offset, bytes);
        visit(piece.subspan(offset, count));
        offset = 0;
        bytes -= count;
    }
}

// Slices end between words of the target, so that none of them is torn.
std::uint64_t slice(std::uint64_t remote, std::uint64_t left, std::uint64_t most) noexcept {
    return left <= most ? left : most - (remote + most) % kWord;
}

}  // namespace

// ---- operations ----

Result<void> VerbsLane::start_one_sided(const Op& op) {
    if (auto fine = check_op(op, kOpBytesMax); !fine) return fine;
    CMPOOL_ASSERT(typeid(*op.remote) == typeid(VerbsRemote));
    const auto& remote = static_cast<const VerbsRemote&>(*op.remote);
    if (broken_) return fail(Errc::PeerDown, "{}", *broken_);
    const bool atomic = op.kind == OpKind::Cas || op.kind == OpKind::FetchAdd;
    // A key is worth something on one queue pair only, and a refusal by the device would end the lane.
    if (remote.lane() != id_ && !ended()) return fail(Errc::Invalid, "a segment that another lane imported");
    if (atomic && caps().atomics == Atomics::None)
        return fail(Errc::Unsupported, "the device has no atomics");
    take_slot();
    if (!allows(remote.access(), access_for(op.kind))) {
        complete({.cookie = op.cookie, .kind = op.kind, .error = Errc::Denied}, op.signal);
        return {};
    }
    auto work = std::make_unique<Work>();
    fill(*work, op, remote);
    if (brings_back(op.kind)) begun_elsewhere();
    works_.push_back(std::move(work));
    return {};
}

void VerbsLane::fill(Work& work, const Op& op, const VerbsRemote& remote) {
    work.kind = op.kind;
    work.signal = op.signal;
    work.fence = op.fence;
    work.delivered = op.delivered;
    work.cookie = op.cookie;
    work.bytes = op_bytes(op);
    work.remote = remote.base() + op.offset;
    work.notify = remote.base() + op.notify_offset;
    work.key = remote.key();
    work.operand = op.operand;
    work.compare = op.compare;
    if (op.kind == OpKind::Cas || op.kind == OpKind::FetchAdd) return;
    if (op.kind == OpKind::Read) {
        for (const MutableBytes piece : op.scatter)
            if (!piece.empty()) work.pieces.push_back(piece);
    } else {
        for (const Bytes piece : op.gather)
            if (!piece.empty()) work.pieces.emplace_back(const_cast<std::byte*>(piece.data()), piece.size());
    }
    const auto& limits = queue_->device().limits();
    if (work.pieces.size() > std::min<std::size_t>(limits.pieces_max, VerbsRequest::kPieces)) return;
    work.in_line = op.kind != OpKind::Read && work.bytes <= queue_->inline_bytes_max();
    if (work.in_line) return;
    for (const MutableBytes piece : work.pieces) {
        const auto known = shared_.registry.find(queue_->device().index(), piece);
        if (!known) return;
        work.known.push_back(*known);
    }
    work.direct = true;
}

void VerbsLane::ring() {
    issue();
    watch_socket();
}

bool VerbsLane::room() const noexcept { return posted_.size() < queue_->device().limits().queue_depth; }

void VerbsLane::issue() {
    if (!queue_ || !connected_ || broken_) return;
    while (next_ < works_.size() && room()) {
        Work& work = *works_[next_];
        if (!issue_next(work)) break;
        if (work.all_issued) ++next_;
    }
    // Armed first: what completes before nobody has asked for its event would wake nobody.
    arm();
    send_batch();
    settle();
}

void VerbsLane::settle() {
    while (!works_.empty() && works_.front()->all_issued && works_.front()->outstanding == 0) {
        finish(*works_.front());
        works_.pop_front();
        --next_;
    }
}

// One request more; false when there is no room for it now.
bool VerbsLane::issue_next(Work& work) {
    if (work.kind == OpKind::Import) return issue_binding(work);
    if (work.kind == OpKind::Cas || work.kind == OpKind::FetchAdd) return issue_atomic(work);
    if (work.body_issued) return issue_tail(work);
    const bool issued = work.in_line  ? issue_inline(work)
                        : work.direct ? issue_direct(work)
                                      : issue_staged(work);
    if (!issued || work.issued < work.bytes) return issued;
    work.body_issued = true;
    work.all_issued = work.kind == OpKind::Read || (work.kind == OpKind::Write && !work.delivered);
    if (work.kind == OpKind::Write && work.bytes == 0) work.all_issued = true;
    if (work.all_issued) batch_.back().signal = batch_.back().signal || work.signal;
    return true;
}

bool VerbsLane::issue_direct(Work& work) {
    const auto bytes =
        slice(work.remote + work.issued, work.bytes - work.issued, queue_->device().limits().slice_bytes);
    VerbsRequest request{.kind = work.kind, .key = work.key, .remote = work.remote + work.issued};
    std::uint64_t skip = work.issued;
    std::uint64_t left = bytes;
    for (const VerbsPiece& piece : work.known) {
        const auto skipped = std::min<std::uint64_t>(skip, piece.bytes);
        const auto count = std::min<std::uint64_t>(piece.bytes - skipped, left);
        skip -= skipped;
        left -= count;
        if (count > 0)
            request.pieces[request.count++] = {piece.address + skipped, static_cast<std::uint32_t>(count),
                                               piece.key};
    }
    add(work, request, {.work = &work, .offset = work.issued, .bytes = bytes});
    work.issued += bytes;
    return true;
}

bool VerbsLane::issue_staged(Work& work) {
    const auto slot = take_slot_of_stage();
    if (!slot) return false;
    const auto bytes = slice(work.remote + work.issued, work.bytes - work.issued, VerbsStage::kSlotBytes);
    if (work.kind != OpKind::Read) {
        std::byte* into = stage_->bytes(*slot).data();
        each_part(work.pieces, work.issued, bytes, [&](MutableBytes part) {
            std::memcpy(into, part.data(), part.size());
            into += part.size();
        });
    }
    VerbsRequest request{.kind = work.kind, .key = work.key, .remote = work.remote + work.issued, .count = 1};
    request.pieces[0] = stage_->piece(*slot, bytes);
    add(work, request, {.work = &work, .slot = slot, .offset = work.issued, .bytes = bytes});
    work.issued += bytes;
    return true;
}

bool VerbsLane::issue_inline(Work& work) {
    VerbsRequest request{.kind = OpKind::Write, .in_line = true, .key = work.key, .remote = work.remote};
    for (const MutableBytes piece : work.pieces)
        request.pieces[request.count++] = {reinterpret_cast<std::uintptr_t>(piece.data()),
                                           static_cast<std::uint32_t>(piece.size()), 0};
    add(work, request, {.work = &work, .bytes = work.bytes});
    work.issued = work.bytes;
    return true;
}

bool VerbsLane::issue_atomic(Work& work) {
    const auto slot = take_slot_of_stage();
    if (!slot) return false;
    VerbsRequest request{.kind = work.kind,
                         .signal = work.signal,
                         .key = work.key,
                         .remote = work.remote,
                         .operand = work.operand,
                         .compare = work.compare,
                         .count = 1};
    request.pieces[0] = stage_->piece(*slot, kWord);
    add(work, request, {.work = &work, .slot = slot, .bytes = kWord});
    work.all_issued = true;
    return true;
}

// What comes behind a write: the word that tells of it, or a read, since whatever a read finds behind a
// write of the same queue pair has been placed.
bool VerbsLane::issue_tail(Work& work) {
    if (work.kind == OpKind::WriteNotify && work.issued == work.bytes) {
        const auto slot = take_slot_of_stage();
        if (!slot) return false;
        std::memcpy(stage_->bytes(*slot).data(), &work.operand, kWord);
        VerbsRequest request{.kind = OpKind::Write, .key = work.key, .remote = work.notify, .count = 1};
        request.pieces[0] = stage_->piece(*slot, kWord);
        add(work, request, {.work = &work, .slot = slot});
        ++work.issued;  // the word has gone too
        work.all_issued = !work.delivered;
    } else {
        const auto slot = take_slot_of_stage();
        if (!slot) return false;
        const bool word = work.kind == OpKind::WriteNotify;
        VerbsRequest request{.kind = OpKind::Read, .key = work.key, .count = 1};
        request.remote = word ? work.notify : work.remote + work.bytes - 1;
        request.pieces[0] = stage_->piece(*slot, 1);
        add(work, request, {.work = &work, .slot = slot});
        work.all_issued = true;
    }
    if (work.all_issued) batch_.back().signal = batch_.back().signal || work.signal;
    return true;
}

bool VerbsLane::issue_binding(Work& work) {
    send_batch();
    if (broken_) return false;
    const auto bound = queue_->bind(*work.grant);
    work.all_issued = true;
    if (bound) {
        posted_.push_back({.work = &work});
        ++work.outstanding;
    } else {
        // Its turn to be answered comes when those before it have ended.
        work.error = bound.error().code;
        if (bound.error().code == Errc::PeerDown) broken_ = bound.error().detail;
    }
    return true;
}

std::optional<std::uint32_t> VerbsLane::take_slot_of_stage() {
    auto slot = stage_->take();
    if (slot) return *slot;
    if (slot.error().code != Errc::Again) broken_ = slot.error().detail;
    return std::nullopt;
}

void VerbsLane::add(Work& work, VerbsRequest request, Posted posted) {
    request.fence = work.fence && work.outstanding == 0 && posted.offset == 0 && !work.body_issued;
    batch_.push_back(request);
    posted_.push_back(posted);
    ++work.outstanding;
}

void VerbsLane::send_batch() {
    if (batch_.empty()) return;
    // The last one speaks for all that are silent: else their memory would come back only by chance.
    batch_.back().signal = true;
    auto posted = queue_->post(batch_);
    batch_.clear();
    if (posted) return;
    broken_ = posted.error().detail;
    // Those that the device never saw will not end by it.
    posted_.erase(posted_.begin() + static_cast<std::ptrdiff_t>(queue_->next_number() - oldest_),
                  posted_.end());
}

// ---- completions ----

void VerbsLane::reap() {
    if (!queue_) return;
    std::array<VerbsDone, 32> done;
    std::size_t count = 0;
    bool any = false;
    do {
        count = queue_->poll(done);
        for (std::size_t at = 0; at < count; ++at) {
            any = true;
            // All before it have ended well, or their own errors would have come first.
            for (; oldest_ < done[at].number; ++oldest_) {
                request_ended(posted_.front(), std::nullopt);
                posted_.pop_front();
            }
            if (done[at].error && !broken_) broken_ = done[at].why;
            if (posted_.empty()) continue;
            request_ended(posted_.front(), done[at].error);
            posted_.pop_front();
            ++oldest_;
        }
    } while (count == done.size());
    if (!any) return;
    event_due_ = event_due_ || queue_->armed();
    settle();
    issue();
}

void VerbsLane::request_ended(Posted& posted, std::optional<Errc> error) {
    Work& work = *posted.work;
    --work.outstanding;
    if (error && !work.error) work.error = error;
    if (!posted.slot) return;
    const std::byte* from = stage_->bytes(*posted.slot).data();
    if (!error && work.kind == OpKind::Read) {
        each_part(work.pieces, posted.offset, posted.bytes, [&](MutableBytes part) {
            std::memcpy(part.data(), from, part.size());
            from += part.size();
        });
    } else if (!error && brings_back(work.kind)) {
        std::memcpy(&work.value, from, sizeof work.value);
    }
    stage_->give_back(*posted.slot);
}

void VerbsLane::finish(Work& work) {
    if (work.kind == OpKind::Import) {
        --bindings_;
        // An answer too many would be the peer's fault, and then there are no bindings.
        (void)answer(work.cookie, work.error ? static_cast<std::uint16_t>(*work.error) : std::uint16_t{0},
                     work.error ? 0 : work.grant->key());
        flush();
        return;
    }
    if (brings_back(work.kind)) ended_elsewhere();
    complete({.cookie = work.cookie,
              .kind = work.kind,
              .bytes = work.error ? 0 : work.bytes,
              .value = work.error ? 0 : work.value,
              .error = work.error},
             work.signal);
}

void VerbsLane::arm() {
    if (posted_.empty() || queue_->armed() || broken_) return;
    queue_->arm();
}

}  // namespace cmpool::transport
