#pragma once

#include "places.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/client/environment.h>
#include <cmpool/client/pool_uri.h>
#include <cmpool/model/byte_range.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/model/namespace.h>
#include <cmpool/transport/lane.h>
#include <cmpool/wire/messages.h>

namespace cmpool::client {

/// What to read of a block, and where those bytes go, in order: exactly `range.length` of them.
struct ReadItem {
    model::Digest key;
    wire::Place place;
    model::ByteRange range;  ///< within place.length
    std::vector<MutableBytes> into;
};

/// Who reads, and hears how it went. Exactly one of the two ends a batch.
class ReadUser {
public:
    virtual ~ReadUser() = default;
    /// By item: the checksum of a block that is whole; none for one that is not there any more.
    virtual void read_done(std::uint64_t part, std::span<const std::optional<std::uint64_t>> checksums) = 0;
    virtual void read_lost(std::uint64_t part, const Error& why) = 0;
};

/// A second lane to a shard, over which blocks are read one-sided: the pool's processor does nothing for it.
/// It comes and goes by itself, on whatever plane both sides have; who finds it not ready sends messages.
///
///   Always   bytes count only if the slot that led to them was the same after they had landed, and if the
///            header that came with them has the whole digest
///   Limits   kBlocksAtOnce blocks on their way
///   Threads  one
class Reader final : public transport::Receiver {
public:
    /// Blocks that are read at once; the scratch for their headers and slots is registered once.
    static constexpr std::size_t kBlocksAtOnce = 1024;

    Reader(Environment environment, PoolUri uri, model::NamespaceSpec spec, std::uint32_t shard);
    ~Reader() override;

    /// The shard is there, reached by messages: `server` says where else.
    void offer(const wire::Welcome& server);
    /// The shard is gone, or its memory is mapped.
    void withdraw(const Error& why);

    void progress();
    [[nodiscard]] Instant next_deadline() const noexcept;
    void add_lanes(std::vector<transport::Lane*>& lanes) const {
        if (lane_) lanes.push_back(lane_.get());
    }
    [[nodiscard]] bool ready() const noexcept { return state_ == State::Ready; }
    /// Soon it will know whether it can.
    [[nodiscard]] bool connecting() const noexcept {
        return state_ == State::Greeting || state_ == State::Opening || state_ == State::Attaching;
    }

    /// Where matched blocks lie.
    [[nodiscard]] Places& places() noexcept { return places_; }
    /// False where the place is in no memory that we know or may be given.
    [[nodiscard]] bool may_reach(const wire::Place& place);
    /// Begins to read; ends by `until` at the latest. False when there is no room for so many now. What lies
    /// in memory that we are yet to be given waits for that.
    [[nodiscard]] bool read(ReadUser& user, std::uint64_t part, std::vector<ReadItem> items, Instant until);
    /// Forgets a user. What it reads just now ends with the lane: nothing else gives its buffers back.
    bool forget(const ReadUser& user);

    /// "verbs", or empty while it reads nothing.
    [[nodiscard]] std::string name() const { return ready() ? name_ : std::string(); }
    /// What it reads over, or why it does not, for people.
    [[nodiscard]] const std::string& why() const noexcept { return why_; }
    /// Since the beginning, over all lanes.
    [[nodiscard]] transport::LaneCounts counts() const noexcept;

private:
    enum class State : std::uint8_t { Idle, Waiting, Greeting, Opening, Attaching, Ready };
    /// One operation: a block's header with the bytes that lie behind it, bytes further on, or its slot.
    struct Step {
        enum class What : std::uint8_t { Header, Bytes, Slot };
        std::uint32_t item;
        What what;
    };
    struct Batch {
        ReadUser* user;
        std::uint64_t part;
        std::vector<ReadItem> items;
        std::vector<std::uint32_t> scratch;  ///< slots, by item
        Instant until;
        std::vector<Step> steps;  ///< first all that is read of blocks, then the slots
        std::size_t posted = 0;   ///< steps
    };
    struct Scratch {
        model::BlockHeader header;
        model::Slot slot;
    };

    // transport::Receiver
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane& lane, Bytes head, std::uint64_t payload_bytes) override;

    void connect();
    void say(wire::Body body);
    void attached(const wire::Attached& attached);
    void imported(const transport::Completion& done);
    void fail(std::string why) {
        if (!failure_) failure_ = std::move(why);
    }
    void lose(const std::string& why);
    void close();
    [[nodiscard]] Result<void> open_plane(const transport::PlaneAddress& plane);
    [[nodiscard]] bool reaches(const wire::Place& place) const;
    [[nodiscard]] bool waits(const Batch& batch) const;
    void post_all();
    void post(std::uint64_t id, Batch& batch);
    [[nodiscard]] transport::Op operation(const Batch& batch, const Step& step,
                                          std::vector<MutableBytes>& scatter) const;
    void completed(const transport::Completion& done);
    void finish(Batch& batch);
    [[nodiscard]] Scratch& scratch(std::uint32_t slot) const;

    Environment environment_;
    PoolUri uri_;
    model::NamespaceSpec spec_;
    std::uint32_t shard_;
    State state_ = State::Idle;
    wire::Welcome server_;
    std::string name_;
    std::string why_ = "not connected";
    Instant attempt_ends_ = Instant::never();
    Instant retry_at_ = Instant::never();
    std::chrono::milliseconds pause_{0};
    std::optional<std::string> failure_;

    std::shared_ptr<transport::Fabric> fabric_;
    std::unique_ptr<std::byte[]> scratch_bytes_;
    std::unique_ptr<transport::Segment> scratch_;  ///< registered, so that headers land without a copy
    std::vector<std::uint32_t> free_scratch_;
    std::unique_ptr<transport::Lane> lane_;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
    std::uint64_t next_id_ = 1;
    std::uint32_t namespace_id_ = 0;

    // The domain's memory.
    std::uint64_t segment_bytes_ = 0;
    std::unique_ptr<transport::RemoteSegment> index_;
    std::vector<std::unique_ptr<transport::RemoteSegment>> data_;  ///< by index; empty where there is none
    std::vector<std::uint32_t> importing_;                         ///< indices; kIndexImport: the index
    std::size_t imports_left_ = 0;
    bool more_segments_ = false;
    bool asking_ = false;

    Places places_;
    std::unordered_map<std::uint64_t, Batch> batches_;  ///< by cookie
    std::deque<std::uint64_t> unposted_;
    std::uint64_t next_batch_ = 1;
    transport::LaneCounts counts_;  ///< of lanes that have ended
};

}  // namespace cmpool::client
