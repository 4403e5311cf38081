#include "branch.h"

#include "cluster_key.h"

#include <algorithm>
#include <array>
#include <utility>

#include <cmpool/meta/controller.h>

#include <spdlog/spdlog.h>

namespace cmpool::meta {
namespace {

/// A lane that only sends and receives is quiet at once; this bounds what must not happen.
constexpr std::chrono::milliseconds kQuiesceLimit{10};

}  // namespace

Branch::~Branch() {
    if (lane_) (void)lane_->quiesce(kQuiesceLimit);
}

// ---- going on ----

void Branch::progress() {
    if (state_ == State::Gone) return;
    const Instant now = clock_.now();
    pump();
    if (!failure_ && lane_ != nullptr && now >= own_until_)
        failure_ = Error{Errc::Deadline, fmt::format("meta at {} does not answer", meta_)};
    if (failure_) down(*std::exchange(failure_, std::nullopt));
    if (state_ == State::Down && now >= retry_at_) connect();
    if (state_ == State::Joined && own_id_ == 0 && now >= renew_at_)
        own(State::Joined, wire::Renew{config_.self.node_id, config_.self.incarnation});
    expire(now);
}

Instant Branch::next_deadline() const noexcept {
    if (state_ == State::Gone) return Instant::never();
    if (failure_) return clock_.now();
    Instant next = state_ == State::Down ? retry_at_ : std::min(own_until_, renew_at_);
    if (!asks_.empty()) next = std::min(next, asks_.begin()->second.until);
    return next;
}

void Branch::pump() {
    while (lane_ != nullptr && !failure_) {
        const auto received = lane_->receive(*this);
        if (!received) failure_ = received.error();
        std::array<transport::Completion, 16> done;
        while (const std::size_t count = lane_->poll(done)) {
            for (const auto& completion : std::span(done).first(count)) {
                if (completion.error && !failure_)
                    failure_ = Error{*completion.error, fmt::format("sending to meta at {} failed", meta_)};
            }
        }
        if (!received || *received == 0) return;
    }
}

void Branch::connect() {
    auto lane = network_.connect(meta_);
    if (!lane) return down(lane.error());
    lane_ = std::move(*lane);
    own(State::Greeting, wire::Hello{.client = "cmpoold " + config_.self.name});
}

void Branch::down(const Error& why) {
    if (lane_) (void)lane_->quiesce(kQuiesceLimit);
    lane_.reset();
    if (state_ == State::Joined) spdlog::warn("event meta_lost address {} reason \"{}\"", meta_, why.detail);
    state_ = state_ == State::Leaving ? State::Gone : State::Down;
    silent_ = state_ == State::Down;
    own_id_ = 0;
    own_until_ = renew_at_ = Instant::never();
    retry_at_ = clock_.now() + retries_.next();
    for (auto& [id, ask] : std::exchange(asks_, {})) ask.done(fail(why));
}

void Branch::expire(Instant now) {
    while (!asks_.empty() && asks_.begin()->second.until <= now) {
        const auto late = asks_.extract(asks_.begin());
        late.mapped().done(
            fail(Errc::Deadline, "meta at {} did not answer within {} ms", meta_, kAskLimit.count()));
    }
}

// ---- our own questions ----

std::uint64_t Branch::send(wire::Body body) {
    const std::uint64_t id = next_id_++;
    const Bytes head = encoder_.encode({.request_id = id, .epoch = view_->epoch, .body = std::move(body)});
    const transport::Op op{.kind = transport::OpKind::Send, .signal = false, .head = head};
    const auto posted = lane_->post({&op, 1});
    if (!posted) failure_ = posted.error();
    if (posted && *posted == 0)
        failure_ = Error{Errc::Again, fmt::format("meta at {} takes no more messages", meta_)};
    return id;
}

void Branch::own(State next, wire::Body body) {
    state_ = next;
    own_id_ = send(std::move(body));
    own_until_ = clock_.now() + config_.times.lease / 2;
}

void Branch::message(transport::Lane&, Bytes head, std::uint64_t) {
    const auto message = decoder_.decode(head);
    if (!message) {
        failure_ = message.error();
        return;
    }
    if (const auto* members = std::get_if<wire::Members>(&message->body);
        members != nullptr && members->view.epoch > view_->epoch) {
        view_ = std::make_shared<const model::View>(members->view);
    }
    if (const auto* namespaces = std::get_if<wire::Namespaces>(&message->body);
        namespaces != nullptr && message->request_id == 0) {
        for (const auto& info : namespaces->namespaces) {
            openings_.take(info);
            changed(info);
        }
    }
    if (message->request_id == 0) return;
    if (message->request_id == own_id_) return own_answer(message->body);
    const auto asked = asks_.extract(message->request_id);
    if (!asked) return;  // nobody waits for it any more
    if (const auto* failed = std::get_if<wire::Failed>(&message->body)) {
        asked.mapped().done(fail(Error{failed->code, failed->detail}));
    } else {
        asked.mapped().done(message->body);
    }
}

void Branch::own_answer(const wire::Body& body) {
    own_id_ = 0;
    own_until_ = Instant::never();
    if (const auto* failed = std::get_if<wire::Failed>(&body)) {
        if (failed->code == Errc::LeaseLost && state_ == State::Joined)
            return own(State::Joining, wire::Join{config_.self, config_.cluster_key, view_->epoch});
        spdlog::error("event meta_refused address {} reason \"{}\"", meta_, failed->detail);
        failure_ = Error{failed->code, failed->detail};
        return;
    }
    if (state_ == State::Leaving) {
        failure_ = Error{Errc::PeerDown, "left"};
    } else if (std::holds_alternative<wire::Welcome>(body)) {
        own(State::Joining, wire::Join{config_.self, config_.cluster_key, view_->epoch});
    } else if (const auto* lease = std::get_if<wire::Lease>(&body)) {
        if (state_ == State::Joining) spdlog::info("event joined meta {} epoch {}", meta_, view_->epoch);
        state_ = State::Joined;
        silent_ = false;
        retries_.reset();
        renew_at_ = clock_.now() + std::chrono::milliseconds(lease->lease_ms) / 4;
    } else {
        failure_ = Error{Errc::Corrupt, fmt::format("meta at {} answered with an unexpected {}", meta_,
                                                    wire::name_of(body))};
    }
}

void Branch::behind(std::uint64_t epoch) {
    const Instant now = clock_.now();
    if (epoch <= view_->epoch || state_ != State::Joined || now < fetch_after_) return;
    fetch_after_ = now + kFetchEvery;
    forward(wire::ViewRequest{}, [](const Result<wire::Body>&) {});  // message() takes it
}

void Branch::leave() {
    if (state_ != State::Joined) {
        state_ = State::Gone;
        return;
    }
    own(State::Leaving, wire::Leave{config_.self.node_id, config_.self.incarnation});
    if (failure_) down(*std::exchange(failure_, std::nullopt));
}

// ---- others' questions ----

void Branch::forward(wire::Body question, AskDone done) {
    if (state_ != State::Joined || failure_) {
        return done(fail(Errc::PeerDown, "this node is not connected to meta at {} right now", meta_));
    }
    if (asks_.size() >= kAsksMax)
        return done(fail(Errc::Again, "expected less than {} questions to meta at once", kAsksMax));
    const std::uint64_t id = send(std::move(question));
    asks_.emplace(id, Ask{std::move(done), clock_.now() + kAskLimit});
}

void Branch::ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) {
    if (std::holds_alternative<wire::ViewRequest>(question)) return done(wire::Members{*view_});
    if (auto* change = std::get_if<wire::ChangeMember>(&question)) {
        if (is_admin(config_, uid)) change->cluster_key = config_.cluster_key;
        return forward(std::move(question), std::move(done));
    }
    if (std::holds_alternative<wire::ListNamespaces>(question) ||
        std::holds_alternative<wire::ChangeNamespace>(question))
        return forward(std::move(question), std::move(done));
    done(fail(Errc::Invalid, "expected this at the node that keeps meta, {}", meta_));
}

void Branch::open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                            const model::Credential& credential, OpenDone done) {
    if (credential.cluster_key) {
        if (auto fits = check_cluster_key(config_.cluster_key, *credential.cluster_key); !fits)
            return done(fail(fits.error()));
    }
    wire::Resolve question{
        {spec, credential.tenant_key, fingerprint, std::nullopt}, credential.uid, config_.cluster_key};
    if (credential.cluster_key) question.open.cluster_key.emplace();  // ours stands beside it
    forward(std::move(question),
            [this, credential, spec, done = std::move(done)](const Result<wire::Body>& answer) {
                if (!answer) {
                    if (!is_silence(answer.error().code)) return done(fail(answer.error()));
                    return done(openings_.recall(Openings::key_of(spec, credential), answer.error()));
                }
                const auto* resolved = std::get_if<wire::Resolved>(&*answer);
                if (resolved == nullptr)
                    return done(fail(Errc::Corrupt, "meta at {} answered something else", meta_));
                const model::NamespaceRecord record{.namespace_id = resolved->namespace_id,
                                                    .domain_id = resolved->domain_id,
                                                    .secret = resolved->secret.bytes,
                                                    .spec = spec,
                                                    .replicas = resolved->replicas,
                                                    .quota = resolved->quota};
                openings_.remember(spec, credential, record);
                done(record);
            });
}

Result<std::unique_ptr<Office>> open_branch(Store& store, const Clock& clock, Entropy& entropy,
                                            transport::Fabric& network, std::string meta,
                                            OfficeConfig config) {
    const auto controller = Controller::open(store, entropy);
    if (!controller) return fail(controller.error());
    config.self.node_id = controller->node_id();
    return std::make_unique<Branch>(clock, network, std::move(meta), std::move(config));
}

}  // namespace cmpool::meta
