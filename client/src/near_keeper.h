#pragma once

#include "seal.h"
#include "session.h"

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include <cmpool/base/allowance.h>
#include <cmpool/base/backoff.h>
#include <cmpool/base/units.h>
#include <cmpool/transport/segment.h>

namespace cmpool::client {

class Shards;

/// Copies on their way to this host's server at once, and so many bytes of them a second.
inline constexpr std::uint64_t kNearAtOnceBytes = 8 * MiB;
inline constexpr std::uint64_t kNearRate = 64 * MiB;
inline constexpr std::chrono::milliseconds kNearBurst{250};
/// What the server has not taken by then is taken back.
inline constexpr std::chrono::milliseconds kNearWithin{2000};
/// Blocks that are remembered to have been read once, and for how long: who comes again by then is kept.
inline constexpr std::size_t kNearSeenBlocks = 4096;
inline constexpr std::chrono::seconds kNearSeenFor{60};
/// How long nothing is brought to a server that has no room for it.
inline constexpr std::chrono::milliseconds kNearRestMin{500};
inline constexpr std::chrono::milliseconds kNearRestMax{30'000};

/// Brings this host's own server copies of what its client reads from other members, so that whoever reads it
/// here next finds it in mapped memory. What begins a chain or a group is brought at once, the rest when it
/// is read again. Nobody waits for that: where anything is in the way, nothing is brought.
///
///   Always   the checksum is the one that the owner gave, so that no other bytes are ever kept
///   Threads  one
///   Limits   those above; one put of kNearAtOnceBytes at most to each shard at a time
class NearKeeper final : public Asker {
public:
    explicit NearKeeper(Shards& shards) : shards_(shards), allowance_(kNearRate, kNearBurst) {}

    struct Read {
        Digest key;
        std::uint64_t group;
        std::span<const MutableBytes> into;  ///< where it landed
        std::uint32_t length;
        std::uint64_t checksum;
    };
    /// These have just come from other members. Their memory is not looked at any more when this has
    /// returned.
    void keep(std::span<const Read> reads);
    void progress();
    [[nodiscard]] Instant next_deadline() const noexcept;

    void answer(std::uint64_t part, const wire::Body& answer) override;
    void lost(std::uint64_t part, const Error& why) override;

private:
    struct Batch {
        std::uint32_t shard;
        std::uint64_t bytes;
        std::unique_ptr<std::byte[]> memory;
        std::shared_ptr<transport::Segment> window;  ///< none where the payload travels
        bool pulled = false;
        Instant until{};
    };
    struct Seen {
        std::uint64_t key = 0;
        Instant at{};
    };
    [[nodiscard]] bool wanted(const Read& read, Instant now);
    [[nodiscard]] std::uint64_t stored_bytes(const Read& read) const noexcept;
    void bring(std::uint32_t shard, std::span<const Read* const> reads, Instant now);
    [[nodiscard]] bool send(std::uint64_t part, Batch& batch, std::span<wire::PutItem> items);
    void end(std::uint64_t part) noexcept;

    Shards& shards_;
    Allowance allowance_;
    Backoff rest_{kNearRestMin, kNearRestMax};
    Instant rests_until_{};
    std::vector<Seen> seen_;                  ///< by the key's last bits
    std::map<std::uint64_t, Batch> batches_;  ///< by part
    std::uint64_t bytes_ = 0;                 ///< of them
    std::uint64_t next_part_ = 1;
};

}  // namespace cmpool::client
