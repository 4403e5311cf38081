#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include <cmpool/base/clock.h>
#include <cmpool/client/meeting.h>
#include <cmpool/client/pool_client.h>

namespace cmpool::client {

/// What the computing side should do next about a prefix that is being loaded.
struct Advice {
    std::size_t compute_blocks = 0;  ///< compute so many from the front; 0: wait
    Nanos look_again{};              ///< when waiting: ask again after so long, or when a load reports
};

/// A prefix on its way into pages. Destroying it ends it: it returns when nothing writes to any page
/// any more, at most one batch's deadline later.
///
/// Its last blocks to come may come layer by layer, beside the step that computes what is behind the hit:
/// ready() then says that this step may begin, and wait_for() stands before each of its layers.
///
///   Threads  belongs to the computing side's thread
class Load {
public:
    /// What both sides see of it.
    struct State {
        State(std::size_t count, const Clock& time)
            : meeting(count), blocks(count), batch_begun(time.now()), clock(time) {}

        std::mutex mutex;
        std::condition_variable changed;
        Meeting meeting;
        std::size_t blocks;
        Instant batch_begun;  // of the range that is out, or will be next
        Nanos load_per_block{};
        ComputeCost compute;
        Instant computing_until{};  // what the computing side has claimed will be done by then
        bool patient = false;       // the computing side takes nothing while the loading side is at it
        const Clock& clock;

        /// What can be loaded while the step behind the hit computes; zero: nothing comes by layers.
        Nanos beside{};
        bool by_layers = false;         // the range that is out is all that is left, and comes by layers
        std::uint32_t layers_here = 0;  // of it, from the first on
    };
    enum class End : std::uint8_t { NotYet, All, Failed };

    Load(std::shared_ptr<State> state, Match lease) noexcept
        : state_(std::move(state)), lease_(std::move(lease)) {}
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;
    ~Load();

    /// All blocks are here or claimed by the computing side.
    [[nodiscard]] bool met() const;
    /// They are, or their layers are coming and the first ones are here.
    [[nodiscard]] bool ready() const;
    /// Returns when layer `layer` of every block is here. False: what was coming by layers will not come so;
    /// from then on it is loaded or claimed as everything else. It waits no longer than loading, or
    /// computing instead, would take, and one batch's deadline.
    [[nodiscard]] bool wait_for(std::size_t layer) const;
    [[nodiscard]] Advice advise() const;
    /// Takes up to `count` blocks from the front for computing; returns where the computing side ends.
    std::size_t claim(std::size_t count);
    /// Blocks that came from the cache, so far.
    [[nodiscard]] std::size_t loaded_blocks() const;
    /// For who computes nothing of it: whether all blocks are here, or some will never be.
    [[nodiscard]] End end() const;

private:
    std::shared_ptr<State> state_;
    Match lease_;
};

}  // namespace cmpool::client
