#pragma once

#include "extent_map.h"
#include "index_writer.h"
#include "pin_board.h"
#include "quotas.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/pool/chunked.h>
#include <cmpool/pool/eviction.h>
#include <cmpool/transport/segment.h>
#include <cmpool/wire/messages.h>

namespace cmpool::pool {

/// Blocks that make room together.
inline constexpr std::size_t kVictimsMax = 256;
/// A copy of what belongs to another member is kept for so long, then read from its owner again: a block that
/// was removed there is gone here by then, and its owner hears that it is still used.
inline constexpr std::uint32_t kNearLifeSeconds = 30;
inline constexpr std::uint32_t kGenerationMask = (1u << model::kGenerationBits) - 1;

/// What a writer says about a block before its bytes come.
struct BlockSpec {
    std::uint32_t namespace_id = 0;
    model::Digest digest;
    model::Digest parent;
    std::uint32_t position = 0;
    std::uint32_t length = 0;
    bool begins_group = true;  ///< else it joins its parent's group, and needs its parent here
    std::uint64_t group = 0;   ///< what places it, of one that begins a group; 0: its own digest
    model::Digest beside{};    ///< where it has no parent here: the block that it is a little colder than
    bool unsettled = false;    ///< who puts it may not have known where it belongs by now
    bool near = false;         ///< a copy of what belongs to another member: a group of its own
};

struct BlockView {
    Bytes payload;
    std::uint64_t checksum;
};

/// A block of a group, as somebody else is told of it.
struct GroupBlock {
    model::Digest digest;
    model::Digest parent;  ///< zero where it begins the group
    std::uint32_t position = 0;
    std::uint32_t length = 0;
};

/// A walk over a store's groups, from the warmest on. What is touched meanwhile may come twice.
struct GroupWalk {
    struct Head {
        std::uint64_t touched;
        GroupId group;
        std::uint32_t room;
    };
    std::vector<Head> heads;  ///< the next group of each room: a heap with the warmest in front
    bool begun = false;
    bool ended = false;
};

struct StoreCounts {
    std::uint64_t live_blocks = 0;
    std::uint64_t live_bytes = 0;     ///< of extents, headers included
    std::uint64_t doomed_bytes = 0;   ///< out of the index, still read
    std::uint64_t writing_bytes = 0;  ///< begun, not yet visible
    std::uint64_t evicted_blocks = 0;
    std::uint64_t evicted_bytes = 0;
    std::uint64_t removed_blocks = 0;
    std::uint64_t moved_blocks = 0;    ///< to another segment, so that theirs could go
    std::uint64_t corrupt_blocks = 0;  ///< whose bytes changed while they lay here
    std::uint64_t changed_blocks = 0;  ///< refused: their bytes changed on the way, as when a writer gave up
    std::uint64_t near_blocks = 0;     ///< of the live ones, copies of what belongs to other members
    std::uint64_t near_bytes = 0;
    std::uint64_t near_evicted_blocks = 0;  ///< not among the evicted ones above
    std::uint64_t near_kept_blocks = 0;     ///< that have come to belong here
};

/// The blocks of one domain on one shard: memory, index, and what goes when room is needed.
///
///   Always  free + writing + live + doomed == all units of its segments; an extent that somebody
///           holds or pins is never given back; a block that is in the index has its header and
///           payload complete; nothing that is being written can be found
///   Threads one
class DomainStore {
public:
    /// `index` is a segment of IndexWriter::table_bytes(bucket_bits) that the domain's clients may read;
    /// `quotas` outlive it.
    DomainStore(std::unique_ptr<transport::Segment> index, unsigned bucket_bits, std::uint64_t segment_bytes,
                std::uint64_t incarnation, const Clock& clock, Quotas& quotas, std::uint32_t domain_id);

    [[nodiscard]] std::uint32_t domain_id() const noexcept { return domain_id_; }
    /// What a namespace of this domain can count on; made at its first use.
    [[nodiscard]] Space& space(std::uint32_t namespace_id);
    /// The same for its copies of what belongs to other members.
    [[nodiscard]] Space& near_space(std::uint32_t namespace_id);

    // ---- memory ----
    /// Whether an offset can name one more segment. Those that were given up count too: who mapped them may
    /// look at them for ever.
    [[nodiscard]] bool can_grow() const noexcept {
        return (segments_.size() + 1) * segment_bytes_ <= model::kDomainBytesMax;
    }
    void add_segment(std::unique_ptr<transport::Segment> segment);
    /// Empties one segment and gives it up, for a claim of another domain: the coldest that nobody reads.
    /// What the claim may not take moves to other segments. Null when all are read, or when there is no room
    /// for what must stay.
    [[nodiscard]] std::unique_ptr<transport::Segment> give_up_segment(const Claim& claim);
    [[nodiscard]] const std::vector<std::unique_ptr<transport::Segment>>& segments() const {
        return segments_;
    }
    [[nodiscard]] std::size_t segment_count() const noexcept { return segment_count_; }
    /// Evicts what the claim may take until a block of `length` bytes fits, and some more, ahead of need.
    /// False when nothing that would help can go.
    [[nodiscard]] bool make_room(std::uint64_t length, const Claim& claim);

    /// Evicts the coldest copies of what belongs to others, about `bytes` of them. False when there are none
    /// that nobody reads.
    bool shed_near(std::uint64_t bytes);

    // ---- writing: a block may have several writers, since one may never come to its end; who commits
    // first stores it, the others hear Present. A copy that is put by its owners' rules becomes an ordinary
    // block, and its writer hears Present too ----
    struct Begun {
        std::optional<wire::Outcome> refused;  ///< why not; Refused: no room, make_room() and try again
        ExtentId extent = kNoExtent;
        MutableBytes payload;
    };
    [[nodiscard]] Begun begin(const BlockSpec& spec);
    /// Makes the block visible if its payload has this checksum; Present: somebody was faster. `seen` is
    /// the checksum of the payload that has landed, where somebody has summed it up already.
    wire::Outcome commit(ExtentId extent, std::uint64_t checksum,
                         std::optional<std::uint64_t> seen = std::nullopt);
    void abort(ExtentId extent);

    // ---- reading ----
    [[nodiscard]] ExtentId find(const model::Digest& digest) const noexcept;
    /// The same of many: the memory that one needs is on its way while another is looked at. Both are
    /// of the same length.
    void find(std::span<const model::Digest> digests, std::span<ExtentId> found) const noexcept;
    /// The same by what the index says, as same-host clients probe it: no block's own memory is looked at.
    /// One in 2^40 is not who it seems to be; who then reads it compares the digest.
    void probe(std::span<const model::Digest> digests, std::span<ExtentId> found) const noexcept;
    [[nodiscard]] BlockView view(ExtentId extent) const noexcept;
    /// It belongs to another member.
    [[nodiscard]] bool near(ExtentId extent) const noexcept { return rooms_[map_[extent].room].near; }
    /// Older than its namespace's blocks get: a miss, unless somebody holds it.
    [[nodiscard]] bool expired(ExtentId extent) const noexcept;
    /// Where the index shows a block that find() has found.
    [[nodiscard]] std::optional<IndexWriter::Shown> shown(const model::Digest& digest,
                                                          ExtentId extent) const noexcept {
        return index_.shown(digest.prefix(), extent);
    }
    [[nodiscard]] const Extent& extent(ExtentId extent) const noexcept { return map_[extent]; }
    void touch(ExtentId extent);
    /// A held extent keeps its bytes until as many unhold().
    void hold(ExtentId extent) noexcept { ++map_[extent].holds; }
    void unhold(ExtentId extent);
    [[nodiscard]] std::uint64_t holds() const noexcept;
    bool remove(const model::Digest& digest, std::uint32_t namespace_id);
    /// Compares one block's bytes with its checksum; a block that fails is gone. True when it is good.
    bool verify(ExtentId extent);

    // ---- groups, for whoever sees to it that they lie where they belong. One is settled until
    // somebody says that it may not be, or puts into it what is not ----
    /// `keep`: was_settled() says what they were, until they are settled again.
    void unsettle_all(bool keep);
    void unsettle(std::uint32_t namespace_id);
    void settle_all();
    /// Whether it was settled before unsettle_all(), and nothing has been put into it since that makes it
    /// doubtful.
    [[nodiscard]] bool was_settled(GroupId group) const { return was_settled_[group]; }
    /// If it is still the group with this key.
    void settle(GroupId group, std::uint64_t key);
    [[nodiscard]] std::uint64_t unsettled() const noexcept { return unsettled_; }
    /// The next one that is not settled. kNoGroup: `looks` are used up, or the walk has ended.
    [[nodiscard]] GroupId next_unsettled(GroupWalk& walk, std::size_t& looks) const;
    /// Blocks that have ever come.
    [[nodiscard]] std::uint64_t inserts() const noexcept { return inserts_; }
    /// Whether some of its blocks have come later than so many of the store.
    [[nodiscard]] bool grown(GroupId group, std::uint64_t key, std::uint64_t inserts) const noexcept;
    /// What places it.
    [[nodiscard]] std::uint64_t group_key(GroupId group) const noexcept;
    [[nodiscard]] std::uint32_t namespace_of(GroupId group) const noexcept {
        return rooms_[map_[groups_[group].warmest].room].namespace_id;
    }
    /// It is a copy of a block that belongs to another member.
    [[nodiscard]] bool near_group(GroupId group) const noexcept { return near(groups_[group].warmest); }
    /// A group of that kind has come to belong here.
    void keep_group(GroupId group);
    /// Its warmest `count_max` blocks, by their positions, so that parents come before their children;
    /// without those whose parent is not among them.
    [[nodiscard]] std::vector<GroupBlock> blocks_of(GroupId group, std::size_t count_max) const;

    [[nodiscard]] PinBoard& pins() noexcept { return pins_; }
    [[nodiscard]] const transport::Segment& index_segment() const noexcept { return *index_segment_; }
    [[nodiscard]] std::uint64_t index_bytes() const noexcept { return index_segment_->bytes().size(); }
    [[nodiscard]] unsigned bucket_bits() const noexcept { return bucket_bits_; }

    /// Frees what dead processes and finished readers have let go.
    void sweep();
    /// Verifies blocks from where it stopped, about `bytes` of them; returns how many it was.
    std::uint64_t scrub(std::uint64_t bytes);
    /// Evicts blocks that are older than they get, looking at `records` of the map from where it stopped.
    void expire(std::size_t records);
    /// Live blocks of a namespace from `cursor` on; returns where to go on, 0 at the end.
    std::uint64_t list(std::uint32_t namespace_id, std::uint64_t cursor, std::size_t limit,
                       std::vector<wire::ListedBlock>& out) const;

    [[nodiscard]] const StoreCounts& counts() const noexcept { return counts_; }
    [[nodiscard]] std::string check_invariants() const;

private:
    struct Group {
        ExtentId warmest = kNoExtent;
        ExtentId coldest = kNoExtent;
        std::uint64_t touched = 0;  ///< the number of the touch that was its last, or its parent's
    };
    /// A namespace's part of the store. Its groups have an order of their own, so that nobody looks at them
    /// in vain who may not evict them.
    struct Room {
        std::uint32_t namespace_id;
        bool near;
        Space* space;
        const Space* owner;  ///< its namespace's, which says how old blocks get
        Lru policy{};
    };
    /// Bytes that each room may lose, by its number.
    using Allowances = std::vector<std::uint64_t>;

    [[nodiscard]] model::BlockHeader& header(const Extent& extent) const noexcept;
    /// The extent, if it holds this block.
    [[nodiscard]] ExtentId confirmed(ExtentId extent, const model::Digest& digest) const noexcept;
    [[nodiscard]] MutableBytes payload(const Extent& extent) const noexcept;
    [[nodiscard]] static model::Location location(const Extent& extent) noexcept;
    [[nodiscard]] bool busy(const Extent& extent) const;
    [[nodiscard]] ExtentId parent_of(const model::Digest& parent) const noexcept;

    [[nodiscard]] std::uint32_t room_of(std::uint32_t namespace_id, bool near);
    void keep(ExtentId id, const BlockSpec& spec);
    void change_room(Extent& extent);
    void count_live(const Extent& extent, bool lives) noexcept;
    [[nodiscard]] static std::uint64_t bytes_of(const Extent& extent) noexcept {
        return extent.units * model::kUnitBytes;
    }
    void join_group(ExtentId id, const BlockSpec& spec);
    void leave_group(ExtentId id);
    [[nodiscard]] GroupId new_group(std::uint32_t room, GroupId warmer);
    void warm(std::uint32_t room, GroupId group);
    [[nodiscard]] bool alive(GroupId group, std::uint64_t key) const noexcept {
        return groups_[group].warmest != kNoExtent && group_key(group) == key;
    }
    void set_settled(GroupId group, bool settled);
    void end_writing(ExtentId id);
    [[nodiscard]] bool publish(ExtentId id, const BlockSpec& spec);
    void free_a_slot(const BlockSpec& spec);
    [[nodiscard]] std::vector<ExtentId> tail_from(ExtentId id, std::size_t count_max) const;

    void apply_touches();
    void evict(const std::vector<ExtentId>& victims);
    [[nodiscard]] std::vector<ExtentId> with_followers(std::vector<ExtentId> victims) const;
    void take_out(ExtentId id);
    void drop_corrupt(ExtentId id);
    void reclaim(const std::vector<ExtentId>& extents);
    [[nodiscard]] Allowances allowances(const Claim& claim) const;
    [[nodiscard]] bool affordable(std::span<const ExtentId> victims, Allowances& left) const;
    [[nodiscard]] std::vector<ExtentId> coldest_blocks(std::uint64_t units, const Claim& claim);
    void take_tail(Room& room, GroupId& group, std::uint64_t& left_bytes, std::uint64_t units,
                   std::uint64_t& taken, std::vector<ExtentId>& victims);
    [[nodiscard]] bool clear_run(std::uint32_t units, const Claim& claim);
    [[nodiscard]] bool clear_segment(std::size_t index, const Claim& claim);
    [[nodiscard]] bool move_away(const std::vector<ExtentId>& movers, std::size_t from);
    void move_to(ExtentId to, ExtentId from);

    std::unique_ptr<transport::Segment> index_segment_;
    unsigned bucket_bits_;
    std::uint64_t segment_bytes_;
    const Clock& clock_;
    Quotas& quotas_;
    std::uint32_t domain_id_;
    std::vector<std::unique_ptr<transport::Segment>> segments_;  ///< by index, null once given up
    std::vector<ExtentId> first_extents_;  ///< of each segment: its id never changes, since it absorbs
    std::size_t segment_count_ = 0;
    ExtentMap map_;
    IndexWriter index_;
    Chunked<Group> groups_;
    std::vector<GroupId> free_groups_;
    /// Of groups whose only block would not say: most have one, whose digest is the key.
    std::unordered_map<GroupId, std::uint64_t> keys_;
    std::vector<bool> settled_;  ///< by group; of nobody's too
    std::vector<bool> was_settled_;
    std::uint64_t unsettled_ = 0;
    std::vector<Room> rooms_;
    std::shared_ptr<Lru::AllLinks> room_links_ = std::make_shared<Lru::AllLinks>();  ///< of all rooms' orders
    std::unordered_map<std::uint32_t, std::uint32_t> room_numbers_;                  ///< by namespace
    std::unordered_map<std::uint32_t, std::uint32_t> near_room_numbers_;
    std::uint64_t touches_made_ = 0;
    std::unordered_multiset<model::Digest> writing_;  ///< once for each writer
    std::unordered_map<ExtentId, BlockSpec> specs_;   ///< of what is being written
    std::vector<ExtentId> doomed_;
    PinBoard pins_;
    std::vector<std::uint64_t> touches_;  ///< scratch
    std::uint64_t inserts_ = 0;           ///< the generation of the last one
    ExtentId scrub_next_ = 0;
    ExtentId expire_next_ = 0;
    StoreCounts counts_;
};

}  // namespace cmpool::pool
