#pragma once

#include "shm_remote.h"
#include "stream_lane.h"

namespace cmpool::transport {

/// Whether a peer's file may be mapped as it is. Who shrinks a mapped file kills its readers: of a
/// stranger who connected to us only what is sealed against that is taken.
enum class ShmTrust : std::uint8_t { Listener, Stranger };

/// Messages travel through a Unix socket; one-sided operations are copies that post() makes itself,
/// in memory that both sides map. Their completions wait in poll() when post() returns.
class ShmLane final : public StreamLane {
public:
    ShmLane(StreamPeer peer, const Caps& caps, const SegmentTable& table, ShmTrust trust)
        : StreamLane(std::move(peer), caps, table, {.hands_out_fds = true}), trust_(trust) {}

    /// Asks the owner for the descriptor; a window needs nobody's answer.
    [[nodiscard]] Result<void> import(const Descriptor& descriptor, Token token,
                                      std::uint64_t cookie) override;

protected:
    [[nodiscard]] Result<void> start_one_sided(const Op& op) override;
    void import_answered(const PendingOp& import, std::optional<Errc> error, UniqueFd fd,
                         std::uint64_t value) override;

private:
    void run(const Op& op, const ShmRemote& remote, Completion& completion);
    void read_window(const Op& op, const ShmRemote& remote, Completion& completion);
    [[nodiscard]] bool peer_is_alive() const noexcept;

    ShmTrust trust_;
};

}  // namespace cmpool::transport
