#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>

#include <cmpool/base/clock.h>

namespace cmpool::pool {

/// What a client's next message most likely asks for; the first goes first.
enum class Work : std::uint8_t { Control, Loads, Stores };
inline constexpr std::size_t kWorks = 3;

/// Turns of one kind of work, in a row, after which one of a later kind has its turn if it waits.
inline constexpr std::size_t kTurnsInARow = 16;

/// Time that a tenant can have saved up by asking for less than its part.
inline constexpr std::chrono::milliseconds kTurnCredit{1};

/// In which order a shard's clients have their turns: control before loads before stores; in each of them
/// the tenant that has had the least time lately, and of its clients who has waited longest. So a tenant with
/// many clients, or expensive ones, delays its own.
///
///   Threads  one
///   Limits   a client waits at most once, so there are as many turns as clients
///   Source   start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996; here the cost is known afterwards
class Turns {
public:
    using PeerId = std::uint64_t;
    struct Turn {
        PeerId peer;
        std::uint32_t tenant;
        Work work;
        Instant since;  ///< when it became ready
    };

    /// The peer must not wait already.
    void add(const Turn& turn);
    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    /// Whose turn it is; takes it out. There must be one.
    [[nodiscard]] Turn next();
    /// What that turn has taken.
    void spent(const Turn& turn, Nanos time);

private:
    struct Tenant {
        std::deque<Turn> waiting;
        Nanos had{0};  ///< on the queue's own clock, which goes on with who is served
    };
    struct Queue {
        std::unordered_map<std::uint32_t, Tenant> tenants;  ///< those that wait, or had a turn just now
        Nanos now{0};
        std::size_t count = 0;
    };
    [[nodiscard]] Work choose();

    std::array<Queue, kWorks> queues_;
    std::size_t count_ = 0;
    std::size_t in_a_row_ = 0;  ///< turns of a kind before which a later one has waited
};

}  // namespace cmpool::pool
