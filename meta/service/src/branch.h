#pragma once

#include "openings.h"

#include <map>
#include <memory>
#include <optional>
#include <string>

#include <cmpool/base/backoff.h>
#include <cmpool/meta/office.h>

namespace cmpool::meta {

/// The connection of a member to meta: joins, renews, hears of new views, and hands questions on. When
/// meta is away or silent it tries again and again; who asks meanwhile hears so at once.
class Branch final : public Office, private transport::Receiver {
public:
    static constexpr std::chrono::milliseconds kRetryMin{50};
    static constexpr std::chrono::milliseconds kRetryMax{500};
    /// A view that somebody else knows of is asked for at most so often.
    static constexpr std::chrono::milliseconds kFetchEvery{50};

    Branch(const Clock& clock, transport::Fabric& network, std::string meta, OfficeConfig config)
        : clock_(clock), network_(network), meta_(std::move(meta)), config_(std::move(config)) {}
    ~Branch() override;

    void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                        const model::Credential& credential, OpenDone done) override;
    void ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) override;
    void lane_lost(std::uint64_t, std::uint64_t) override {}
    void behind(std::uint64_t epoch) override;
    void progress() override;
    [[nodiscard]] Instant next_deadline() const noexcept override;
    [[nodiscard]] std::vector<transport::Lane*> lanes() const override {
        return lane_ ? std::vector{lane_.get()} : std::vector<transport::Lane*>{};
    }
    [[nodiscard]] bool meta_silent() const noexcept override { return silent_; }
    void leave() override;
    [[nodiscard]] bool gone() const noexcept override { return state_ == State::Gone; }
    [[nodiscard]] std::uint64_t node_id() const noexcept override { return config_.self.node_id; }
    [[nodiscard]] std::shared_ptr<const model::View> view() const noexcept override { return view_; }

private:
    enum class State : std::uint8_t { Down, Greeting, Joining, Joined, Leaving, Gone };
    struct Ask {
        AskDone done;
        Instant until;
    };

    // transport::Receiver
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane& lane, Bytes head, std::uint64_t payload_bytes) override;

    void connect();
    void pump();
    void down(const Error& why);
    void own(State next, wire::Body body);
    void own_answer(const wire::Body& body);
    void expire(Instant now);
    void forward(wire::Body question, AskDone done);
    [[nodiscard]] std::uint64_t send(wire::Body body);

    const Clock& clock_;
    transport::Fabric& network_;
    std::string meta_;
    OfficeConfig config_;
    State state_ = State::Down;
    std::unique_ptr<transport::Lane> lane_;
    std::optional<Error> failure_;
    bool silent_ = false;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
    std::uint64_t next_id_ = 1;
    std::uint64_t own_id_ = 0;  ///< of our question that is on its way
    Instant own_until_ = Instant::never();
    Instant renew_at_ = Instant::never();
    Instant retry_at_{};
    Backoff retries_{kRetryMin, kRetryMax};
    Instant fetch_after_{};
    std::map<std::uint64_t, Ask> asks_;  ///< by id, so the oldest comes first
    Openings openings_;
    std::shared_ptr<const model::View> view_ = std::make_shared<const model::View>();
};

}  // namespace cmpool::meta
