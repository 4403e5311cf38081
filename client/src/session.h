#pragma once

#include "attachment.h"
#include "breaker.h"
#include "reader.h"
#include "view_book.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/client/environment.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/client/pool_uri.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/namespace.h>
#include <cmpool/transport/lane.h>
#include <cmpool/wire/messages.h>

namespace cmpool::client {

/// An attempt to connect that takes longer has failed.
inline constexpr std::chrono::seconds kConnectDeadline{2};
/// Messages that wait for room on the lane; above it a request fails with Again.
inline constexpr std::size_t kUnsentMax = 8192;
/// Times that memory is asked for which the pool then does not hand over: it may have been given to others.
inline constexpr int kAttachesMax = 3;
/// Leases that are given back at once.
inline constexpr std::size_t kGivenBackMax = 64;

/// Who asked something, and hears the answer. Exactly one of answer() and lost() ends a request.
class Asker {
public:
    virtual ~Asker() = default;
    /// Where the answer's payload goes; called before answer() if there is one.
    virtual void place(std::uint64_t part, const wire::Body& answer, std::vector<MutableBytes>& into);
    virtual void answer(std::uint64_t part, const wire::Body& answer) = 0;
    virtual void lost(std::uint64_t part, const Error& why) = 0;
    /// The same somebody, where it reads one-sided too.
    [[nodiscard]] virtual const ReadUser* reads() const noexcept { return nullptr; }
};

/// The connection to one shard of a pool server: finds the best lane, opens the namespace, maps what can be
/// mapped, sends requests and routes answers. It never waits.
///
///   Threads  one
class Session final : public transport::Receiver {
public:
    Session(Environment environment, PoolUri uri, NamespaceSpec spec, std::uint32_t shard,
            std::shared_ptr<ViewBook> book);
    ~Session() override;

    /// Moves everything; to be called when a lane has something, and at next_deadline().
    void progress();
    [[nodiscard]] Instant next_deadline() const noexcept;
    void add_lanes(std::vector<transport::Lane*>& lanes) const;
    /// Shards of the server that was last heard of.
    [[nodiscard]] std::uint32_t shards() const noexcept { return server_.shards; }

    /// Of the server that was last heard of; 0: none was.
    [[nodiscard]] std::uint64_t node_id() const noexcept { return server_.node_id; }
    /// Copies that a put of the namespace makes; 0 until it has been opened.
    [[nodiscard]] std::uint32_t replicas() const noexcept { return replicas_; }

    [[nodiscard]] bool ready() const noexcept { return state_ == State::Ready; }
    /// Nobody should wait for this pool now.
    [[nodiscard]] bool hopeless() const noexcept { return breaker_.open(); }
    [[nodiscard]] const std::optional<Error>& trouble() const noexcept { return trouble_; }
    /// The pool has refused us; trying again is for people.
    [[nodiscard]] bool refused() const noexcept { return refused_; }
    /// The pool asks that nothing be stored before then, or, where it is pressed harder, loaded by message.
    [[nodiscard]] Instant stores_after() const noexcept { return stores_after_; }
    [[nodiscard]] Instant loads_after() const noexcept {
        return attachment_ == nullptr ? loads_after_ : Instant{};
    }
    /// A call's deadline passed without an answer.
    void overdue(const Error& why);

    /// Sends a request; its answer comes to `asker`. Errors: PeerDown when not ready, Again.
    [[nodiscard]] Result<std::uint64_t> ask(Asker& asker, std::uint64_t part, wire::Body body,
                                            std::span<const Bytes> payload = {});
    /// Sends the checksums of a put that ask() has just been given, and nothing in between.
    void tell_sums(std::uint64_t request_id, std::span<const std::uint64_t> checksums);
    /// Sends on what is on its way, and does nothing else: for who is busy in the middle of a call.
    void push() noexcept;
    /// Sends a message whose answer nobody waits for; above kUnsentMax it is dropped.
    void tell(wire::Body body);
    /// Ends a lease: the pool is told in front of the next request, or by the next progress(). Where neither
    /// comes, it ends by itself.
    void give_back(std::uint64_t lease_id);
    /// Forgets all requests of an asker; afterwards no buffer that it placed or sent is used. A lane
    /// that still sends from one of them is given up for it. Returns whether there were any.
    bool forget(Asker& asker);
    /// The same, but for its reads, which end by deadlines of their own.
    bool forget_requests(Asker& asker);
    /// The parts of an asker that wait for an answer.
    [[nodiscard]] std::vector<std::uint64_t> parts_of(const Asker& asker) const;
    /// Ends the connection for good.
    void close();

    /// Same-host memory; null where there is none.
    [[nodiscard]] const std::shared_ptr<Attachment>& attachment() const noexcept { return attachment_; }
    /// That memory takes copies of what was read from others.
    [[nodiscard]] bool keeps_near() const noexcept { return attachment_ != nullptr && server_.keeps_near; }
    /// Maps segments that are new since the last time. True when that is under way; false also where
    /// nobody should wait for it. answer(part, wire::Attached) or lost() follows.
    [[nodiscard]] bool refresh(Asker& asker, std::uint64_t part);
    /// Reads blocks without the pool's help, where it can.
    [[nodiscard]] Reader& reader() noexcept { return reader_; }
    [[nodiscard]] bool can_pull() const noexcept { return can_pull_; }
    /// Messages arrive in the order in which they were sent.
    [[nodiscard]] bool ordered() const noexcept { return lane_ != nullptr && lane_->caps().ordered; }
    void cannot_pull() noexcept { can_pull_ = false; }
    /// Puts whose bytes the pool reads now, or will; whoever puts keeps them below kPullsMax.
    [[nodiscard]] std::size_t pulls() const noexcept { return pulls_; }
    void pull_begun() noexcept { ++pulls_; }
    void pull_ended() noexcept { pulls_ -= std::min<std::size_t>(pulls_, 1); }

    [[nodiscard]] const model::Digester* digester() const noexcept {
        return digester_ ? &*digester_ : nullptr;
    }
    [[nodiscard]] std::uint32_t namespace_id() const noexcept { return namespace_id_; }
    [[nodiscard]] const Environment& environment() const noexcept { return environment_; }
    [[nodiscard]] const PoolUri& uri() const noexcept { return uri_; }
    [[nodiscard]] const NamespaceSpec& spec() const noexcept { return spec_; }
    [[nodiscard]] Status status() const;

private:
    enum class State : std::uint8_t { Down, Greeting, GreetingLocal, Opening, Attaching, Ready };
    struct Failure {
        Error why;
        bool refused = false;  ///< by a pool that will not change its mind
    };
    struct Request {
        Asker* asker;
        std::uint64_t part;
    };
    struct Unsent {
        std::uint64_t request_id;
        std::vector<std::byte> head;
        std::vector<Bytes> payload;
        bool sums = false;  ///< of a put that stands before it, or is on its way
    };
    struct Import {
        enum class Role : std::uint8_t { Index, Control, Data } role;
        std::uint32_t index;
        wire::Grant grant;
        std::unique_ptr<transport::RemoteSegment> segment{};
        Errc refused{};  ///< why there is none, once the import has ended
    };

    // transport::Receiver
    void place(transport::Lane& lane, Bytes head, std::uint64_t payload_bytes,
               std::vector<MutableBytes>& into) override;
    void message(transport::Lane& lane, Bytes head, std::uint64_t payload_bytes) override;

    void connect();
    void down(const Failure& failure);
    void fail_lane(Error why, bool refused = false);
    void settle_failure();

    void greet(transport::Lane& lane);
    void handshake(transport::Lane& lane, const wire::Body& body);
    void welcomed(transport::Lane& lane, const wire::Welcome& welcome);
    void try_local(const wire::Welcome& welcome);
    void give_up_local(std::string why);
    void open_namespace();
    void opened(const wire::NamespaceOpened& opened);
    void attach(int tries = kAttachesMax);
    void attached(const wire::Attached& attached);
    void forget_imports();
    void start_imports();
    void imports_done();
    void become_ready();
    void refreshed(const std::optional<Error>& trouble);
    void probe();
    void hold_back(std::uint8_t load);

    void pump(std::unique_ptr<transport::Lane>& lane);
    void completed(const transport::Lane& lane, const transport::Completion& done);
    void tell_given_back();
    void send(std::uint64_t request_id, Bytes head, std::span<const Bytes> payload, bool sums = false);
    void flush();
    [[nodiscard]] std::size_t post(std::span<const transport::Op> batch);
    [[nodiscard]] std::uint64_t send_own(transport::Lane& lane, wire::Body body);

    Environment environment_;
    PoolUri uri_;
    NamespaceSpec spec_;
    std::uint32_t shard_;
    std::shared_ptr<ViewBook> book_;
    Reader reader_;
    State state_ = State::Down;
    Instant attempt_ends_ = Instant::never();
    Breaker breaker_;
    std::uint8_t load_ = 0;  ///< as the last answer said
    Instant stores_after_{};
    Instant loads_after_{};
    bool refused_ = false;
    bool probing_ = false;
    std::optional<Error> trouble_;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
    wire::Decoder local_decoder_;

    std::unique_ptr<transport::Lane> lane_;
    std::unique_ptr<transport::Lane> local_;    ///< while we find out whether it leads to the same server
    std::optional<Failure> failure_;            ///< of lane_, until progress() ends it
    std::optional<std::string> local_failure_;  ///< of local_

    std::uint64_t next_id_ = 1;
    std::optional<std::uint64_t> handshake_id_;  ///< of our own question that waits for its one answer
    std::unordered_map<std::uint64_t, Request> requests_;
    std::array<transport::Completion, 64> done_;  ///< scratch of pump()
    std::unordered_set<std::uint64_t> sending_;   ///< requests whose payload the lane still reads
    std::deque<Unsent> unsent_;
    std::vector<std::uint64_t> given_back_;          ///< leases of which the pool has yet to be told
    std::uint64_t landing_ = 0;                      ///< request whose payload is arriving
    std::optional<Result<wire::Message>> arriving_;  ///< that payload's message

    wire::Welcome server_;
    std::optional<model::View> early_view_;  ///< told before we knew who tells it
    std::string plane_;
    std::optional<model::Digester> digester_;
    std::uint32_t namespace_id_ = 0;
    std::uint64_t lease_bytes_max_ = 0;
    std::uint32_t replicas_ = 0;
    bool can_pull_ = false;
    std::size_t pulls_ = 0;

    std::shared_ptr<Attachment> attachment_;
    wire::Attached attaching_;
    std::vector<Import> imports_;
    std::size_t imports_started_ = 0;
    std::size_t imports_ended_ = 0;
    int attaches_left_ = 0;            ///< before memory that the pool does not hand over is done without
    std::vector<Request> refreshing_;  ///< who waits for new segments
};

}  // namespace cmpool::client
