#include "calls.h"
#include "event_set.h"
#include "shards.h"

#include <algorithm>

#include <cmpool/base/assert.h>
#include <cmpool/client/environment.h>
#include <cmpool/client/pool_client.h>

namespace cmpool::client {
namespace {

/// A call does not look first whether the lane is well, unless nobody has for so long: a client that
/// only reads mapped memory would never learn that its server has gone.
constexpr std::chrono::milliseconds kHealthInterval{5};

Error late(const PoolUri& uri) {
    return {Errc::Deadline, fmt::format("{} did not answer in time", uri.address)};
}

}  // namespace

std::size_t Report::count(Outcome outcome) const noexcept {
    return static_cast<std::size_t>(std::count_if(
        blocks.begin(), blocks.end(), [&](const BlockResult& block) { return block.outcome == outcome; }));
}

template <class T>
bool Pending<T>::done() const noexcept {
    return state_->call->done();
}
template <class T>
bool Pending<T>::settled() const noexcept {
    return state_->call->done();
}
template <class T>
T Pending<T>::take() {
    CMPOOL_ASSERT(done());
    return state_->call->take();
}
template class Pending<Match>;
template class Pending<Report>;

struct PoolClient::Inside {
    explicit Inside(std::shared_ptr<Shards> its_shards) : shards(std::move(its_shards)) {}

    [[nodiscard]] Instant now() const { return shards->environment().clock->now(); }
    [[nodiscard]] Nanos limit(const CallOptions& options) const {
        return options.deadline.value_or(shards->uri().deadline);
    }
    void launch(const std::shared_ptr<Call>& call, Instant at);
    void progress();
    void expire();
    [[nodiscard]] Instant next_deadline() const;
    void wait_for(const bool& done);
    /// Asks for people, and waits for the answer; without a member, the one that speaks for all.
    [[nodiscard]] std::shared_ptr<InfoCall> ask(const CallOptions& options, wire::Body question,
                                                std::optional<std::uint64_t> member = std::nullopt);

    std::shared_ptr<Shards> shards;
    std::vector<std::shared_ptr<Call>> waiting;  ///< for connections
    std::vector<std::shared_ptr<Call>> active;
    Instant looked{};
    std::unique_ptr<EventSet> events;
};

void PoolClient::Inside::launch(const std::shared_ptr<Call>& call, Instant at) {
    if (at - looked >= kHealthInterval || !shards->ready()) {
        looked = at;
        shards->progress();
    }
    // Half of the time is for those who are asked first.
    if (shards->cluster()) call->set_patience(at + (call->deadline() - at) / 2);
    if (shards->undecided()) {
        waiting.push_back(call);
    } else {
        call->begin();
        if (!call->done()) active.push_back(call);
    }
    if (events) events->watch(shards->lanes(), next_deadline(), at);
}

void PoolClient::Inside::progress() {
    looked = now();
    shards->progress();
    for (const auto& call : waiting) {
        if (call->patience() > looked) continue;
        call->set_patience(Instant::never());
        shards->overdue(late(shards->uri()));
    }
    if (!waiting.empty() && !shards->undecided()) {
        for (const auto& call : std::exchange(waiting, {})) {
            call->begin();
            active.push_back(call);
        }
    }
    const bool room = shards->room();
    for (const auto& call : active) {
        call->resume(looked);
        if (!call->done() && (call->wakes_at() <= looked || (room && call->wants_room()))) call->wake();
        if (call->done() || call->patience() > looked) continue;
        call->set_patience(Instant::never());
        if (shards->replicas() > 1 && call->asks_others()) shards->fail_over(*call, late(shards->uri()));
    }
    expire();
    // What has just run out has made room too, and no event will say so.
    if (shards->room()) {
        for (const auto& call : active) {
            if (!call->done() && call->wants_room()) call->wake();
        }
    }
    std::erase_if(active, [](const auto& call) { return call->done(); });
    if (events) events->watch(shards->lanes(), next_deadline(), now());
}

// Deadlines are kept here and nowhere else: when one has passed, the pool is given up for this call,
// its buffers are the caller's again, and nobody waits for this pool until it answers.
void PoolClient::Inside::expire() {
    const Instant at = now();
    for (const auto& call : active) {
        if (call->done() || call->deadline() > at) continue;
        shards->give_up(*call, late(shards->uri()));
        call->end(late(shards->uri()));
    }
    for (const auto& call : waiting) {
        if (call->deadline() > at) continue;
        shards->overdue(late(shards->uri()));
        call->end(shards->home_session().trouble().value_or(late(shards->uri())));
    }
    std::erase_if(waiting, [](const auto& call) { return call->done(); });
}

Instant PoolClient::Inside::next_deadline() const {
    Instant next = shards->next_deadline();
    for (const auto& call : active)
        next = std::min({next, call->deadline(), call->patience(), call->wakes_at()});
    for (const auto& call : waiting) next = std::min({next, call->deadline(), call->patience()});
    return next;
}

// ---- the facade ----

PoolClient::PoolClient(std::unique_ptr<Inside> inside) : inside_(std::move(inside)) {}

PoolClient::~PoolClient() {
    const Error closed{Errc::PeerDown, "the client was closed"};
    for (const auto& call : inside_->active) {
        if (!call->done()) inside_->shards->forget(*call);
        call->end(closed);
    }
    for (const auto& call : inside_->waiting) call->end(closed);
}

Result<std::unique_ptr<PoolClient>> PoolClient::open(std::string_view uri, const NamespaceSpec& spec,
                                                     const std::optional<SealKey>& seal_key) {
    auto parsed = PoolUri::parse(uri);
    if (!parsed) return fail(parsed.error());
    if (seal_key) parsed->seal_key = seal_key;
    return open_in(system_environment(), *parsed, spec);
}

Result<std::unique_ptr<PoolClient>> PoolClient::open_in(const Environment& environment, const PoolUri& named,
                                                        const NamespaceSpec& wanted) {
    PoolUri uri = named;
    NamespaceSpec spec = wanted;
    if (!uri.seal_key && !uri.seal_key_file.empty()) {
        const auto key = read_seal_key(uri.seal_key_file);
        if (!key) return fail(key.error());
        uri.seal_key = *key;
    }
    if (uri.seal_key) spec.sealed = true;
    if (spec.sealed && !uri.seal_key)
        return fail(Errc::Invalid,
                    "expected a seal key (seal_key_file= in the URI) for a sealed namespace, saw none");
    if (auto fine = spec.check(); !fine) return fail(fine.error());
    auto shards = std::make_shared<Shards>(environment, uri, spec);
    std::unique_ptr<PoolClient> client(new PoolClient(std::make_unique<Inside>(shards)));
    const Instant deadline = client->inside_->now() + uri.deadline;
    for (;;) {
        shards->progress();
        if (shards->home_session().refused()) return fail(*shards->home_session().trouble());
        const bool settled = !shards->undecided() && !shards->connecting();
        if (settled || shards->environment().waiter == nullptr) return client;
        // The first call need not wait for what has just been waited for.
        if (client->inside_->now() >= deadline) {
            if (shards->undecided()) shards->overdue(late(uri));
            return client;
        }
        shards->environment().waiter->wait(shards->lanes(), std::min(deadline, shards->next_deadline()));
    }
}

Result<std::vector<Digest>> PoolClient::chain(std::span<const std::uint32_t> tokens) const {
    const auto* digester = inside_->shards->digester();
    if (digester == nullptr)
        return fail(Errc::PeerDown, "{} has not opened the namespace yet", inside_->shards->uri().address);
    if (spec().block_tokens == 0)
        return fail(Errc::Invalid, "the namespace has opaque keys, no token blocks");
    return digester->chain(tokens, spec().block_tokens);
}

Result<Digest> PoolClient::key(Bytes own_key) const {
    const auto* digester = inside_->shards->digester();
    if (digester == nullptr)
        return fail(Errc::PeerDown, "{} has not opened the namespace yet", inside_->shards->uri().address);
    return digester->opaque(own_key);
}

Result<Registration> PoolClient::register_buffer(MutableBytes memory) {
    return inside_->shards->windows().register_buffer(memory);
}

void PoolClient::Inside::wait_for(const bool& done) {
    if (done) return;
    Waiter& waiter = *shards->environment().waiter;
    const Instant begin = now();
    while (!done) {
        if (!waiter.spin(now() - begin)) waiter.wait(shards->lanes(), next_deadline());
        progress();
    }
    waiter.waited(now() - begin);
}

std::shared_ptr<InfoCall> PoolClient::Inside::ask(const CallOptions& options, wire::Body question,
                                                  std::optional<std::uint64_t> member) {
    const Instant at = now();
    auto call = std::make_shared<InfoCall>(shards, at + limit(options), std::move(question), member);
    launch(call, at);
    wait_for(call->done());
    return call;
}

namespace {

/// The call, and what its caller holds of it, are one.
template <class T, class CallType>
Pending<T> pending(std::shared_ptr<CallType> call) {
    auto* const held = call->held();
    return Pending<T>(std::shared_ptr<typename Pending<T>::State>(std::move(call), held));
}

std::optional<Error> too_many(std::size_t count) {
    if (count <= model::kBatchMax) return std::nullopt;
    return Error{Errc::Invalid,
                 fmt::format("expected a batch of at most {} blocks, saw {}", model::kBatchMax, count)};
}

}  // namespace

Pending<Match> PoolClient::start_match(std::span<const Digest> chain, std::uint32_t lease_ms,
                                       const CallOptions& options) {
    const Instant at = inside_->now();
    const std::uint32_t parts = std::max(options.parts, 1U);
    auto call = std::make_shared<MatchCall>(inside_->shards, at + inside_->limit(options),
                                            chain.first(std::min(chain.size(), model::kBatchMax / parts)),
                                            lease_ms, parts);
    inside_->launch(call, at);
    return pending<Match>(std::move(call));
}

Pending<Report> PoolClient::start_get(std::span<const GetItem> items, const CallOptions& options) {
    const Instant at = inside_->now();
    auto call = std::make_shared<GetCall>(inside_->shards, at + inside_->limit(options), items,
                                          options.verify, options.places);
    auto wrong = too_many(items.size());
    wrong ? call->end(wrong) : inside_->launch(call, at);
    return pending<Report>(std::move(call));
}

Pending<Report> PoolClient::start_put(std::span<const PutItem> items, const CallOptions& options) {
    const Instant at = inside_->now();
    auto call = std::make_shared<PutCall>(inside_->shards, at + inside_->limit(options), items);
    auto wrong = too_many(items.size());
    if (!wrong && std::ranges::count_if(inside_->active, [](const auto& each) {
                      return each->wants_room();
                  }) >= static_cast<std::ptrdiff_t>(kPutsWaitingMax)) {
        wrong = Error{Errc::Again,
                      fmt::format("expected at most {} puts that wait for room at the pool, this is one "
                                  "more: wait for some of them first",
                                  kPutsWaitingMax)};
    }
    wrong ? call->end(wrong) : inside_->launch(call, at);
    return pending<Report>(std::move(call));
}

Pending<Report> PoolClient::start_exists(std::span<const Digest> keys, const CallOptions& options) {
    const Instant at = inside_->now();
    auto call = std::make_shared<KeysCall>(inside_->shards, at + inside_->limit(options), keys, false);
    auto wrong = too_many(keys.size());
    wrong ? call->end(wrong) : inside_->launch(call, at);
    return pending<Report>(std::move(call));
}

Pending<Report> PoolClient::start_remove(std::span<const Digest> keys, const CallOptions& options) {
    const Instant at = inside_->now();
    auto call = std::make_shared<KeysCall>(inside_->shards, at + inside_->limit(options), keys, true);
    auto wrong = too_many(keys.size());
    wrong ? call->end(wrong) : inside_->launch(call, at);
    return pending<Report>(std::move(call));
}

Match PoolClient::match(std::span<const Digest> chain, std::uint32_t lease_ms, const CallOptions& options) {
    auto started = start_match(chain, lease_ms, options);
    inside_->wait_for(started.state_->call->done());
    return started.take();
}

Report PoolClient::get(std::span<const GetItem> items, const CallOptions& options) {
    auto started = start_get(items, options);
    inside_->wait_for(started.state_->call->done());
    return started.take();
}

Report PoolClient::put(std::span<const PutItem> items, const CallOptions& options) {
    auto started = start_put(items, options);
    inside_->wait_for(started.state_->call->done());
    return started.take();
}

Report PoolClient::exists(std::span<const Digest> keys, const CallOptions& options) {
    auto started = start_exists(keys, options);
    inside_->wait_for(started.state_->call->done());
    return started.take();
}

Report PoolClient::remove(std::span<const Digest> keys, const CallOptions& options) {
    auto started = start_remove(keys, options);
    inside_->wait_for(started.state_->call->done());
    return started.take();
}

Result<std::vector<Statistic>> PoolClient::stats(const CallOptions& options) {
    const auto call = inside_->ask(options, wire::StatsRequest{});
    return call->take_stats();
}

Result<Listing> PoolClient::list(std::uint64_t cursor, std::uint32_t limit, const CallOptions& options) {
    const auto call = inside_->ask(options, wire::List{.cursor = cursor, .limit = limit});
    auto listing = call->take_listing();
    if (!listing || !spec().sealed) return listing;
    for (auto& block : listing->blocks) block.bytes = plain_bytes(block.bytes).value_or(0);
    return listing;
}

namespace {

NamespaceInfo info_of(wire::NamespaceInfo&& info) {
    return {info.namespace_id,         std::move(info.model), std::move(info.revision),
            std::move(info.described), info.replicas,         info.quota};
}

}  // namespace

model::View PoolClient::view() const { return inside_->shards->view(); }

std::vector<MemberStatistics> PoolClient::member_stats(const CallOptions& options) {
    progress();  // a view may have been told since the last call
    std::vector<MemberStatistics> all;
    for (const auto& member : inside_->shards->view().members) all.push_back({member, {}, std::nullopt});
    for (auto& each : all) {
        const auto call = inside_->ask(options, wire::StatsRequest{}, each.member.node_id);
        auto stats = call->take_stats();
        stats ? void(each.statistics = std::move(*stats)) : void(each.trouble = stats.error());
    }
    return all;
}

Result<std::vector<NamespaceInfo>> PoolClient::namespaces(const CallOptions& options) {
    std::vector<NamespaceInfo> all;
    // A page that is not full is the last; meta keeps kNamespacesMax, so this ends.
    for (std::size_t page = wire::kNamespacesListed; page == wire::kNamespacesListed;) {
        wire::ListNamespaces question{.tenant = spec().tenant,
                                      .tenant_key = inside_->shards->uri().tenant_key};
        if (!all.empty()) {
            question.after_model = all.back().model;
            question.after_revision = all.back().revision;
        }
        const auto call = inside_->ask(options, std::move(question));
        auto answer = call->take_answer();
        if (!answer) return fail(answer.error());
        auto* found = std::get_if<wire::Namespaces>(&*answer);
        if (found == nullptr) return fail(Errc::Corrupt, "the pool answered something else");
        page = found->namespaces.size();
        for (auto& info : found->namespaces) all.push_back(info_of(std::move(info)));
    }
    return all;
}

Result<NamespaceInfo> PoolClient::change_namespace(std::string_view model, std::string_view revision,
                                                   const NamespaceChange& change,
                                                   const CallOptions& options) {
    wire::ChangeNamespace question{.tenant = spec().tenant,
                                   .tenant_key = inside_->shards->uri().tenant_key,
                                   .model = std::string(model),
                                   .revision = std::string(revision),
                                   .replicas = change.replicas,
                                   .remove = change.remove,
                                   .quota = change.quota};
    const auto call = inside_->ask(options, std::move(question));
    auto answer = call->take_answer();
    if (!answer) return fail(answer.error());
    auto* found = std::get_if<wire::Namespaces>(&*answer);
    if (found == nullptr || found->namespaces.size() != 1)
        return fail(Errc::Corrupt, "the pool answered something else");
    return info_of(std::move(found->namespaces.front()));
}

Result<void> PoolClient::change_member(std::string_view who, const MemberChange& change,
                                       std::string_view cluster_key, const CallOptions& options) {
    wire::ChangeMember question{.member = std::string(who),
                                .cluster_key = std::string(cluster_key),
                                .weight = change.weight,
                                .state = change.state,
                                .forget = change.forget};
    const auto call = inside_->ask(options, std::move(question));
    if (const auto answer = call->take_answer(); !answer) return fail(answer.error());
    return {};
}

void PoolClient::wait(const Pending<Match>& call) { inside_->wait_for(call.state_->call->done()); }
void PoolClient::wait(const Pending<Report>& call) { inside_->wait_for(call.state_->call->done()); }

void PoolClient::progress() { inside_->progress(); }

Instant PoolClient::next_deadline() const noexcept { return inside_->next_deadline(); }

Result<int> PoolClient::event_fd() {
    if (!inside_->events) {
        auto events = EventSet::create();
        if (!events) return fail(events.error());
        inside_->events = std::move(*events);
    }
    inside_->events->watch(inside_->shards->lanes(), inside_->next_deadline(), inside_->now());
    return inside_->events->fd();
}

Status PoolClient::status() const { return inside_->shards->status(); }

const NamespaceSpec& PoolClient::spec() const noexcept { return inside_->shards->spec(); }

}  // namespace cmpool::client
