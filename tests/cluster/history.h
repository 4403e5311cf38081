#pragma once

#include "client_host.h"
#include "universe.h"

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/client/pool_client.h>

namespace cmpool::testing {

enum class CallKind : std::uint8_t { Match, Get, Put, Exists, Remove };

/// What may be expected of a run, beyond what must hold always.
struct Expectations {
    bool no_faults = false;              ///< then nothing is late or lost, and what is leased hits
    bool ample = false;                  ///< then nothing is evicted either: what was put is there
    bool overwrites_after_done = false;  ///< test-only seam: a client that writes where it may not
};

/// Everything that clients do and see, checked against what they may see.
///
///   Always  the bytes of a hit and of a view are those of its key; memory around a buffer, and a
///           buffer whose call is done, is not written; no call is late; nobody sees what was never
///           put, or another tenant's
class History {
public:
    History(SimWorld& world, Expectations expectations);
    ~History();
    History(const History&) = delete;
    History& operator=(const History&) = delete;

    // Each starts a call on blocks of `named`, which is the client's own space or another tenant's.
    void match(ClientHost& client, const Space& own, Space& named, std::vector<std::size_t> blocks,
               std::uint32_t lease_ms, Nanos keep);
    /// With a seed for them, of each block some range, which now and then leaves it.
    void get(ClientHost& client, const Space& own, Space& named, std::vector<std::size_t> blocks, bool verify,
             std::size_t pieces, std::size_t short_by = 0, std::uint64_t range_seed = 0);
    void put(ClientHost& client, Space& own, std::vector<std::size_t> blocks, bool pieces);
    void exists(ClientHost& client, const Space& own, Space& named, std::vector<std::size_t> blocks);
    void remove(ClientHost& client, Space& own, std::vector<std::size_t> blocks);

    /// Puts a block and reads it back; both must succeed.
    void expect_stored(ClientHost& client, Space& own, std::size_t block);

    /// To be called after each step of the world.
    void check();
    /// Lets go of every match of living clients.
    void release_all();
    [[nodiscard]] bool idle() const noexcept;
    [[nodiscard]] std::size_t held(const ClientHost& client) const noexcept;
    /// The first thing that went wrong; empty while all is well.
    [[nodiscard]] const std::string& wrong() const noexcept { return wrong_; }
    void blame(std::string what);

    struct Seen {
        std::uint64_t calls = 0, hits = 0, misses = 0, stored = 0, present = 0, dropped = 0;
        std::uint64_t matched = 0, leased = 0, views = 0, late = 0, too_small = 0;
        std::uint64_t parts = 0, outside = 0;
    };
    [[nodiscard]] const Seen& seen() const noexcept { return seen_; }

private:
    struct Call;
    struct Held;

    Call& begin(CallKind kind, ClientHost& client, const Space& own, Space& named,
                std::vector<std::size_t> blocks);
    void begun(Call& call);
    void finish(Call& call);
    void finish_match(Call& call);
    void finish_report(Call& call);
    void check_get(const Call& call, std::size_t at, const client::BlockResult& result);
    void check_margins(const Call& call);
    void check_rest(const Call& call);
    void check_views(Held& held, bool whole);
    [[nodiscard]] bool leased_throughout(const Call& call, std::size_t block) const;

    SimWorld& world_;
    Expectations expectations_;
    std::list<Call> calls_;
    std::list<Held> held_;
    std::uint64_t steps_ = 0;
    std::uint64_t begun_ = 0;
    std::string wrong_;
    Seen seen_;
};

}  // namespace cmpool::testing
