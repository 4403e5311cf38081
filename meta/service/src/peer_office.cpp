#include "peer_office.h"

#include "record.h"
#include "records.h"

#include <algorithm>
#include <utility>

#include <spdlog/spdlog.h>

namespace cmpool::meta {
namespace {

/// The store notices the end of a lease late, and then Membership waits for LeaseTimes::grace: together that
/// is one lease as we mean it, if the store's is a second shorter.
std::chrono::seconds at_the_store(std::chrono::milliseconds lease) {
    return std::max(std::chrono::floor<std::chrono::seconds>(lease) - std::chrono::seconds(1), kEtcdLeaseMin);
}

}  // namespace

PeerOffice::PeerOffice(SharedStore& store, const Clock& clock, Controller controller, Membership membership,
                       OfficeConfig config)
    : StoreOffice(clock, controller, std::move(membership), std::move(config)),
      store_(store),
      lease_seconds_(at_the_store(config_.times.lease)) {}

// ---- questions ----

void PeerOffice::open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                                const model::Credential& credential, OpenDone done) {
    // Nobody waits for a store of which we know that it is silent.
    Result<model::NamespaceRecord> record = fail(Errc::PeerDown, "meta's store does not answer right now");
    if (credential.cluster_key) {
        if (auto fits = check_cluster_key(config_.cluster_key, *credential.cluster_key); !fits)
            return done(fail(fits.error()));
    }
    if (!silent_) record = open(spec, fingerprint, credential);
    if (record) {
        openings_.remember(spec, credential, *record);
    } else if (is_silence(record.error().code)) {
        if (!silent_) silent(record.error());
        record = openings_.recall(Openings::key_of(spec, credential), record.error());
    }
    done(std::move(record));
}

void PeerOffice::ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) {
    if (silent_ && !std::holds_alternative<wire::ViewRequest>(question))
        return done(fail(Errc::PeerDown, "meta's store does not answer right now"));
    auto said = answer(question, uid);
    if (!said && said.error().code != Errc::Again && is_silence(said.error().code)) silent(said.error());
    done(std::move(said));
}

StoreOffice::Answer PeerOffice::answer_member(const wire::Body& question) {
    return fail(Errc::Invalid,
                "expected nodes that all keep meta in one store, saw {} of one that joins this node: give it "
                "this one's --meta",
                wire::name_of(question));
}

void PeerOffice::behind(std::uint64_t epoch) {
    const Instant now = clock_.now();
    if (epoch <= view()->epoch || silent_ || now < fetch_after_) return;
    fetch_after_ = now + kFetchEvery;
    if (auto read = membership_.refresh(now); !read) silent(read.error());
}

// ---- what others change ----

void PeerOffice::take_changes() {
    for (const auto& changes : store_.take_changes()) {
        if (changes.whole) {
            alive_.clear();
            const auto is_view = [](const auto& change) { return change.entry.key == kViewKey; };
            if (std::ranges::none_of(changes.changes, is_view)) take_view(std::nullopt);
        }
        for (const auto& change : changes.changes) take(change);
    }
}

void PeerOffice::take(const SharedStore::Change& change) {
    const auto& [key, value, erase, lease] = change.entry;
    if (key == kViewKey) {
        take_view(erase ? std::nullopt : std::optional(Found{value, change.revision}));
    } else if (const auto node = node_of_alive_key(key); node != 0) {
        take_alive(node, change);
    } else if (key.starts_with(kNamespacePrefix)) {
        take_namespace(change);
    }
}

void PeerOffice::take_view(const std::optional<Found>& stored) {
    if (auto adopted = membership_.adopt(stored, clock_.now()); !adopted)
        spdlog::error("event view_unreadable reason \"{}\"", adopted.error().detail);
    const auto* self = membership_.find_member(node_id());
    const bool there = self != nullptr && self->state != model::MemberState::Down;
    if (!silent_ && (!there || membership_.store_is_behind())) beat_at_ = Instant{};
}

void PeerOffice::take_alive(std::uint64_t node, const SharedStore::Change& change) {
    if (!change.entry.erase) {
        RecordReader reader(change.entry.value);
        alive_[node] = reader.number();
        return;
    }
    const auto known = alive_.find(node);
    if (known == alive_.end()) return;
    const Instant now = clock_.now();
    if (node == node_id()) {
        if (!left_) lease_ = 0;
        beat_at_ = Instant{};
    } else {
        // A store that was frozen ends all leases when it goes on: each has a whole one to come again.
        const Instant judged = steady_since_ + (config_.times.lease - config_.times.grace);
        membership_.suspect(node, known->second, std::max(now, judged));
    }
    alive_.erase(known);
}

void PeerOffice::take_namespace(const SharedStore::Change& change) {
    if (change.before.empty()) return;  // nobody serves it yet
    const auto record = decode_namespace(change.entry.erase ? change.before : change.entry.value);
    if (!record) {
        spdlog::error("event namespace_unreadable reason \"{}\"", record.error().detail);
        return;
    }
    auto info = info_of(*record);
    if (change.entry.erase) info.quota = {};
    openings_.take(info);
    changed(info);
}

// ---- being there ----

void PeerOffice::progress() {
    if (left_) return;
    take_changes();
    if (clock_.now() >= beat_at_) beat();
    keep_vigil(Vigil::kNeighbours, !silent_);
    if (clock_.now() >= look_at_) judge();
}

Instant PeerOffice::next_deadline() const noexcept {
    return left_ ? Instant::never() : std::min({beat_at_, look_at_, next_vigil()});
}

void PeerOffice::beat() {
    const auto kept = keep_lease();
    if (kept) answered();
    const auto there = kept ? be_in_view() : kept;
    if (!there) return silent(there.error());
    beat_at_ = clock_.now() + config_.times.lease / 4;
}

Result<void> PeerOffice::keep_lease() {
    if (lease_ != 0) {
        const auto kept = store_.keep(lease_);
        if (!kept) return fail(kept.error());
        if (*kept) return {};
        lease_ = 0;
    }
    const auto granted = store_.grant(lease_seconds_);
    if (!granted) return fail(granted.error());
    const Entry entry{.key = alive_key(node_id()),
                      .value = RecordWriter().number(config_.self.incarnation).take(),
                      .lease = *granted};
    if (auto written = store_.apply({&entry, 1}); !written) return written;
    lease_ = *granted;
    return {};
}

Result<void> PeerOffice::be_in_view() {
    const Instant now = clock_.now();
    if (silent_) {
        if (auto read = membership_.refresh(now); !read) return read;
    }
    const auto* self = membership_.find_member(node_id());
    const bool there = self != nullptr && self->state != model::MemberState::Down &&
                       self->incarnation == config_.self.incarnation && !membership_.store_is_behind();
    if (!there) {
        if (auto joined = membership_.join(config_.self, 0, now); !joined) return joined;
    }
    if (std::exchange(silent_, false)) spdlog::info("event store_answers epoch {}", view()->epoch);
    retries_.reset();
    return {};
}

void PeerOffice::answered() {
    const Instant now = clock_.now();
    if (now - answered_at_ > config_.times.lease / 2) {
        // Nobody could keep a lease at a store that was away.
        steady_since_ = now;
        membership_.rearm(now);
    }
    answered_at_ = now;
}

void PeerOffice::silent(const Error& why) {
    // Also who has never had an answer says so, once.
    if (!silent_ || !said_silent_) spdlog::warn("event store_silent reason \"{}\"", why.detail);
    silent_ = said_silent_ = true;
    beat_at_ = clock_.now() + retries_.next();
}

void PeerOffice::judge() {
    const Instant now = clock_.now();
    look_at_ = now + kLook;
    if (silent_ || now - answered_at_ > config_.times.lease / 2) return;
    for (const auto& [node, incarnation] : alive_) (void)membership_.renew(node, incarnation, now);
    const auto judged =
        membership_.expire(now, [](std::uint64_t node, bool ended) { return terms_of(node, ended); });
    // Lost races are looked at again with what has come in between.
    if (!judged && judged.error().code != Errc::Again) silent(judged.error());
}

// Who has just come back to the store is not declared down by who has not heard of that yet. Who has ended
// keeps nothing there.
Membership::Terms PeerOffice::terms_of(std::uint64_t node, bool ended) {
    if (ended) return {.batch = {{.key = alive_key(node), .value = "", .erase = true}}, .guards = {}};
    return {.batch = {}, .guards = {{alive_key(node), 0}}};
}

void PeerOffice::leave() {
    if (std::exchange(left_, true) || silent_) return;
    if (auto gone = membership_.leave(node_id(), config_.self.incarnation); !gone) return;
    if (lease_ != 0) (void)store_.revoke(lease_);
}

Result<std::unique_ptr<Office>> open_peer_office(Store& own, SharedStore& store, const Clock& clock,
                                                 Entropy& entropy, OfficeConfig config) {
    const auto node = Controller::open(own, entropy);
    if (!node) return fail(node.error());
    config.self.node_id = node->node_id();
    Membership membership(store, config.self.node_id, config.times);
    return std::make_unique<PeerOffice>(store, clock, Controller::share(store, entropy, config.self.node_id),
                                        std::move(membership), std::move(config));
}

}  // namespace cmpool::meta
