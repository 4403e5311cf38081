#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include <cmpool/pool/server.h>
#include <cmpool/transport/fabric.h>

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>

namespace cmpool::daemon {

/// Waits for lanes, listeners and time, and tells the server. A peer that has more to do goes to the
/// end of the queue, so that a busy one delays the others by one turn each.
///
///   Lifetime  the server outlives run(); destroyed after it
///   Threads   the one that calls run()
class DataLoop {
public:
    using PeerId = pool::Server::PeerId;

    explicit DataLoop(asio::io_context& io) : io_(io), ticker_(io) {}

    void listen(std::unique_ptr<transport::Listener> listener);
    /// Serves until stop(), then drops all peers and closes the listeners.
    void run(pool::Server& server);
    void stop();

    /// Who is being served right now; 0 between turns. An answer that comes later calls wake() with it.
    [[nodiscard]] PeerId serving() const noexcept { return serving_; }
    void wake(PeerId peer);

private:
    struct Door;
    struct Peer;

    void watch(Door& door);
    void accept_all(Door& door);
    void accept(Door& door, std::unique_ptr<transport::Lane> lane);
    void serve(PeerId id);
    void watch(PeerId id, Peer& peer, const transport::Lane& lane);
    void tick();

    asio::io_context& io_;
    asio::steady_timer ticker_;
    pool::Server* server_ = nullptr;
    std::vector<std::shared_ptr<Door>> doors_;
    std::unordered_map<PeerId, std::shared_ptr<Peer>> peers_;
    PeerId serving_ = 0;
};

}  // namespace cmpool::daemon
