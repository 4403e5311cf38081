#pragma once

#include "session.h"

#include <cstdint>
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
inline constexpr std::uint64_t kPutChunkBytes = 4 * MiB;
/// Up to this size a put is sent without asking first what is wanted.
inline constexpr std::uint64_t kPutUnaskedBytes = 256 * KiB;
/// Puts of one call on their way at once.
inline constexpr std::size_t kPutsInFlight = 4;

/// One call of an engine, from begin() to done. It ends by answers, by the loss of the connection,
/// or by expire(); after that no buffer of it is touched.
class Call : public Asker {
public:
    Call(std::shared_ptr<Session> session, Instant deadline)
        : session_(std::move(session)), deadline_(deadline) {}

    /// The session is ready.
    virtual void begin() = 0;
    /// True when begin() may not send anything because the memory is mapped.
    [[nodiscard]] virtual bool local() const { return false; }
    /// Ends now with what there is.
    void end(std::optional<Error> trouble);
    void lost(std::uint64_t part, const Error& why) override;

    [[nodiscard]] const bool& done() const noexcept { return done_; }
    [[nodiscard]] Instant deadline() const noexcept { return deadline_; }

protected:
    [[nodiscard]] Session& session() const noexcept { return *session_; }
    [[nodiscard]] const std::shared_ptr<Session>& shared_session() const noexcept { return session_; }
    /// Sends one part; the call is done when all parts have ended.
    void ask(std::uint64_t part, wire::Body body, std::span<const Bytes> payload = {});
    /// A part has ended.
    void ended();
    /// The call is done: what the pool may still look at is taken back.
    virtual void over() noexcept {}
    /// Asks for the segments that we have not mapped yet, once a call; answer(kRefreshed) follows.
    [[nodiscard]] bool refresh_once();
    void note(const Error& trouble);

    std::optional<Error> trouble_;
    std::size_t outstanding_ = 0;

private:
    void finish() noexcept;

    std::shared_ptr<Session> session_;
    Instant deadline_;
    bool done_ = false;
    bool refreshed_ = false;
};

/// A call on a batch of blocks.
class ReportCall : public Call {
public:
    ReportCall(std::shared_ptr<Session> session, Instant deadline, std::size_t count)
        : Call(std::move(session), deadline) {
        report_.blocks.resize(count);
    }
    [[nodiscard]] Report take();

protected:
    Report report_;
};

class GetCall final : public ReportCall {
public:
    GetCall(std::shared_ptr<Session> session, Instant deadline, std::span<const GetItem> items, bool verify);
    void begin() override;
    bool local() const override { return session().attachment() != nullptr; }
    void place(std::uint64_t part, const wire::Body& answer, std::vector<MutableBytes>& into) override;
    void answer(std::uint64_t part, const wire::Body& answer) override;

private:
    void get_mapped(const std::vector<std::uint32_t>& wanted);
    void get_lent(const std::vector<std::uint32_t>& unseen);
    [[nodiscard]] bool copied_out(std::uint32_t index, const Attachment::Copied& copied);
    void get_by_message(const std::vector<std::uint32_t>& wanted);
    void landed(std::uint32_t index, std::uint32_t bytes, std::uint64_t checksum);

    std::span<const GetItem> items_;
    bool verify_;
    std::vector<std::vector<std::uint32_t>> chunks_;  ///< by part: which items it asked for
    std::vector<std::uint32_t> unmapped_;             ///< items in segments that we do not know yet
};

class PutCall final : public ReportCall {
public:
    PutCall(std::shared_ptr<Session> session, Instant deadline, std::span<const PutItem> items);
    void begin() override;
    void answer(std::uint64_t part, const wire::Body& answer) override;

private:
    struct Chunk {
        std::vector<std::uint32_t> items;
        std::shared_ptr<transport::Segment> window;  ///< while the pool reads from our memory
    };
    static constexpr std::uint64_t kWanted = UINT64_MAX;  ///< the part that asks what is there already

    void over() noexcept override;
    [[nodiscard]] bool accept(std::uint32_t index);
    void queue(const std::vector<std::uint32_t>& wanted);
    void send_next();
    [[nodiscard]] wire::PutItem describe(std::uint32_t index) const;
    [[nodiscard]] bool send_pulled(std::uint64_t part);
    void send_payload(std::uint64_t part);
    void stored(std::uint32_t index, wire::Outcome outcome);

    std::span<const PutItem> items_;
    std::vector<std::uint64_t> lengths_;
    std::vector<std::uint32_t> accepted_;
    std::vector<Chunk> chunks_;
    std::size_t next_chunk_ = 0;
};

/// Exists or Remove.
class KeysCall final : public ReportCall {
public:
    KeysCall(std::shared_ptr<Session> session, Instant deadline, std::span<const Digest> keys, bool remove)
        : ReportCall(std::move(session), deadline, keys.size()), keys_(keys), remove_(remove) {}
    void begin() override;
    void answer(std::uint64_t part, const wire::Body& answer) override;

private:
    std::span<const Digest> keys_;
    bool remove_;
};

class MatchCall final : public Call {
public:
    MatchCall(std::shared_ptr<Session> session, Instant deadline, std::span<const Digest> chain,
              std::uint32_t lease_ms);
    void begin() override;
    bool local() const override { return session().attachment() != nullptr; }
    void answer(std::uint64_t part, const wire::Body& answer) override;
    [[nodiscard]] Match take();

private:
    void match_mapped();

    std::span<const Digest> chain_;
    std::uint32_t lease_ms_;
    std::shared_ptr<Match::State> state_;
};

/// Stats or List: an answer for people.
class InfoCall final : public Call {
public:
    InfoCall(std::shared_ptr<Session> session, Instant deadline, wire::Body question)
        : Call(std::move(session), deadline), question_(std::move(question)) {}
    void begin() override;
    void answer(std::uint64_t part, const wire::Body& answer) override;
    [[nodiscard]] Result<std::vector<Statistic>> take_stats();
    [[nodiscard]] Result<Listing> take_listing();

private:
    wire::Body question_;
    std::vector<Statistic> stats_;
    Listing listing_;
};

struct Match::State {
    ~State() { release(); }
    void release() noexcept;
    [[nodiscard]] Attachment::Lent lent() const noexcept {
        return {digests, std::span(run).first(pins.size())};
    }

    std::size_t blocks = 0;
    std::optional<Error> trouble;
    std::vector<Digest> digests;  ///< of the pinned blocks
    std::shared_ptr<Attachment> attachment;
    std::vector<Sighting> run;
    std::vector<std::uint32_t> pins;
    std::weak_ptr<Session> session;
    std::uint64_t lease_id = 0;
};

}  // namespace cmpool::client
