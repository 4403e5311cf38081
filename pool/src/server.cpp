#include "server_impl.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include <cmpool/wire/load_level.h>

#include <spdlog/spdlog.h>

namespace cmpool::pool {

Result<std::unique_ptr<Server>> Server::create(ServerConfig config, const Clock& clock, Entropy& entropy,
                                               transport::Fabric& memory, Directory& directory,
                                               ProcessWatch& processes) {
    const std::uint64_t incarnation = entropy.next_u64() | 1;
    auto all = Memory::create(config, clock, memory, incarnation);
    if (!all) return fail(all.error());
    return std::make_unique<ServerImpl>(std::move(config), clock, directory, processes, std::move(*all),
                                        incarnation);
}

ServerImpl::ServerImpl(ServerConfig config, const Clock& clock, Directory& directory, ProcessWatch& processes,
                       std::unique_ptr<Memory> memory, std::uint64_t incarnation)
    : config_(std::move(config)),
      clock_(clock),
      directory_(directory),
      processes_(processes),
      memory_(std::move(memory)),
      incarnation_(incarnation),
      lease_bytes_max_(memory_->capacity_bytes() / 4),
      next_lease_(incarnation),
      members_({.name = config_.node_name, .cluster_key = config_.cluster_key}, clock_, config_.network,
               *this, [this] { return next_peer_++; }),
      mover_(config_.node_id, config_.network != nullptr ? config_.repair_bytes_per_second : 0, members_),
      scrub_(config_.scrub_bytes_per_second, kScrubBurst) {}

ServerImpl::~ServerImpl() {
    members_.close_all();
    while (!peers_.empty()) drop(peers_.begin()->first);
}

// ---- peers ----

Server::PeerId ServerImpl::add(std::unique_ptr<transport::Lane> lane) {
    // Who means it has said Hello long before so many others have come.
    if (silent_.size() >= kSilentMax) drop_silent(silent_.begin()->first, "so many others have come since");
    const PeerId id = next_peer_++;
    peers_.emplace(id, std::make_unique<Peer>(*this, id, std::move(lane)));
    silent_.emplace(id, clock_.now());
    return id;
}

void ServerImpl::drop_silent(PeerId peer, std::string_view why) {
    ++counts_.peers_silent;
    if (const auto times = silent_said_.happened(clock_.now())) {
        spdlog::warn("client dropped peer {} address {} times {} reason \"expected Hello, saw nothing: {}\"",
                     peer, find(peer)->lane->peer().address, *times, why);
    }
    drop(peer);
}

Peer* ServerImpl::find(PeerId peer) noexcept {
    const auto found = peers_.find(peer);
    return found == peers_.end() ? nullptr : found->second.get();
}

transport::Lane* ServerImpl::lane_of(PeerId peer) noexcept {
    const Peer* found = find(peer);
    return found == nullptr ? members_.lane_of(peer) : found->lane.get();
}

Server::Served ServerImpl::serve(PeerId peer_id, Nanos waited) {
    if (members_.has(peer_id)) {
        const auto served = members_.serve(peer_id);
        mover_.step(clock_.now());
        return served;
    }
    Peer* peer = find(peer_id);
    if (peer == nullptr) return {};
    bool busy = false;
    turn_began_ = clock_.now();
    turn_waited_ = waited;
    peer->pulled_in_turn = 0;
    if (!peer->puts.empty()) service(peer->tenant).pressure.store_waited(waited);
    advance_puts(*peer);
    for (int round = 0; round < kReceivesPerServe; ++round) {
        if (round > 0 && clock_.now() - turn_began_ >= kServeTime) break;
        poll(*peer);
        flush(*peer);
        // A client that does not take its answers is not asked for more questions.
        if (peer->broken || peer->leaving || !peer->outbox.empty() || peer->puts.size() >= kPutsPerPeerMax)
            break;
        const auto received = peer->lane->receive(*peer);
        if (!received) {
            peer->broken = true;
            spdlog::debug("event lane_ended peer {} name {} reason \"{}\"", peer->id, peer->name,
                          received.error().detail);
        }
        busy = received && *received > 0;
        if (!busy) break;
    }
    if (!peer->broken) {
        poll(*peer);
        flush(*peer);
    }
    if (peer->broken) {
        drop(peer_id);
        return {};
    }
    if (peer->leaving) return {.alive = true, .moves_to = peer->leaving->hello.shard};
    const bool reads = peer->outbox.empty() && peer->puts.size() < kPutsPerPeerMax;
    const bool pulls = peer->pulled_in_turn >= kPullBytesPerServe && !peer->puts.empty();
    const bool stores =
        peer->stores || peer->landing != nullptr || peer->unsummed != nullptr || !peer->puts.empty();
    return {.alive = true,
            .busy = (busy && reads) || pulls,
            .reads = reads,
            .work = peer->member || peer->tenant == 0 ? Work::Control
                    : stores                          ? Work::Stores
                                                      : Work::Loads,
            .tenant = peer->tenant};
}

Service& ServerImpl::service(std::uint32_t tenant) {
    auto& known = services_[tenant];
    if (known == nullptr) known = std::make_unique<Service>();
    return *known;
}

// From when the client became ready to now: what it sent earlier has been handled in between.
void ServerImpl::waited(Peer& peer, std::uint32_t namespace_id, bool stores) {
    const auto space = std::ranges::find_if(
        peer.namespaces, [&](const auto& each) { return each.record.namespace_id == namespace_id; });
    if (space == peer.namespaces.end()) return;
    peer.tenant = space->record.domain_id;
    peer.stores = stores;
    const Nanos wait = turn_waited_ + (clock_.now() - turn_began_);
    Service& there = service(peer.tenant);
    (stores ? there.stores : there.loads).add(wait);
    stores ? there.pressure.store_waited(wait) : there.pressure.load_waited(wait);
}

void ServerImpl::drop(PeerId peer_id) {
    if (members_.has(peer_id)) return members_.drop(peer_id);
    const auto found = peers_.find(peer_id);
    if (found == peers_.end()) return;
    const std::unique_ptr<Peer> peer = std::move(found->second);
    peers_.erase(found);
    silent_.erase(peer_id);
    // No operation of the lane touches memory any more once it is quiet; ours end in this thread.
    (void)peer->lane->quiesce(kSendDeadline);
    if (peer->landing) abort_put(*peer->landing);
    if (peer->unsummed) abort_put(*peer->unsummed);
    for (auto& put : peer->puts) abort_put(*put);
    for (const auto& outgoing : peer->outbox) release(outgoing.held);
    for (const auto& sent : peer->sending) release(sent.held);
    for (auto lease = leases_.begin(); lease != leases_.end();) {
        const auto next = std::next(lease);
        if (lease->second.peer == peer_id) end_lease(lease);
        lease = next;
    }
    for (const auto& [store, page] : peer->pages) store->pins().leave(page);
    for (auto member = joined_.begin(); member != joined_.end();) {
        const auto next = std::next(member);
        if (member->second.first == peer_id) {
            directory_.lane_lost(member->first, member->second.second);
            joined_.erase(member);
        }
        member = next;
    }
}

Guest ServerImpl::give_away(PeerId peer_id) {
    const auto found = peers_.extract(peer_id);
    silent_.erase(peer_id);
    Guest guest = std::move(*found.mapped()->leaving);
    guest.lane = std::move(found.mapped()->lane);
    return guest;
}

Server::PeerId ServerImpl::welcome(Guest guest) {
    const PeerId id = add(std::move(guest.lane));
    handle(*find(id), guest.request_id, guest.hello);
    return id;
}

void ServerImpl::tick() {
    const Instant now = clock_.now();
    if (epoch_heard_of_ > view_->epoch) directory_.behind(std::exchange(epoch_heard_of_, 0));
    for (const auto& [tenant, each] : services_) each->pressure.fade();
    tell_some();
    expire_leases();
    std::vector<PeerId> stuck;
    for (const auto& [id, peer] : peers_) {
        if (peer->stuck_since != Instant::never() && now - peer->stuck_since >= kSendDeadline)
            stuck.push_back(id);
    }
    for (const PeerId id : stuck) {
        ++counts_.peers_stuck;
        if (const auto times = stuck_said_.happened(now)) {
            spdlog::warn("client dropped peer {} name {} times {} reason \"took no answer for {} s\"", id,
                         find(id)->name, *times, kSendDeadline.count());
        }
        drop(id);
    }
    while (!silent_.empty() && now - silent_.begin()->second >= config_.hello_within)
        drop_silent(silent_.begin()->first, fmt::format("for {} ms", config_.hello_within.count()));
    members_.tick();
    mover_.step(now);
    if (mover_.idle()) members_.close_all();
    scrub_.refill(now);
    const double each =
        scrub_.left() / static_cast<double>(std::max<std::size_t>(memory_->domains().size(), 1));
    for (const auto& [id, store] : memory_->domains()) {
        store->sweep();
        if (each > 0) scrub_.spend(store->scrub(static_cast<std::uint64_t>(std::ceil(each))));
        store->expire(kExpireRecordsPerTick);
    }
}

// ---- the view ----

void ServerImpl::set_view(std::shared_ptr<const model::View> view) {
    if (view->epoch <= view_->epoch) return;
    view_ = std::move(view);
    all_told_ = false;
    members_.set_epoch(view_->epoch);
    mover_.set_view(view_);
    // Each member keeps its weight's part of every quota, and each shard an equal part of that.
    std::uint64_t own = 0;
    std::uint64_t all = 0;
    for (const auto& member : view_->members) {
        if (!member.owns()) continue;
        all += member.weight;
        if (member.node_id == config_.node_id) own = member.weight;
    }
    if (own == 0) own = all = 1;
    memory_->quotas().set_part(own, all * config_.shards);
}

void ServerImpl::namespace_changed(const wire::NamespaceInfo& info) {
    if (Space* space = memory_->quotas().find(info.namespace_id)) memory_->quotas().set(*space, info.quota);
    mover_.set_replicas(info.namespace_id, info.replicas);
    for (const auto& [node_id, lane] : joined_) {
        if (Peer* peer = find(lane.first)) send(*peer, 0, wire::Namespaces{{info}});
    }
}

void ServerImpl::learn(Peer& peer, std::uint64_t epoch) {
    epoch_heard_of_ = std::max(epoch_heard_of_, epoch);
    peer.said_epoch = epoch;
    if (epoch >= view_->epoch) {
        peer.epoch = epoch;
    } else if (peer.epoch < view_->epoch || clock_.now() - peer.told_at >= kTellAgain) {
        tell(peer);
    }
}

void ServerImpl::tell(Peer& peer) {
    peer.epoch = view_->epoch;
    peer.told_at = clock_.now();
    send(peer, 0, wire::Members{*view_});
}

// Who asks nothing, since it reads mapped memory, hears of it too: a few at each tick, and on one of its
// lanes only.
void ServerImpl::tell_some() {
    if (all_told_ || config_.shard != 0) return;
    std::size_t left = kToldPerTick;
    for (auto& [id, peer] : peers_) {
        if (!peer->greeted || peer->broken || peer->epoch >= view_->epoch) continue;
        if (left-- == 0) return;
        tell(*peer);
    }
    all_told_ = true;
}

// ---- messages ----

void Peer::place(transport::Lane&, Bytes head, std::uint64_t payload_bytes, std::vector<MutableBytes>& into) {
    server.place(*this, head, payload_bytes, into);
}

void Peer::landed(transport::Lane&, std::uint64_t bytes) {
    if (landing != nullptr) landing->sum_up(bytes);
}

void Peer::message(transport::Lane&, Bytes head, std::uint64_t) { server.message(*this, head); }

// Only puts have payloads. Anything else is read and dropped, and message() answers it.
void ServerImpl::place(Peer& peer, Bytes head, std::uint64_t payload_bytes, std::vector<MutableBytes>& into) {
    if (payload_bytes == 0) return;
    const auto message = decoder_.decode(head);
    if (!message || !std::holds_alternative<wire::Put>(message->body)) return;
    if (const auto put = std::move(peer.unsummed)) refuse_unsummed(peer, *put);
    learn(peer, message->epoch);
    const auto& ask = std::get<wire::Put>(message->body);
    waited(peer, ask.namespace_id, true);
    std::uint64_t expected = 0;
    for (const auto& item : ask.items) expected += item.length;
    if (!ask.window.empty() || expected != payload_bytes) return;
    peer.landing = begin_put(peer, message->request_id, ask);
    if (peer.landing == nullptr) return;
    peer.landing->sums_follow = ask.sums_follow;
    auto item = peer.landing->items.begin();
    std::uint64_t begins = 0;
    for (std::size_t index = 0; index < ask.items.size(); ++index) {
        const bool wanted = item != peer.landing->items.end() && item->index == index;
        if (wanted) item->begins = begins;
        into.push_back(wanted ? item++->payload
                              : MutableBytes(static_cast<std::byte*>(nullptr), ask.items[index].length));
        begins += ask.items[index].length;
    }
}

void ServerImpl::message(Peer& peer, Bytes head) {
    if (peer.landing != nullptr) {
        ++counts_.messages[wire::Body(wire::Put{}).index()];
        auto put = std::move(peer.landing);
        if (put->sums_follow) {
            peer.unsummed = std::move(put);
        } else {
            finish_put(peer, *put);
        }
        return;
    }
    const auto message = decoder_.decode(head);
    if (!message) {
        ++counts_.peers_broken;
        peer.broken = true;
        if (const auto times = broken_said_.happened(clock_.now())) {
            spdlog::warn("client dropped peer {} name {} times {} reason \"{}\"", peer.id, peer.name, *times,
                         message.error().detail);
        }
        return;
    }
    ++counts_.messages[message->body.index()];
    if (peer.unsummed != nullptr && !std::holds_alternative<wire::Sums>(message->body)) {
        const auto put = std::move(peer.unsummed);
        refuse_unsummed(peer, *put);
    }
    if (peer.leaving) {
        ++counts_.peers_broken;
        peer.broken = true;
        return;
    }
    if (!peer.greeted && !std::holds_alternative<wire::Hello>(message->body)) {
        return refuse(
            peer, message->request_id,
            {Errc::Denied, fmt::format("expected Hello first, saw {}", wire::name_of(message->body))});
    }
    learn(peer, message->epoch);
    std::visit(
        [&]<class Ask>(const Ask& ask) {
            constexpr bool kLoads = std::is_same_v<Ask, wire::Get> || std::is_same_v<Ask, wire::Match>;
            constexpr bool kStores = std::is_same_v<Ask, wire::Put>;
            // Who stores asks what is there already, and then sends the rest.
            constexpr bool kEither = std::is_same_v<Ask, wire::Exists>;
            if constexpr (kLoads || kStores || kEither)
                waited(peer, ask.namespace_id, kStores || (kEither && peer.stores));
        },
        message->body);
    std::visit([&](const auto& ask) { handle(peer, message->request_id, ask); }, message->body);
}

template <class Other>
void ServerImpl::handle(Peer& peer, std::uint64_t id, const Other&) {
    refuse(peer, id, {Errc::Invalid, "expected a request, saw an answer"});
}

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::Hello& ask) {
    if (ask.protocol != wire::kProtocolVersion) {
        return refuse(
            peer, id,
            {Errc::Mismatch, fmt::format("this server speaks protocol {} (cmpool {}), the client {}",
                                         wire::kProtocolVersion, config_.version, ask.protocol)});
    }
    if (ask.shard >= config_.shards) {
        return refuse(
            peer, id,
            {Errc::Invalid, fmt::format("expected a shard below {}, saw {}", config_.shards, ask.shard)});
    }
    if (ask.shard != config_.shard) {
        // Only a lane on which nothing else has happened can change hands.
        if (peer.greeted) return refuse(peer, id, {Errc::Invalid, "expected one greeting on a lane"});
        peer.leaving = Guest{.request_id = id, .hello = ask};
        return;
    }
    if (!peer.greeted && peers_.size() - silent_.size() >= config_.clients_max) {
        ++counts_.peers_refused;
        const Error error{Errc::NoCapacity,
                          fmt::format("expected at most {} clients, this is one more", config_.clients_max)};
        if (const auto times = refused_said_.happened(clock_.now())) {
            spdlog::warn("client refused name {} address {} times {} reason \"{}\"", ask.client,
                         peer.lane->peer().address, *times, error.detail);
        }
        return refuse(peer, id, error);
    }
    peer.greeted = true;
    silent_.erase(peer.id);
    peer.name = ask.client;
    send(peer, id,
         wire::Welcome{.incarnation = incarnation_,
                       .node = config_.node_name,
                       .version = config_.version,
                       .local_address = config_.local_address,
                       .shards = config_.shards,
                       .node_id = config_.node_id,
                       .planes = config_.planes,
                       .keeps_near = config_.near_bytes > 0});
}

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::OpenNamespace& ask) {
    if (peer.namespaces.size() + peer.opening >= kNamespacesPerPeerMax) {
        return refuse(peer, id,
                      {Errc::NoCapacity, fmt::format("expected at most {} open namespaces a client, this is "
                                                     "one more",
                                                     kNamespacesPerPeerMax)});
    }
    ++peer.opening;
    ++counts_.meta_questions;
    directory_.open_namespace(
        ask.spec, ask.fingerprint,
        {.uid = peer.lane->peer().uid, .tenant_key = ask.tenant_key, .cluster_key = ask.cluster_key},
        [self = std::weak_ptr(self_), peer_id = peer.id, id,
         by_member = ask.cluster_key.has_value()](Result<NamespaceRecord> record) {
            if (const auto server = self.lock())
                (*server)->open_done(peer_id, id, by_member, std::move(record));
        });
}

void ServerImpl::open_done(PeerId peer_id, std::uint64_t id, bool by_member, Result<NamespaceRecord> record) {
    Peer* peer = find(peer_id);
    if (peer == nullptr) return;  // it left while the controller thought
    --peer->opening;
    if (!record) return refuse(*peer, id, record.error());
    const auto store = memory_->domain(record->domain_id);
    if (!store) return refuse(*peer, id, store.error());
    mover_.know(*record, **store);
    memory_->quotas().set((*store)->space(record->namespace_id), record->quota);
    const wire::NamespaceOpened answer{.namespace_id = record->namespace_id,
                                       .secret = {by_member ? model::Secret{} : record->secret},
                                       .lease_bytes_max = lease_bytes_max_,
                                       .replicas = record->replicas};
    const auto known = std::find_if(peer->namespaces.begin(), peer->namespaces.end(), [&](const auto& space) {
        return space.record.namespace_id == record->namespace_id;
    });
    if (known == peer->namespaces.end())
        peer->namespaces.push_back({std::move(*record), *store, by_member, {}});
    send(*peer, id, answer);
}

void ServerImpl::ask_meta(Peer& peer, std::uint64_t id, wire::Body question) {
    if (peer.asking >= kAsksPerPeerMax) {
        return refuse(peer, id,
                      {Errc::Again, fmt::format("expected at most {} questions to meta at once from a "
                                                "client",
                                                kAsksPerPeerMax)});
    }
    ++peer.asking;
    ++counts_.meta_questions;
    std::pair<std::uint64_t, std::uint64_t> joining{};
    if (const auto* join = std::get_if<wire::Join>(&question))
        joining = {join->member.node_id, join->member.incarnation};
    directory_.ask(std::move(question), peer.lane->peer().uid,
                   [self = std::weak_ptr(self_), peer_id = peer.id, id, joining](Result<wire::Body> answer) {
                       if (const auto server = self.lock())
                           (*server)->meta_answered(peer_id, id, joining, std::move(answer));
                   });
}

void ServerImpl::meta_answered(PeerId peer_id, std::uint64_t id,
                               std::pair<std::uint64_t, std::uint64_t> joining, Result<wire::Body> answer) {
    Peer* peer = find(peer_id);
    const auto [node_id, incarnation] = joining;
    if (peer == nullptr) {
        if (node_id != 0 && answer) directory_.lane_lost(node_id, incarnation);
        return;
    }
    --peer->asking;
    if (!answer) return refuse(*peer, id, answer.error());
    if (node_id != 0) peer->member = true;
    if (node_id != 0) joined_.insert_or_assign(node_id, std::pair(peer_id, incarnation));
    send(*peer, id, std::move(*answer));
}

OpenedNamespace* ServerImpl::opened(Peer& peer, std::uint64_t id, std::uint32_t namespace_id, Right needed) {
    for (auto& space : peer.namespaces) {
        if (space.record.namespace_id != namespace_id) continue;
        if (!space.by_member || needed == Right::ToPut) return &space;
        refuse(peer, id, {Errc::Denied, "a member may ask what is there and put, nothing else"});
        return nullptr;
    }
    refuse(peer, id, {Errc::Denied, fmt::format("namespace {} is not open on this lane", namespace_id)});
    return nullptr;
}

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::StatsRequest&) {
    send(peer, id, wire::Stats{stats()});
}

// ---- sending ----

void ServerImpl::send(Peer& peer, std::uint64_t id, wire::Body body, std::span<const Bytes> gather,
                      std::vector<Held> held) {
    std::uint8_t load = 0;
    if (const auto known = services_.find(peer.tenant); peer.tenant != 0 && known != services_.end())
        load = known->second->pressure.level(clock_.now());
    if (load >= wire::kLoadStores) ++counts_.slowed_answers;
    const Bytes head =
        encoder_.encode({.request_id = id, .epoch = view_->epoch, .body = std::move(body), .load = load});
    if (peer.outbox.empty() && post(peer, head, gather, held)) return;
    peer.outbox.push_back({{head.begin(), head.end()}, {gather.begin(), gather.end()}, std::move(held)});
    if (peer.stuck_since == Instant::never()) peer.stuck_since = clock_.now();
}

void ServerImpl::refuse(Peer& peer, std::uint64_t id, const Error& error) {
    send(peer, id, wire::Failed{error.code, error.detail});
}

// False when the lane is full. On a broken lane the answer is as good as sent.
bool ServerImpl::post(Peer& peer, Bytes head, std::span<const Bytes> gather, std::vector<Held>& held) {
    const transport::Op op{.kind = transport::OpKind::Send,
                           .signal = true,
                           .gather = gather,
                           .head = head,
                           .cookie = next_cookie_};
    const auto posted = peer.lane->post({&op, 1});
    if (!posted && posted.error().code == Errc::Again) return false;
    if (posted && *posted == 0) return false;
    if (!posted) {
        peer.broken = true;
        release(held);
        return true;
    }
    peer.sending.push_back({next_cookie_++, std::move(held)});
    return true;
}

void ServerImpl::flush(Peer& peer) {
    while (!peer.outbox.empty()) {
        auto& next = peer.outbox.front();
        if (!post(peer, next.head, next.gather, next.held)) return;
        peer.outbox.pop_front();
    }
}

void ServerImpl::poll(Peer& peer) {
    // To the end: what a completion lets us post may be complete at once, and wakes nobody.
    while (const std::size_t count = peer.lane->poll(done_)) {
        for (const auto& completion : std::span(done_).first(count)) {
            if (completion.kind != transport::OpKind::Send) {
                put_completion(peer, completion);
                continue;
            }
            if (completion.error) peer.broken = true;
            const auto sent = std::ranges::find(peer.sending, completion.cookie, &Sending::cookie);
            if (sent == peer.sending.end()) continue;
            release(sent->held);
            peer.sending.erase(sent);
        }
        // Something went out: the clock of kSendDeadline starts anew.
        peer.stuck_since = Instant::never();
        advance_puts(peer);
    }
    if (!peer.sending.empty() && peer.stuck_since == Instant::never()) peer.stuck_since = clock_.now();
    if (peer.sending.empty() && peer.outbox.empty()) peer.stuck_since = Instant::never();
}

void ServerImpl::release(const std::vector<Held>& held) {
    for (const auto& [store, extent] : held) store->unhold(extent);
}

}  // namespace cmpool::pool
