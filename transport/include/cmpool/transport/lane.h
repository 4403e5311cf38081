#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/transport/segment.h>
#include <cmpool/transport/types.h>

namespace cmpool::transport {

class Lane;

/// What the owner of a lane does with the messages that arrive on it. Called from Lane::receive()
/// only. The head's bytes are hostile until verified; they live until message() returns.
class Receiver {
public:
    virtual ~Receiver() = default;
    /// A head is here, its payload is not. Appends to `into` where the payload goes, in order; a span
    /// without an address drops as many bytes, and what does not fit is dropped. The memory is the lane's
    /// until message(), discard_landing(), or until the lane has failed.
    virtual void place(Lane& lane, Bytes head, std::uint64_t payload_bytes,
                       std::vector<MutableBytes>& into) = 0;
    /// So many bytes of the payload have landed so far, where place() said: whoever has to look at them
    /// may do so while more is on its way. May be called any number of times, or never.
    virtual void landed(Lane& /*lane*/, std::uint64_t /*bytes*/) {}
    /// The payload has landed where place() said.
    virtual void message(Lane& lane, Bytes head, std::uint64_t payload_bytes) = 0;
};

/// What one-sided operations have cost a lane whose device executes them; zeros on other back ends.
struct LaneCounts {
    std::uint64_t requests = 0;   ///< given to the device
    std::uint64_t doorbells = 0;  ///< times that it was told of new ones
    std::uint64_t signalled = 0;  ///< requests that announce their own end
};

/// A send queue and its completions, to one peer, whatever the back end.
///
///   Lifetime  owned by whoever opened it; quiesced before it is destroyed
///   Threads   belongs to one thread
///   Limits    free_slots() operations in flight; above it post() takes fewer and says Again
class Lane {
public:
    virtual ~Lane() = default;

    /// Starts a batch of operations with one doorbell. One call per batch, not per block. Returns how
    /// many leading operations were taken. Their buffers stay untouched until each has completed, or
    /// quiesce() has returned. A failed operation always completes, signalled or not.
    /// Errors: Again when none fits; PeerDown; Invalid when a range leaves what the peer exposes.
    [[nodiscard]] virtual Result<std::size_t> post(std::span<const Op> batch) = 0;

    /// Makes a peer's segment addressable. Ends with an Import completion under `cookie`; then
    /// imported(cookie) hands it over, once. A wrong token is Denied, here or at the first access.
    [[nodiscard]] virtual Result<void> import(const Descriptor& descriptor, Token token,
                                              std::uint64_t cookie) = 0;
    [[nodiscard]] virtual std::unique_ptr<RemoteSegment> imported(std::uint64_t cookie) = 0;

    /// Takes up to out.size() completions; never waits.
    [[nodiscard]] virtual std::size_t poll(std::span<Completion> out) = 0;

    /// Handles what has arrived (messages, and the peer's one-sided operations where software
    /// executes them) and moves what is queued to go out; never waits, and returns after a bounded
    /// amount of work. Returns the number of messages; after 0, event_fd() says when there is more.
    /// Errors: PeerDown, for good, after the last message that arrived whole.
    [[nodiscard]] virtual Result<std::size_t> receive(Receiver& receiver) = 0;

    /// The rest of the payload that is landing right now goes nowhere: when this returns, the memory
    /// that place() named is the caller's again; message() still follows. No effect where nothing is
    /// landing.
    virtual void discard_landing() noexcept = 0;

    /// Readable when something came from outside: call receive(), then poll(). What post(), import()
    /// and receive() complete themselves is in poll() when they return and wakes nobody. Watch for
    /// writability too while wants_write(). -1 on `sim`, whose world wakes its hosts by itself.
    [[nodiscard]] virtual int event_fd() const noexcept = 0;
    [[nodiscard]] virtual bool wants_write() const noexcept = 0;

    /// Ends the lane: returns ok only when no operation of it can touch local or remote memory any
    /// more; each one not yet done is then in poll() with PeerDown. The lane is unusable afterwards.
    /// Errors: Deadline when `limit` passed first: nothing may be freed.
    [[nodiscard]] virtual Result<void> quiesce(Nanos limit) = 0;

    [[nodiscard]] virtual std::size_t free_slots() const noexcept = 0;
    [[nodiscard]] virtual const Caps& caps() const noexcept = 0;
    [[nodiscard]] virtual const PeerIdentity& peer() const noexcept = 0;
    [[nodiscard]] virtual LaneCounts counts() const noexcept { return {}; }
};

}  // namespace cmpool::transport
