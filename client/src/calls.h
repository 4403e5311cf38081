#pragma once

#include "shards.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/units.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/wire/messages.h>

namespace cmpool::client {

/// Room that one Get asks for; a larger batch becomes several, all on their way at once.
inline constexpr std::uint64_t kGetChunkBytes = 8 * MiB;
/// Payload of one Put, unless a single block is larger.
inline constexpr std::uint64_t kPutChunkBytes = 1 * MiB;
/// Up to this size a put is sent without asking first what is wanted.
inline constexpr std::uint64_t kPutUnaskedBytes = 256 * KiB;
/// Payload that is summed up while the pool says which blocks it wants, where sums cannot follow payloads.
inline constexpr std::uint64_t kHashAheadBytes = 1 * MiB;
/// From so much payload on it is summed up while it travels, in slices of the second: each is sent on behind.
inline constexpr std::uint64_t kSumsFollowBytes = 128 * KiB;
inline constexpr std::uint64_t kSumSliceBytes = 128 * KiB;
/// Puts of one call that are on their way to one shard at once.
inline constexpr std::size_t kPutsInFlight = 4;
/// Puts of a client that one shard reads from its memory, or will: one less than it may, since a shard that
/// has them all reads nothing else of this client.
inline constexpr std::size_t kPullsMax = wire::kPutsPerClientMax - 1;
/// Put calls of a client that wait until a shard reads fewer of them; one more is refused with Again.
inline constexpr std::size_t kPutsWaitingMax = 1024;

/// One call of an engine, from begin() to done. It ends by answers, by the loss of the connection,
/// or by expire(); after that no buffer of it is touched.
class Call : public Asker {
public:
    Call(std::shared_ptr<Shards> shards, Instant deadline)
        : shards_(std::move(shards)), deadline_(deadline) {}

    /// No shard is undecided, or nobody waits for it.
    virtual void begin() = 0;
    /// A shard has connected, or given up, or a pause is over: goes on with what waited for that.
    void resume(Instant now);
    /// Ends now with what there is.
    void end(std::optional<Error> trouble);
    void lost(std::uint64_t part, const Error& why) override;

    [[nodiscard]] const bool& done() const noexcept { return done_; }
    [[nodiscard]] Instant deadline() const noexcept { return deadline_; }
    /// When others are asked for what has not been answered.
    [[nodiscard]] Instant patience() const noexcept { return patience_; }
    void set_patience(Instant until) noexcept { patience_ = until; }
    /// When it goes on by itself, since a shard asked it to wait; never where it does not wait.
    [[nodiscard]] Instant wakes_at() const noexcept { return wakes_at_; }
    /// It goes on when a shard takes another put of this client.
    [[nodiscard]] bool wants_room() const noexcept { return wants_room_; }
    /// For when either has come.
    void wake();
    /// Whether another owner can answer in the place of one that is silent.
    [[nodiscard]] virtual bool asks_others() const noexcept { return false; }

protected:
    [[nodiscard]] Shards& shards() const noexcept { return *shards_; }
    /// Sends one part to a shard; the call is done when all parts have ended. False when the shard
    /// cannot be asked now: then nothing has begun.
    bool ask(std::uint32_t shard, std::uint64_t part, wire::Body body, std::span<const Bytes> payload = {}) {
        return ask_numbered(shard, part, std::move(body), payload).has_value();
    }
    /// The same, with the request's number.
    std::optional<std::uint64_t> ask_numbered(std::uint32_t shard, std::uint64_t part, wire::Body body,
                                              std::span<const Bytes> payload);
    /// A part has begun: the call goes on until ended(). begin() is one.
    void begun() noexcept { ++outstanding_; }
    /// A part has ended.
    void ended();
    /// Runs `then` as soon as it is known whether a shard can be asked; the call goes on until then.
    void when_decided(std::uint32_t shard, std::function<void()> then);
    /// Until when something is to be loaded from a shard later than now: its connection is not decided, or it
    /// has asked for a pause, which a call keeps once a shard and never beyond its deadline.
    [[nodiscard]] std::optional<Instant> loads_later(std::uint32_t shard);
    /// Runs `then` as soon as `until` has come and the shard is decided; the call goes on until then.
    void park(std::uint32_t shard, Instant until, std::function<void()> then);
    /// Goes on at `at` by woken(); until then the call does not end but by its deadline.
    void wake_at(Instant at) noexcept;
    /// The same, once a shard takes another put.
    void wait_for_room() noexcept;
    virtual void woken() {}
    /// All parts have ended: begins others, if there is more to ask.
    virtual void go_on() {}
    /// In go_on(): what it has begun so far has ended at once.
    [[nodiscard]] bool nothing_asked() const noexcept { return outstanding_ == 1; }
    /// The call is done: what the pool may still look at is taken back.
    virtual void over() noexcept {}
    /// Asks a shard for the segments that we have not mapped yet, once a call; answer(shard, Attached)
    /// follows.
    [[nodiscard]] bool refresh_once(std::uint32_t shard, std::uint64_t part);
    void note(const Error& trouble);

    std::optional<Error> trouble_;

private:
    struct Parked {
        std::uint32_t shard;
        Instant until;
        std::function<void()> then;
    };
    void finish() noexcept;

    std::shared_ptr<Shards> shards_;
    Instant deadline_;
    Instant patience_ = Instant::never();
    Instant wakes_at_ = Instant::never();
    bool wakes_ = false;  ///< woken() is wanted
    bool wants_room_ = false;
    std::size_t outstanding_ = 0;
    bool done_ = false;
    std::vector<std::uint32_t> refreshed_;
    std::vector<std::uint32_t> paused_;  ///< shards whose pause was kept
    std::vector<Parked> parked_;
};

/// Shards that are asked for one block, one after the other.
inline constexpr std::size_t kTriesMax = 4;

/// A put waits for a pool that asks for a pause while this part of its time would be left, as 1/n.
inline constexpr int kShareAfterPause = 8;

/// Which items of a batch concern which shard, in the order of the batch.
using Split = std::vector<std::vector<std::uint32_t>>;

class ReportCall;
class MatchCall;

template <>
struct Pending<Report>::State {
    ReportCall* call;
};
template <>
struct Pending<Match>::State {
    MatchCall* call;
};

/// A call on a batch of blocks.
class ReportCall : public Call {
public:
    ReportCall(std::shared_ptr<Shards> shards, Instant deadline, std::size_t count)
        : Call(std::move(shards), deadline) {
        report_.blocks.resize(count);
    }
    [[nodiscard]] Report take();
    [[nodiscard]] Pending<Report>::State* held() noexcept { return &held_; }

protected:
    template <class ShardOf>
    [[nodiscard]] Split split(const ShardOf& shard_of) const {
        Split all(shards().count());
        if (all.size() == 1) all.front().reserve(report_.blocks.size());
        for (std::uint32_t index = 0; index < report_.blocks.size(); ++index)
            all[shard_of(index)].push_back(index);
        return all;
    }

    Report report_;

private:
    Pending<Report>::State held_{this};
};

class GetCall final : public ReportCall, public ReadUser {
public:
    GetCall(std::shared_ptr<Shards> shards, Instant deadline, std::span<const GetItem> items, bool verify,
            std::shared_ptr<const Places> places);
    void begin() override;
    void place(std::uint64_t part, const wire::Body& answer, std::vector<MutableBytes>& into) override;
    void answer(std::uint64_t part, const wire::Body& answer) override;
    void lost(std::uint64_t part, const Error& why) override;
    [[nodiscard]] bool asks_others() const noexcept override { return true; }
    void read_done(std::uint64_t part, std::span<const std::optional<std::uint64_t>> checksums) override;
    void read_lost(std::uint64_t part, const Error& why) override;
    [[nodiscard]] const ReadUser* reads() const noexcept override { return this; }

private:
    struct Chunk {
        std::uint32_t shard;
        std::vector<std::uint32_t> items;
        Sealer::Scratch aside{};  ///< of a sealed namespace: what lands beside the callers' memory
    };
    struct ReadPart {
        Chunk chunk;
        std::vector<std::uint32_t> lengths;  ///< by item
        std::vector<SealedCut> cuts;         ///< of a sealed namespace, by item
    };
    /// Parts with this bit map new segments of the shard in their low bits.
    static constexpr std::uint64_t kRefresh = std::uint64_t{1} << 63;
    void go_on() override;
    void missed(std::uint32_t index, std::uint32_t shard);
    void begin_shard(std::uint32_t shard, std::span<const std::uint32_t> wanted);
    void get_mapped(std::uint32_t shard, std::span<const std::uint32_t> wanted);
    /// Returns how many are sealed and do not open.
    std::uint32_t get_lent(const Attachment& memory, std::span<const std::uint32_t> unseen);
    void get_lent_near();
    void count_near(std::uint32_t shard, std::span<const std::uint32_t> wanted);
    void came_from_afar(std::uint32_t index, std::uint64_t checksum);
    [[nodiscard]] bool copied_out(std::uint32_t index, const Attachment::Copied& copied);
    void ask_for(std::size_t part);
    // Of a sealed namespace:
    [[nodiscard]] std::optional<SealedCut> cut_of(std::uint32_t index, std::uint32_t stored) const;
    [[nodiscard]] ByteRange asked_range(std::uint32_t index) const;
    [[nodiscard]] std::uint64_t asked_room(std::uint32_t index) const;
    void place_sealed(Chunk& chunk, const wire::Outcomes& outcomes, std::vector<MutableBytes>& into);
    void answer_sealed(std::size_t part, const wire::Outcomes& outcomes);
    /// Reads what a match has told the place of; the others are asked for.
    void get_by_reading(std::uint32_t shard, std::span<const std::uint32_t> wanted);
    void get_by_message(std::uint32_t shard, std::span<const std::uint32_t> wanted);
    void landed(std::uint32_t index, std::uint32_t bytes, std::uint64_t checksum, bool sound = true);
    void over() noexcept override;

    std::span<const GetItem> items_;
    bool verify_;
    std::vector<Chunk> chunks_;             ///< by part
    std::shared_ptr<const Places> places_;  ///< that another client was told
    std::vector<ReadPart> reads_;           ///< by part of a read
    Split unmapped_;                        ///< by shard: items in segments that we do not know yet
    std::map<std::uint32_t, std::uint32_t>
        plain_;  ///< by item: the length of a sealed block, where we had to ask
    // Of a cluster:
    std::vector<NearKeeper::Read> from_afar_;                    ///< blocks of other members
    std::vector<std::vector<std::uint32_t>> tried_;              ///< by item: shards that do not have it
    std::map<std::uint32_t, std::vector<std::uint32_t>> again_;  ///< by shard: items to ask it for
};

class PutCall final : public ReportCall {
public:
    PutCall(std::shared_ptr<Shards> shards, Instant deadline, std::span<const PutItem> items);
    void begin() override;
    void answer(std::uint64_t part, const wire::Body& answer) override;
    void lost(std::uint64_t part, const Error& why) override;

private:
    struct Measured {
        std::uint64_t length = 0;
        std::optional<std::uint64_t> checksum;
    };
    struct Chunk {
        std::uint32_t shard;
        std::vector<std::uint32_t> items;
        std::shared_ptr<transport::Segment> window;  ///< while the pool reads from our memory
        Sealer::Scratch sealed{};                    ///< of a sealed namespace: what is sent
        bool sent = false;
        bool pulled = false;   ///< the pool reads it, or will: one of kPullsMax
        bool delayed = false;  ///< has waited since the pool asked for that
    };
    struct Asked {
        std::uint32_t shard;
        std::vector<std::uint32_t> items;
    };
    /// Parts with this bit ask, in their low bits, which of these are there already.
    static constexpr std::uint64_t kWanted = std::uint64_t{1} << 63;

    void over() noexcept override;
    void go_on() override;
    void woken() override { send_next(); }
    [[nodiscard]] bool holds_back(Chunk& chunk);
    [[nodiscard]] bool accept(std::uint32_t index);
    void begin_shard(std::uint32_t shard, std::vector<std::uint32_t> items);
    void hash_ahead(std::span<const std::uint32_t> items);
    void queue(std::uint32_t shard, std::span<const std::uint32_t> wanted);
    void send_next();
    [[nodiscard]] wire::PutItem describe(std::uint32_t index);
    [[nodiscard]] bool open_window(Chunk& chunk, Bytes memory);
    [[nodiscard]] bool ask_pull(std::uint64_t part, std::span<const wire::PutItem> items);
    [[nodiscard]] bool send_sealed(std::uint64_t part, bool pulled);
    void take_back(Chunk& chunk) noexcept;
    [[nodiscard]] bool send_pulled(std::uint64_t part);
    [[nodiscard]] bool send_payload(std::uint64_t part);
    void pull_ended(Chunk& chunk) noexcept;
    void send_sums(std::uint64_t part, std::uint64_t request_id);
    [[nodiscard]] wire::PutItem describe_unsummed(std::uint32_t index) const;
    void answered(std::uint64_t part, std::span<const std::uint32_t> asked, const wire::Outcomes& outcomes);
    void stored(std::uint32_t index, wire::Outcome outcome);
    [[nodiscard]] bool put_elsewhere(std::uint32_t index);

    std::span<const PutItem> items_;
    std::vector<Measured> measured_;
    Split accepted_;                                                 ///< by shard
    std::map<std::uint32_t, std::vector<std::uint32_t>> elsewhere_;  ///< by shard that drains
    std::uint64_t epoch_ = 0;
    std::vector<Asked> asked_;
    std::vector<Chunk> chunks_;
    std::size_t first_unsent_ = 0;        ///< no chunk before it waits
    std::vector<std::size_t> in_flight_;  ///< chunks, by shard
};

/// Exists or Remove.
class KeysCall final : public ReportCall {
public:
    KeysCall(std::shared_ptr<Shards> shards, Instant deadline, std::span<const Digest> keys, bool remove)
        : ReportCall(std::move(shards), deadline, keys.size()), keys_(keys), remove_(remove) {}
    void begin() override;
    void answer(std::uint64_t part, const wire::Body& answer) override;

private:
    std::span<const Digest> keys_;
    bool remove_;
    Split asked_;  ///< by shard
};

class MatchCall final : public Call {
public:
    MatchCall(std::shared_ptr<Shards> shards, Instant deadline, std::span<const Digest> chain,
              std::uint32_t lease_ms, std::uint32_t parts);
    void begin() override;
    void answer(std::uint64_t part, const wire::Body& answer) override;
    [[nodiscard]] bool asks_others() const noexcept override { return true; }
    [[nodiscard]] Match take();
    [[nodiscard]] Pending<Match>::State* held() noexcept { return &held_; }

private:
    void go_on() override;
    [[nodiscard]] bool ask_on();
    void over() noexcept override;
    void begin_part(std::size_t part);
    void match_mapped(std::size_t number);
    void add(std::uint32_t at);
    [[nodiscard]] bool add_near(std::uint32_t at, std::uint32_t owner, std::uint64_t group);
    [[nodiscard]] Digest part_of(std::uint32_t at, std::uint32_t part) const;
    [[nodiscard]] std::size_t run() const noexcept;

    std::span<const Digest> chain_;
    std::uint32_t lease_ms_;
    std::shared_ptr<Match::State> state_;
    Pending<Match>::State held_{this};
};

/// Stats, List or a question to meta: an answer for people.
class InfoCall final : public Call {
public:
    /// Without a member it is the one that speaks for all.
    InfoCall(std::shared_ptr<Shards> shards, Instant deadline, wire::Body question,
             std::optional<std::uint64_t> member = std::nullopt)
        : Call(std::move(shards), deadline), question_(std::move(question)), member_(member) {}
    void begin() override;
    void answer(std::uint64_t shard, const wire::Body& answer) override;
    [[nodiscard]] Result<std::vector<Statistic>> take_stats();
    [[nodiscard]] Result<Listing> take_listing();
    /// Errors besides: what meta has refused.
    [[nodiscard]] Result<wire::Body> take_answer();

private:
    void add(const wire::Stat& stat);

    wire::Body question_;
    std::optional<std::uint64_t> member_;
    std::optional<wire::Body> answer_;
    std::vector<Statistic> stats_;
    Listing listing_;
};

struct Match::State {
    ~State() { release(); }
    void release() noexcept;

    /// What of the chain lies on one shard, in the chain's order.
    struct Part {
        std::uint32_t shard = 0;
        std::vector<std::uint32_t> tried;  ///< shards that have been asked for these blocks before
        std::vector<Digest> digests;
        std::size_t blocks = 0;  ///< of them, found from the first on
        std::uint64_t lease_id = 0;
        std::vector<wire::Place> places;  ///< that the session's reader was told
        std::weak_ptr<Session> session;
        // Where the shard's memory is mapped:
        std::shared_ptr<Attachment> attachment;
        std::vector<Sighting> run;
        std::vector<std::uint32_t> pins;

        void keep(std::size_t count);
        void release() noexcept;
        [[nodiscard]] Attachment::Lent lent() const noexcept {
            return {digests, std::span(run).first(pins.size())};
        }
    };
    struct Place {
        std::uint32_t part;
        std::uint32_t at;  ///< in it
    };
    [[nodiscard]] Place place(std::size_t entry) const noexcept;

    std::uint32_t parts_each = 1;  ///< of a block; an entry is one of its parts
    std::size_t blocks = 0;        ///< of which all parts are there
    bool leased = false;
    bool sealed = false;
    std::optional<Error> trouble;
    std::vector<Part> parts;    ///< at first by shard
    std::vector<Place> places;  ///< by entry; empty where there is one shard
};

}  // namespace cmpool::client
