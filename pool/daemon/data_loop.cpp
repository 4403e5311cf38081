#include "data_loop.h"

#include <cerrno>
#include <cstring>

#include <asio/post.hpp>
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

namespace cmpool::daemon {
namespace {

/// Lanes taken from one listener before others have their turn.
constexpr int kAcceptsMax = 64;

}  // namespace

struct DataLoop::Door {
    Door(asio::io_context& io, std::unique_ptr<transport::Listener> opened)
        : listener(std::move(opened)), ready(io) {}

    std::unique_ptr<transport::Listener> listener;
    asio::posix::stream_descriptor ready;
    bool waiting = false;
    bool full = false;  // said so already
};

// Waits on a copy of the lane's descriptor: the server closes the lane when it likes, and its number
// may belong to another lane before we hear of it.
struct DataLoop::Peer {
    Peer(asio::io_context& io, int fd) : ready(io, fd) {}

    asio::posix::stream_descriptor ready;
    bool reading = false;
    bool writing = false;
    bool queued = false;
    bool reads = true;  // else readiness to read says nothing: the peer's answers come first
};

void DataLoop::listen(std::unique_ptr<transport::Listener> listener) {
    auto door = std::make_shared<Door>(io_, std::move(listener));
    door->ready.assign(::fcntl(door->listener->event_fd(), F_DUPFD_CLOEXEC, 0));
    doors_.push_back(std::move(door));
}

void DataLoop::run(pool::Server& server) {
    server_ = &server;
    for (const auto& door : doors_) watch(*door);
    ticker_.expires_after(pool::kTickInterval);
    ticker_.async_wait([this](const asio::error_code& error) {
        if (!error) tick();
    });
    io_.run();
    doors_.clear();
    for (const auto& [id, peer] : peers_) server.drop(id);
    peers_.clear();
    server_ = nullptr;
}

void DataLoop::stop() { io_.stop(); }

void DataLoop::watch(Door& door) {
    if (door.waiting) return;
    door.waiting = true;
    door.ready.async_wait(asio::posix::descriptor_base::wait_read,
                          [this, &door](const asio::error_code& error) {
                              if (error) return;
                              door.waiting = false;
                              accept_all(door);
                          });
}

void DataLoop::accept_all(Door& door) {
    for (int count = 0; count < kAcceptsMax; ++count) {
        auto lane = door.listener->accept();
        if (lane) {
            door.full = false;
            accept(door, std::move(*lane));
            continue;
        }
        if (lane.error().code == Errc::Again) break;
        // Out of descriptors, say. The listener stays readable, so the next look is the next tick's.
        if (!door.full) spdlog::error("event accept_failed detail \"{}\"", lane.error().detail);
        door.full = true;
        return;
    }
    watch(door);
}

void DataLoop::accept(Door& door, std::unique_ptr<transport::Lane> lane) {
    const int copy = ::fcntl(lane->event_fd(), F_DUPFD_CLOEXEC, 0);
    const auto from = lane->peer();
    if (copy < 0) {
        spdlog::error("event accept_failed listener {} detail \"{}\"", door.listener->address(),
                      std::strerror(errno));
        return;
    }
    auto peer = std::make_shared<Peer>(io_, copy);
    const auto id = server_->add(std::move(lane));
    if (!id) {
        spdlog::warn("event peer_refused address {} detail \"{}\"", from.address, id.error().detail);
        return;
    }
    spdlog::debug("event peer_came peer {} address {}", *id, from.address);
    peers_.emplace(*id, std::move(peer));
    wake(*id);
}

void DataLoop::wake(PeerId id) {
    const auto found = peers_.find(id);
    if (found == peers_.end() || found->second->queued) return;
    found->second->queued = true;
    asio::post(io_, [this, id] { serve(id); });
}

void DataLoop::serve(PeerId id) {
    const auto found = peers_.find(id);
    if (found == peers_.end()) return;
    const auto peer = found->second;
    peer->queued = false;
    serving_ = id;
    const auto served = server_->serve(id);
    serving_ = 0;
    peer->reads = served.reads;
    const auto* lane = served.alive ? server_->lane_of(id) : nullptr;
    if (lane == nullptr) {
        spdlog::debug("event peer_left peer {}", id);
        peers_.erase(id);
    } else if (served.busy) {
        wake(id);
    } else {
        watch(id, *peer, *lane);
    }
}

void DataLoop::watch(PeerId id, Peer& peer, const transport::Lane& lane) {
    const auto wait = [this, id, &peer](bool Peer::*flag, asio::posix::descriptor_base::wait_type what) {
        if (peer.*flag) return;
        peer.*flag = true;
        peer.ready.async_wait(what, [this, id, flag](const asio::error_code& error) {
            const auto found = peers_.find(id);
            if (error || found == peers_.end()) return;
            (*found->second).*flag = false;
            if (!found->second->queued) serve(id);
        });
    };
    if (peer.reads) wait(&Peer::reading, asio::posix::descriptor_base::wait_read);
    if (lane.wants_write()) wait(&Peer::writing, asio::posix::descriptor_base::wait_write);
}

void DataLoop::tick() {
    server_->tick();
    for (auto at = peers_.begin(); at != peers_.end();) {
        const auto* lane = server_->lane_of(at->first);
        if (lane == nullptr) {
            at = peers_.erase(at);
            continue;
        }
        const Peer& peer = *at->second;
        if (!peer.reads || (lane->wants_write() && !peer.writing)) wake(at->first);
        ++at;
    }
    for (const auto& door : doors_) watch(*door);
    // From now on, not from when it was due: a stopped process has no ticks to make up for.
    ticker_.expires_after(pool::kTickInterval);
    ticker_.async_wait([this](const asio::error_code& error) {
        if (!error) tick();
    });
}

}  // namespace cmpool::daemon
