#include "verbs_lane.h"

#include "tcp_socket.h"
#include "verbs_memory.h"

#include <algorithm>
#include <atomic>

#include <cmpool/base/clock.h>

#include <sched.h>
#include <sys/epoll.h>

namespace cmpool::transport {

namespace {

constexpr std::size_t kGrantsMax = 65'536;  // that one peer may be given
/// A queue pair in the error state ends its requests at once; this bounds what must not happen.
constexpr std::chrono::milliseconds kDrainLimit{500};

std::uint64_t new_id() noexcept {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
}

void watch(int epoll, int what, int fd, std::uint32_t events) noexcept {
    epoll_event event{.events = events, .data = {.fd = fd}};
    ::epoll_ctl(epoll, what, fd, &event);
}

}  // namespace

VerbsLane::VerbsLane(StreamPeer peer, const Caps& caps, VerbsShared& shared, Role role,
                     std::uint32_t sequence)
    : StreamLane(std::move(peer), caps, shared.segments, {}),
      shared_(shared),
      role_(role),
      sequence_(sequence),
      id_(new_id()),
      events_(::epoll_create1(EPOLL_CLOEXEC)) {
    watch(events_.get(), EPOLL_CTL_ADD, socket(), 0);
    watch_socket();
    if (role_ == Role::Answers || ended()) return;
    if (auto opened = open_queue(); !opened) {
        give_up(opened.error().detail);
        return;
    }
    send_setup(encode_setup(queue_->end()));
    flush();
    watch_socket();
}

VerbsLane::~VerbsLane() { (void)end_elsewhere(); }

// ---- set-up ----

VerbsDevice* VerbsLane::choose_device(VerbsPort& port, std::string& why) const {
    const TcpAddress local = local_address(socket());
    for (const auto& device : shared_.devices) {
        auto found = device->port_for(local);
        if (found) {
            port = std::move(*found);
            return device.get();
        }
        why += found.error().detail;
    }
    return nullptr;
}

Result<void> VerbsLane::open_queue() {
    VerbsPort port;
    std::string why;
    VerbsDevice* device = choose_device(port, why);
    if (device == nullptr) {
        return fail(Errc::PeerDown, "{}: no RDMA port for {}{}", peer().address,
                    local_address(socket()).text(), why);
    }
    auto queue = VerbsQueue::create(*device, port, sequence_);
    if (!queue) return fail(queue.error());
    queue_ = std::move(*queue);
    stage_ = std::make_unique<VerbsStage>(*device);
    watch(events_.get(), EPOLL_CTL_ADD, queue_->event_fd(), EPOLLIN);
    watch(events_.get(), EPOLL_CTL_ADD, device->event_fd(), EPOLLIN);
    device->watch(queue_->end().number, port.number, socket());
    return {};
}

Result<void> VerbsLane::set_up(const VerbsEnd& peer_end) {
    if (connected_) return fail(Errc::Invalid, "a second setup");
    if (role_ == Role::Opens) {
        if (peer_end.status != 0) {
            return fail(Errc::PeerDown, "{} has no queue pair for us: code {}", peer().address,
                        peer_end.status);
        }
        connected_ = true;
        return queue_->connect(peer_end);
    }
    auto opened = open_queue();
    if (opened) opened = queue_->connect(peer_end);
    connected_ = true;
    if (opened) {
        send_setup(encode_setup(queue_->end()));
        return {};
    }
    // Said first, so that the peer knows better than "closed".
    send_setup(encode_setup({.status = static_cast<std::uint16_t>(opened.error().code)}));
    flush();
    return opened;
}

Result<void> VerbsLane::asked(const FrameHeader& header, Bytes head) {
    if (header.kind == FrameKind::Setup) {
        auto end = parse_setup(head);
        if (!end) return fail(end.error());
        return set_up(*end);
    }
    if (header.kind == FrameKind::Import && connected_) return import_asked(header, parse_request(head));
    return fail(Errc::Invalid, "request kind {} is not for this lane", static_cast<unsigned>(header.kind));
}

// ---- imports ----

Result<void> VerbsLane::import_asked(const FrameHeader& header, const RequestHead& request) {
    const auto refuse = [&](Errc code) { return answer(header.cookie, static_cast<std::uint16_t>(code), 0); };
    auto segment = segments().check(request.segment, {.token = Token{request.token}});
    if (!segment) return refuse(segment.error().code);
    if (grants_.size() >= kGrantsMax)
        std::erase_if(grants_, [](const auto& grant) { return grant->ended(); });
    if (grants_.size() >= kGrantsMax) return refuse(Errc::NoCapacity);
    auto grant = static_cast<VerbsEntry&>(**segment).grant(queue_->device());
    if (!grant) return refuse(grant.error().code);
    grants_.push_back(*grant);
    if (!(*grant)->needs_binding()) return answer(header.cookie, 0, (*grant)->key());
    if (bindings_ >= kLaneDepth) return fail(Errc::Invalid, "more than {} imports at once", kLaneDepth);
    ++bindings_;
    auto work = std::make_unique<Work>();
    work->kind = OpKind::Import;
    work->cookie = header.cookie;
    work->grant = std::move(*grant);
    works_.push_back(std::move(work));
    issue();
    return {};
}

Result<void> VerbsLane::import(const Descriptor& descriptor, Token token, std::uint64_t cookie) {
    auto name = open_descriptor(descriptor);
    if (!name) return fail(name.error());
    if (name->kind != SegmentKind::Verbs) return fail(Errc::Invalid, "a descriptor of another back end");
    if (ended()) return fail(*ended());
    if (free_slots() == 0) return fail(Errc::Again, "all slots of the lane are taken");
    request(FrameKind::Import, {.segment = name->segment, .token = token.value}, Op{},
            {.kind = OpKind::Import, .cookie = cookie, .name = *name});
    flush();
    watch_socket();
    return {};
}

void VerbsLane::import_answered(const PendingOp& import, std::optional<Errc> error, UniqueFd,
                                std::uint64_t value) {
    if (!error && value > UINT32_MAX) error = Errc::Corrupt;
    if (!error)
        keep_import(import.cookie,
                    std::make_unique<VerbsRemote>(import.name, static_cast<std::uint32_t>(value), id_));
    complete({.cookie = import.cookie, .kind = OpKind::Import, .error = error}, true);
}

// ---- what moves it ----

std::size_t VerbsLane::poll(std::span<Completion> out) {
    reap();
    return StreamLane::poll(out);
}

Result<std::size_t> VerbsLane::receive(Receiver& receiver) {
    if (queue_) {
        if (event_due_) {
            queue_->take_event();
            event_due_ = queue_->armed();
        }
        // What came between the last look and the new arming would announce itself to nobody.
        reap();
        arm();
        reap();
    }
    auto received = StreamLane::receive(receiver);
    // Rare, and it stays readable: looked at when nothing else explains why we were woken.
    if (queue_ && received && *received == 0) queue_->device().take_events();
    if (broken_ && queue_ && !ended()) {
        give_up(fmt::format("{}: {}", peer().address, *broken_));
        if (!received || *received == 0) received = fail(*ended());
    }
    watch_socket();
    return received;
}

// The socket is watched for room to write only while something waits for it.
void VerbsLane::watch_socket() noexcept {
    const std::uint32_t events = EPOLLIN | (blocked() ? std::uint32_t{EPOLLOUT} : 0u);
    if (events == watched_) return;
    watched_ = events;
    watch(events_.get(), EPOLL_CTL_MOD, socket(), events);
}

// ---- the end ----

bool VerbsLane::end_elsewhere() {
    if (!queue_) return false;
    bool may_land = false;
    for (const auto& work : works_)
        may_land =
            may_land || (work->outstanding > 0 && work->kind != OpKind::Read && work->kind != OpKind::Import);
    broken_ = broken_.value_or("the lane has ended");
    queue_->stop();
    const SystemClock clock;
    const Instant limit = clock.now() + kDrainLimit;
    for (reap(); !posted_.empty() && clock.now() < limit; reap()) ::sched_yield();
    // From here on no window of ours opens anything, and the device has let go of all memory.
    for (const auto& grant : grants_) grant->end();
    grants_.clear();
    queue_->device().unwatch(queue_->end().number);
    counts_ = queue_->counts();
    queue_.reset();
    stage_.reset();
    for (const auto& work : works_) {
        if (work->kind == OpKind::Import) continue;
        if (brings_back(work->kind)) ended_elsewhere();
        complete({.cookie = work->cookie, .kind = work->kind, .error = work->error.value_or(Errc::PeerDown)},
                 true);
    }
    works_.clear();
    posted_.clear();
    next_ = 0;
    return may_land;
}

}  // namespace cmpool::transport
