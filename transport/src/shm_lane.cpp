#include "shm_lane.h"

#include "op_check.h"
#include "process_window.h"
#include "shared_copy.h"

#include <array>
#include <cerrno>
#include <typeinfo>

#include <cmpool/base/assert.h>

#include <fcntl.h>
#include <poll.h>

namespace cmpool::transport {

namespace {

void read_mapped(const Op& op, const std::byte* from) noexcept {
    for (const MutableBytes piece : op.scatter) {
        copy_from_shared(piece.data(), from, piece.size());
        from += piece.size();
    }
}

void write_mapped(const Op& op, std::byte* into) noexcept {
    for (const Bytes piece : op.gather) {
        copy_to_shared(into, piece.data(), piece.size());
        into += piece.size();
    }
}

bool keeps_its_size(int fd) noexcept {
    const int seals = ::fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

}  // namespace

Result<void> ShmLane::import(const Descriptor& descriptor, Token token, std::uint64_t cookie) {
    auto name = open_descriptor(descriptor);
    if (!name) return fail(name.error());
    if (ended()) return fail(*ended());
    if (free_slots() == 0) return fail(Errc::Again, "all slots of the lane are taken");
    if (name->kind == SegmentKind::ShmWindow) {
        take_slot();
        keep_import(cookie, std::make_unique<ShmRemote>(*name, UniqueFd{}));
        complete({.cookie = cookie, .kind = OpKind::Import}, true);
        return {};
    }
    if (name->kind != SegmentKind::ShmFile) return fail(Errc::Invalid, "a descriptor of another back end");
    request(FrameKind::Import, {.segment = name->segment, .token = token.value}, Op{},
            {.kind = OpKind::Import, .cookie = cookie, .name = *name});
    flush();
    return {};
}

void ShmLane::import_answered(const PendingOp& import, std::optional<Errc> error, UniqueFd fd,
                              std::uint64_t) {
    if (!error && !fd) error = Errc::Corrupt;  // the owner said yes and sent nothing
    if (!error && trust_ == ShmTrust::Stranger && !keeps_its_size(fd.get())) error = Errc::Denied;
    if (!error) keep_import(import.cookie, std::make_unique<ShmRemote>(import.name, std::move(fd)));
    complete({.cookie = import.cookie, .kind = OpKind::Import, .error = error}, true);
}

Result<void> ShmLane::start_one_sided(const Op& op) {
    if (auto fine = check_op(op, kOpBytesMax); !fine) return fine;
    CMPOOL_ASSERT(typeid(*op.remote) == typeid(ShmRemote));
    const auto& remote = static_cast<const ShmRemote&>(*op.remote);
    Completion completion{.cookie = op.cookie, .kind = op.kind, .bytes = op_bytes(op)};
    run(op, remote, completion);
    if (completion.error) completion.bytes = 0;
    take_slot();
    complete(completion, op.signal);
    return {};
}

void ShmLane::run(const Op& op, const ShmRemote& remote, Completion& completion) {
    if (!allows(remote.access(), access_for(op.kind))) {
        completion.error = Errc::Denied;
        return;
    }
    if (remote.window()) return read_window(op, remote, completion);
    auto mapped = remote.mapped();
    if (!mapped) {
        completion.error = mapped.error().code;
        return;
    }
    std::byte* at = mapped->data() + op.offset;
    switch (op.kind) {
        case OpKind::Read:
            return read_mapped(op, at);
        case OpKind::Write:
            return write_mapped(op, at);
        case OpKind::WriteNotify:
            write_mapped(op, at);
            return store_word(mapped->data() + op.notify_offset, op.operand);
        case OpKind::Cas:
            completion.value = compare_swap_word(at, op.compare, op.operand);
            return;
        case OpKind::FetchAdd:
            completion.value = fetch_add_word(at, op.operand);
            return;
        default:
            completion.error = Errc::Invalid;
    }
}

void ShmLane::read_window(const Op& op, const ShmRemote& remote, Completion& completion) {
    completion.error = read_process(peer().pid.value_or(0), remote.base() + op.offset, op.scatter);
    // A process number may be taken over by another process: what was read counts only if the peer
    // still holds its end of the lane afterwards.
    if (!completion.error && !peer_is_alive()) completion.error = Errc::PeerDown;
}

bool ShmLane::peer_is_alive() const noexcept {
    pollfd look{event_fd(), 0, 0};
    return ::poll(&look, 1, 0) == 0;
}

}  // namespace cmpool::transport
