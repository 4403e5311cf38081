#pragma once

#include "openings.h"
#include "store_office.h"

#include <unordered_map>

#include <cmpool/base/backoff.h>
#include <cmpool/meta/shared_store.h>

namespace cmpool::meta {

/// A node among equals: each of them writes to a store that they share, keeps a lease there, watches who else
/// has one, and declares down whose lease has ended. Nobody judges while the store is silent, nor for a whole
/// lease after it has come back.
class PeerOffice final : public StoreOffice {
public:
    /// Waits before the store is asked again.
    static constexpr std::chrono::milliseconds kRetryMin{50};
    static constexpr std::chrono::milliseconds kRetryMax{500};
    /// How often leases are looked at.
    static constexpr std::chrono::milliseconds kLook{50};
    /// A view that somebody else knows of is read at most so often.
    static constexpr std::chrono::milliseconds kFetchEvery{50};

    PeerOffice(SharedStore& store, const Clock& clock, Controller controller, Membership membership,
               OfficeConfig config);

    void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                        const model::Credential& credential, OpenDone done) override;
    void ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) override;
    void lane_lost(std::uint64_t, std::uint64_t) override {}
    void behind(std::uint64_t epoch) override;
    void progress() override;
    [[nodiscard]] Instant next_deadline() const noexcept override;
    [[nodiscard]] int event_fd() const noexcept override { return store_.event_fd(); }
    void leave() override;
    [[nodiscard]] bool meta_silent() const noexcept override { return silent_; }

private:
    [[nodiscard]] Answer answer_member(const wire::Body& question) override;
    void take_changes();
    void take(const SharedStore::Change& change);
    void take_view(const std::optional<Found>& stored);
    void take_alive(std::uint64_t node_id, const SharedStore::Change& change);
    void take_namespace(const SharedStore::Change& change);

    void beat();
    [[nodiscard]] Result<void> keep_lease();
    [[nodiscard]] Result<void> be_in_view();
    void answered();
    void silent(const Error& why);
    void judge();
    [[nodiscard]] static Membership::Terms terms_of(std::uint64_t node_id, bool ended);

    SharedStore& store_;
    Openings openings_;
    std::chrono::seconds lease_seconds_;
    std::uint64_t lease_ = 0;                                 ///< ours at the store; 0: none
    std::unordered_map<std::uint64_t, std::uint64_t> alive_;  ///< who has a lease there: the run it is in
    bool silent_ = true;
    bool said_silent_ = false;
    bool left_ = false;
    Instant answered_at_{};
    Instant steady_since_{};
    Instant beat_at_{};
    Instant look_at_{};
    Instant fetch_after_{};
    Backoff retries_{kRetryMin, kRetryMax};
};

}  // namespace cmpool::meta
