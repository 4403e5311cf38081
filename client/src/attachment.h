#pragma once

#include "seal.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/transport/segment.h>

namespace cmpool::client {

/// A block that the mapped index shows, and what has to be the same for it to be still there.
struct Sighting {
    const model::Slot* slot = nullptr;
    model::Slot seen;
    model::Location at;
};

/// Bytes that a get has room for.
[[nodiscard]] inline std::uint64_t room(const GetItem& item) noexcept {
    std::uint64_t bytes = 0;
    for (const auto& piece : item.into) bytes += piece.size();
    return bytes;
}

/// A domain's memory as a same-host client sees it: the index and the segments to read, one control
/// page to write. Reading costs no message and no system call.
///
///   Always   a copy counts only if its slot was unchanged after it; a pinned block's bytes stay as
///            they are until the pin is taken back, whatever happens to client, lane or server
///   Threads  one
class Attachment {
public:
    Attachment(std::unique_ptr<transport::RemoteSegment> index, MutableBytes index_bytes,
               unsigned bucket_bits, std::unique_ptr<transport::RemoteSegment> control,
               MutableBytes control_bytes, std::uint64_t segment_bytes, std::uint64_t pin_bytes_max);

    void add_segment(std::size_t index, std::unique_ptr<transport::RemoteSegment> segment, Bytes bytes);
    [[nodiscard]] std::uint32_t known_segments() const noexcept {
        return static_cast<std::uint32_t>(data_.size());
    }

    [[nodiscard]] std::optional<Sighting> probe(const model::Digest& digest) const noexcept;
    /// Loads what probe() will look at, ahead of need.
    void prefetch(const model::Digest& digest) const noexcept;
    /// Loads where copy() will begin, ahead of need.
    void prefetch(const Sighting& sighting) const noexcept;
    /// The block's header and payload; empty while its segment is not mapped here.
    [[nodiscard]] Bytes extent(const model::Location& at) const noexcept;
    [[nodiscard]] bool unchanged(const Sighting& sighting) const noexcept;

    /// Copies what is wanted of a block out. Nothing means that it has gone meanwhile, or is another's: a
    /// miss.
    struct Copied {
        Outcome outcome;  ///< Miss: it is sealed, and does not open
        std::uint32_t bytes;
        std::uint64_t checksum;  ///< of the whole block; of a part only where it is to be verified
        bool sound = true;       ///< false: a part was to be verified, and the block has another checksum
    };
    [[nodiscard]] std::optional<Copied> copy(const GetItem& item, const Sighting& sighting, bool verify,
                                             Sealer* sealer) const noexcept;
    /// The same of a block that is pinned here: nobody changes it, whatever the index shows.
    [[nodiscard]] std::optional<Copied> copy_pinned(const GetItem& item, const Sighting& sighting,
                                                    bool verify, Sealer* sealer) const noexcept;

    /// Pins as many leading blocks as are still there and as there is room for; one fence for all.
    [[nodiscard]] std::vector<std::uint32_t> pin(std::span<const Sighting> run);
    void unpin(std::span<const std::uint32_t> pins, std::span<const Sighting> run) noexcept;

    /// A run that this client has pinned, by the blocks' keys. Both are the same length, and stay where
    /// they are until forget().
    struct Lent {
        std::span<const model::Digest> digests;
        std::span<const Sighting> run;
    };
    void lend(const Lent& lent) { lent_.push_back(lent); }
    void forget(const Lent& lent) noexcept;
    /// What pinned runs hold, for blocks that the index shows no more: the pool may choose a block to
    /// evict before it is pinned, and take it out of the index after. Its bytes stay.
    [[nodiscard]] std::unordered_map<model::Digest, Sighting> lent() const;
    /// Tells the server what was used: from the last block to the first, so that the root stays warmest.
    void touch(std::span<const Sighting> run) noexcept;

    void count_match(std::uint64_t asked, std::uint64_t hit) noexcept;
    void count_get(std::uint64_t hits, std::uint64_t misses, std::uint64_t bytes,
                   std::uint64_t stale) noexcept;
    void count_broken(std::uint64_t blocks) noexcept;
    void count_near(std::uint64_t hits) noexcept;

private:
    [[nodiscard]] static Copied open(const GetItem& item, Bytes payload, Sealer& sealer) noexcept;

    struct Mapped {
        std::unique_ptr<transport::RemoteSegment> segment;
        Bytes bytes;
    };
    std::unique_ptr<transport::RemoteSegment> index_;
    std::unique_ptr<transport::RemoteSegment> control_;
    const model::Bucket* buckets_;
    unsigned bucket_bits_;
    model::ControlPage& page_;
    std::uint64_t segment_bytes_;
    std::uint64_t pin_bytes_left_;
    std::vector<Mapped> data_;  ///< by index; empty where a segment has been given up
    std::vector<Lent> lent_;
    std::vector<std::uint32_t> free_pins_;
    std::uint32_t pins_used_ = 0;  ///< pins below this index have been used at least once
    std::uint64_t touch_head_ = 0;
};

}  // namespace cmpool::client
