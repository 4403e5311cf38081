#include "data_loop.h"

#include "host.h"

#include <cerrno>
#include <cstring>

#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace cmpool::daemon {
namespace {

/// Lanes taken from one listener before others have their turn.
constexpr int kAcceptsMax = 64;

/// Turns take at most about so long before the loop looks who else is ready.
constexpr std::chrono::microseconds kLookEvery{50};

// What an event is about: its two highest bits, and a number. A peer's number is given out once, so an
// event that comes after the peer's end finds nobody.
constexpr std::uint64_t kPeer = 0;
constexpr std::uint64_t kDoor = std::uint64_t{1} << 62;
constexpr std::uint64_t kBell = std::uint64_t{2} << 62;
constexpr std::uint64_t kStop = std::uint64_t{3} << 62;
constexpr std::uint64_t kKinds = kStop;

void control(int epoll, int what, int fd, std::uint32_t events, std::uint64_t about) noexcept {
    epoll_event event{.events = events, .data = {.u64 = about}};
    ::epoll_ctl(epoll, what, fd, &event);
}

}  // namespace

Result<std::unique_ptr<DataLoop>> DataLoop::create() {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    UniqueFd bell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll || !bell) return fail(Errc::NoCapacity, "cannot make an event loop: {}", std::strerror(errno));
    control(epoll.get(), EPOLL_CTL_ADD, bell.get(), EPOLLIN, kBell);
    return std::unique_ptr<DataLoop>(new DataLoop(std::move(epoll), std::move(bell)));
}

void DataLoop::stop_on(int fd) { control(epoll_.get(), EPOLL_CTL_ADD, fd, EPOLLIN, kStop); }

void DataLoop::stop() {
    post([this] { stopping_ = true; });
}

void DataLoop::post(Job job) {
    const std::scoped_lock lock(mutex_);
    jobs_.push_back(std::move(job));
    ::eventfd_write(bell_.get(), 1);
}

void DataLoop::run(pool::Server& server) {
    server_ = &server;
    for (std::size_t index = 0; index < doors_.size(); ++index)
        control(epoll_.get(), EPOLL_CTL_ADD, doors_[index].listener->event_fd(), EPOLLIN, kDoor | index);
    next_tick_ = clock_.now() + pool::kTickInterval;
    while (!stopping_) turn();
    doors_.clear();
    for (const auto& [id, peer] : peers_) server.drop(id);
    peers_.clear();
    server_ = nullptr;
}

void DataLoop::turn() {
    const int count = turns_.empty() ? wait() : look(Nanos{0});
    looked_ = clock_.now();
    for (int index = 0; index < count; ++index) handle(events_[static_cast<std::size_t>(index)]);
    // Who comes while others have their turns is seen after kLookEvery, and queues behind nobody of a later
    // kind.
    Instant now = looked_;
    while (!turns_.empty() && now - looked_ < kLookEvery) now = serve_next(now);
    if (now >= next_tick_) tick();
    watch_opened();
}

Instant DataLoop::serve_next(Instant begin) {
    const auto turn = turns_.next();
    // Jobs and events may have made somebody ready since the clock was read.
    serve(turn.peer, std::max(begin - turn.since, Nanos{0}));
    const Instant end = clock_.now();
    turns_.spent(turn, end - begin);
    return end;
}

int DataLoop::look(Nanos limit) {
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(std::max(limit, Nanos{0})).count();
    return ::epoll_wait(epoll_.get(), events_.data(), static_cast<int>(events_.size()), static_cast<int>(ms));
}

int DataLoop::wait() {
    const Instant begin = clock_.now();
    const Instant spins_until = std::min(begin + spin_.budget(), next_tick_);
    int count = 0;
    for (Instant now = begin; count == 0 && now < spins_until; now = clock_.now()) {
        count = look(Nanos{0});
        // Whoever asks may need this very core.
        if (count == 0) ::sched_yield();
    }
    if (count == 0) count = look(next_tick_ - clock_.now());
    spin_.waited(clock_.now() - begin);
    return count;
}

void DataLoop::handle(const epoll_event& event) {
    const std::uint64_t number = event.data.u64 & ~kKinds;
    switch (event.data.u64 & kKinds) {
        case kPeer:
            enqueue(number, looked_);
            break;
        case kDoor:
            accept_all(doors_[number]);
            break;
        case kBell:
            run_jobs();
            break;
        default:
            spdlog::info("event stopping");
            stopping_ = true;
    }
}

void DataLoop::run_jobs() {
    eventfd_t rings = 0;
    ::eventfd_read(bell_.get(), &rings);
    std::vector<Job> jobs;
    {
        const std::scoped_lock lock(mutex_);
        jobs.swap(jobs_);
    }
    for (const auto& job : jobs) job();
}

// ---- lanes that come ----

void DataLoop::accept_all(Door& door) {
    for (int count = 0; count < kAcceptsMax; ++count) {
        auto lane = door.listener->accept();
        if (lane) {
            const int fd = (*lane)->event_fd();
            // Descriptors are numbered from below: this one is among the last. Its end tells the peer at
            // once.
            if (fd >= descriptors_.clients_below) {
                refused(door, fmt::format("all but {} descriptors are in use", kDescriptorsKept));
                continue;
            }
            const auto from = (*lane)->peer();
            enter(server_->add(std::move(*lane)), from, fd);
            continue;
        }
        if (lane.error().code == Errc::Again) return;
        // Out of descriptors all the same. The listener stays readable, so the next look is the next tick's.
        refused(door, lane.error().detail);
        door.full = true;
        control(epoll_.get(), EPOLL_CTL_DEL, door.listener->event_fd(), 0, 0);
        return;
    }
}

void DataLoop::refused(const Door& door, const std::string& why) {
    descriptors_.refused->fetch_add(1, std::memory_order_relaxed);
    if (const auto times = refused_said_.happened(looked_)) {
        spdlog::error("event accept_refused listener {} times {} detail \"{}\"", door.listener->address(),
                      *times, why);
    }
}

// Lanes that our server has opened to other members.
void DataLoop::watch_opened() {
    for (const PeerId id : server_->opened()) {
        const auto* lane = server_->lane_of(id);
        if (lane != nullptr) enter(id, lane->peer(), lane->event_fd());
    }
}

void DataLoop::welcome(pool::Guest guest) {
    const int fd = guest.lane->event_fd();
    const auto from = guest.lane->peer();
    enter(server_->welcome(std::move(guest)), from, fd);
}

void DataLoop::enter(PeerId id, const transport::PeerIdentity& from, int fd) {
    spdlog::debug("event peer_came peer {} address {}", id, from.address);
    peers_.emplace(id, Peer{.fd = fd});
    control(epoll_.get(), EPOLL_CTL_ADD, fd, 0, kPeer | id);
    wake(id);
}

void DataLoop::move_out(PeerId id, std::uint32_t shard) {
    control(epoll_.get(), EPOLL_CTL_DEL, peers_.at(id).fd, 0, 0);
    peers_.erase(id);
    hand_over_(shard, server_->give_away(id));
}

// ---- lanes that are here ----

void DataLoop::wake(PeerId id) { enqueue(id, clock_.now()); }

void DataLoop::enqueue(PeerId id, Instant since) {
    const auto found = peers_.find(id);
    if (found == peers_.end() || found->second.queued) return;
    found->second.queued = true;
    turns_.add({id, found->second.tenant, found->second.work, since});
}

void DataLoop::serve(PeerId id, Nanos waited) {
    const auto found = peers_.find(id);
    if (found == peers_.end()) return;
    Peer& peer = found->second;
    peer.queued = false;
    serving_ = id;
    const auto served = server_->serve(id, waited);
    serving_ = 0;
    peer.work = served.work;
    peer.tenant = served.tenant;
    const auto* lane = served.alive ? server_->lane_of(id) : nullptr;
    if (lane == nullptr) {
        spdlog::debug("event peer_left peer {}", id);
        peers_.erase(id);  // closing its descriptor has ended the watch
    } else if (served.moves_to) {
        move_out(id, *served.moves_to);
    } else {
        watch(id, peer, (served.reads ? EPOLLIN : 0u) | (lane->wants_write() ? EPOLLOUT : 0u));
        if (served.busy) wake(id);
    }
}

void DataLoop::watch(PeerId id, Peer& peer, std::uint32_t events) {
    if (peer.watched == events) return;
    peer.watched = events;
    control(epoll_.get(), EPOLL_CTL_MOD, peer.fd, events, kPeer | id);
}

void DataLoop::tick() {
    server_->tick();
    for (auto at = peers_.begin(); at != peers_.end();) {
        const auto* lane = server_->lane_of(at->first);
        if (lane == nullptr) {
            at = peers_.erase(at);
            continue;
        }
        const bool reads = (at->second.watched & EPOLLIN) != 0;
        const bool writes = (at->second.watched & EPOLLOUT) != 0;
        if (!reads || (lane->wants_write() && !writes)) wake(at->first);
        ++at;
    }
    for (std::size_t index = 0; index < doors_.size(); ++index) {
        if (!std::exchange(doors_[index].full, false)) continue;
        control(epoll_.get(), EPOLL_CTL_ADD, doors_[index].listener->event_fd(), EPOLLIN, kDoor | index);
    }
    // From now on, not from when it was due: a stopped process has no ticks to make up for.
    next_tick_ = clock_.now() + pool::kTickInterval;
}

}  // namespace cmpool::daemon
