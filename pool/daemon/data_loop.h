#pragma once

#include <array>
#include <atomic>
#include <climits>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/rarely.h>
#include <cmpool/base/spin.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/pool/server.h>
#include <cmpool/pool/turns.h>
#include <cmpool/transport/fabric.h>

#include <sys/epoll.h>

namespace cmpool::daemon {

/// The thread of one shard: waits for lanes, listeners and time, and tells the shard's server. Peers have
/// their turns as pool::Turns says; between them the loop looks who has come meanwhile. Before it sleeps it
/// looks around for as long as the next request usually takes to come.
///
///   Lifetime  the server outlives run(); destroyed after it
///   Threads   the one that calls run(); post() and stop() from any
///   Limits    post() is for what is bounded elsewhere: lanes that move here, answers of the directory
class DataLoop {
public:
    using PeerId = pool::Server::PeerId;
    using Job = std::function<void()>;
    /// Hands a lane to the loop of the shard that it asked for.
    using HandOver = std::function<void(std::uint32_t shard, pool::Guest guest)>;

    /// Errors: NoCapacity without descriptors.
    [[nodiscard]] static Result<std::unique_ptr<DataLoop>> create();

    void listen(std::unique_ptr<transport::Listener> listener) { doors_.push_back({std::move(listener)}); }
    /// Lanes whose descriptor is not below `clients_below` are refused, so that some are left for the rest of
    /// the process; `refused` counts them, and what accept() itself refuses.
    struct Descriptors {
        int clients_below = INT_MAX;
        std::atomic<std::uint64_t>* refused;
    };
    void keep_free(const Descriptors& descriptors) { descriptors_ = descriptors; }
    /// Calls stop() when `fd` becomes readable.
    void stop_on(int fd);
    void hand_over_by(HandOver hand_over) { hand_over_ = std::move(hand_over); }

    /// Serves until stop(), then drops all peers and closes the listeners.
    void run(pool::Server& server);
    void stop();
    /// Has the loop's thread do something soon; dropped if run() has ended.
    void post(Job job);
    /// A lane that another loop has handed over.
    void welcome(pool::Guest guest);

    /// Who is being served right now; 0 between turns. An answer that comes later calls wake() with it.
    [[nodiscard]] PeerId serving() const noexcept { return serving_; }
    void wake(PeerId peer);

private:
    struct Door {
        std::unique_ptr<transport::Listener> listener;
        bool full = false;  ///< there was no descriptor for the next one
    };
    struct Peer {
        int fd;
        std::uint32_t watched = 0;  ///< epoll's event mask
        bool queued = false;
        pool::Work work = pool::Work::Control;  ///< of its next turn
        std::uint32_t tenant = 0;
    };

    DataLoop(UniqueFd epoll, UniqueFd bell) noexcept : epoll_(std::move(epoll)), bell_(std::move(bell)) {}

    void turn();
    [[nodiscard]] int look(Nanos limit);
    [[nodiscard]] int wait();
    void handle(const epoll_event& event);
    void accept_all(Door& door);
    void watch_opened();
    void refused(const Door& door, const std::string& why);
    void enter(PeerId id, const transport::PeerIdentity& from, int fd);
    void enqueue(PeerId id, Instant since);
    /// Returns when it ended.
    [[nodiscard]] Instant serve_next(Instant begin);
    void serve(PeerId id, Nanos waited);
    void move_out(PeerId id, std::uint32_t shard);
    void watch(PeerId id, Peer& peer, std::uint32_t events);
    void run_jobs();
    void tick();

    static constexpr std::size_t kEventsMax = 64;

    UniqueFd epoll_;
    UniqueFd bell_;  ///< rung for jobs and stop()
    SystemClock clock_;
    Spin spin_;
    HandOver hand_over_;
    pool::Server* server_ = nullptr;
    std::vector<Door> doors_;
    Descriptors descriptors_{};
    Rarely refused_said_;
    std::unordered_map<PeerId, Peer> peers_;
    pool::Turns turns_;
    Instant looked_{};
    std::array<epoll_event, kEventsMax> events_;
    PeerId serving_ = 0;
    Instant next_tick_{};

    bool stopping_ = false;

    std::mutex mutex_;  ///< of what follows
    std::vector<Job> jobs_;
};

}  // namespace cmpool::daemon
