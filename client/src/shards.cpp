#include "shards.h"

#include <algorithm>

#include <cmpool/base/assert.h>

namespace cmpool::client {

Shards::Shards(const Environment& environment, PoolUri uri, NamespaceSpec spec)
    : environment_(environment),
      uri_(std::move(uri)),
      spec_(std::move(spec)),
      windows_(environment),
      seeds_(1 + uri_.others.size()) {
    add_node(uri_.address, 0);
    for (const auto& address : uri_.others) add_node(address, 0);
    if (uri_.seal_key)
        sealer_ = std::make_unique<Sealer>(*uri_.seal_key, this->spec(), *environment_.entropy);
}

// ---- servers and their shards ----

void Shards::add_node(std::string address, std::uint64_t node_id) {
    auto free = std::find_if(nodes_.begin(), nodes_.end(), [](const Node& node) { return !node.named; });
    if (free == nodes_.end()) free = nodes_.insert(nodes_.end(), Node{});
    *free = Node{.node_id = node_id, .address = std::move(address), .shards = {}};
    free->shards.push_back(add_session(*free, 0));
}

std::uint32_t Shards::add_session(const Node& node, std::uint32_t shard) {
    PoolUri uri = uri_;
    uri.address = node.address;
    auto session = std::make_shared<Session>(environment_, std::move(uri), spec_, shard, book_);
    if (free_.empty()) {
        sessions_.push_back(std::move(session));
        return count() - 1;
    }
    const std::uint32_t number = free_.back();
    free_.pop_back();
    sessions_[number] = std::move(session);
    return number;
}

void Shards::progress() {
    // Handlers may add sessions: by number, not by iterator.
    for (std::uint32_t shard = 0; shard < count(); ++shard) sessions_[shard]->progress();
    windows_.follow_planes();
    for (std::size_t at = 0; at < nodes_.size(); ++at) {
        Node& node = nodes_[at];
        if (node.shards.empty()) continue;
        const Session& first = *sessions_[node.shards.front()];
        if (node.node_id == 0) node.node_id = first.node_id();
        if (first.shards() != node.count) follow(node);
    }
    find_home();
    const std::uint32_t replicas = std::max(home_session().replicas(), 1u);
    if (book_->news || (placement_ != nullptr && replicas != placement_->replicas())) adopt();
    if (letting_go_) let_go();
    find_near();
    near_keeper_.progress();
}

// A server that was started again may have another number of shards.
void Shards::follow(Node& node) {
    const std::uint32_t before = node.count;
    node.count = sessions_[node.shards.front()]->shards();
    for (std::uint32_t shard = before; shard < node.count; ++shard) {
        if (shard == node.shards.size()) {
            node.shards.push_back(add_session(node, shard));
        } else {
            // It was closed when the server had fewer.
            PoolUri uri = uri_;
            uri.address = node.address;
            sessions_[node.shards[shard]] =
                std::make_shared<Session>(environment_, std::move(uri), spec_, shard, book_);
        }
        sessions_[node.shards[shard]]->progress();
    }
    // A call that has yet to ask one of those finds it closed.
    for (std::uint32_t shard = node.count; shard < before; ++shard) sessions_[node.shards[shard]]->close();
}

// Until a view says more the first of the URI's servers that answers is the pool.
void Shards::find_home() {
    const std::size_t candidates = placement_ != nullptr ? nodes_.size() : seeds_;
    if (candidates == 1) return;
    const auto well = [&](const Node& node) {
        return node.named && !node.shards.empty() && answers(node.shards.front());
    };
    if (well(nodes_[home_])) return;
    for (std::size_t at = 0; at < candidates; ++at) {
        if (!well(nodes_[at])) continue;
        home_ = at;
        return;
    }
}

// Of several on this host the first. Where there is one node all blocks are its own.
void Shards::find_near() {
    near_node_.reset();
    if (placement_ == nullptr || nodes_.size() == 1) return;
    for (std::size_t at = 0; at < nodes_.size(); ++at) {
        const Node& node = nodes_[at];
        if (!node.named || node.shards.empty() || !sessions_[node.shards.front()]->keeps_near()) continue;
        near_node_ = at;
        return;
    }
}

Shards::Node* Shards::node_of(const model::Member& member) {
    Node* by_address = nullptr;
    for (Node& node : nodes_) {
        if (!node.named) continue;
        if (node.node_id == member.node_id && (node.address == member.address || is_seed(node))) return &node;
        if (node.node_id == 0 && node.address == member.address) by_address = &node;
    }
    return by_address;
}

void Shards::adopt() {
    book_->news = false;
    const model::View& view = book_->view;
    for (Node& node : nodes_) {
        if (node.node_id == 0 && !node.shards.empty())
            node.node_id = sessions_[node.shards.front()]->node_id();
    }
    for (const auto& member : view.members) {
        Node* node = node_of(member);
        if (node == nullptr && member.state != model::MemberState::Down && nodes_.size() < kNodesMax) {
            add_node(member.address, member.node_id);
        } else if (node != nullptr) {
            node->node_id = member.node_id;
        }
    }
    letting_go_ = true;
    const auto owning = std::count_if(view.members.begin(), view.members.end(),
                                      [](const auto& member) { return member.owns(); });
    const bool alone =
        owning == 0 ||
        (owning == 1 && std::any_of(view.members.begin(), view.members.end(), [&](const auto& member) {
             return member.owns() && member.node_id == nodes_[home_].node_id;
         }));
    const bool drained = std::any_of(view.members.begin(), view.members.end(),
                                     [](const auto& member) { return member.drains(); });
    if (alone && !drained) {
        placement_.reset();
        before_.reset();
        return;
    }
    const std::uint32_t replicas = std::clamp(home_session().replicas(), 1u, model::kReplicasMax);
    if (placement_ == nullptr || placement_->replicas() != replicas)
        placement_ = std::make_unique<model::Placement>(replicas);
    placement_->follow(view);
    node_of_seat_.assign(placement_->seats(), home_);
    for (std::size_t seat = 0; seat < placement_->seats(); ++seat) {
        const auto& member = placement_->member(static_cast<model::Placement::Seat>(seat));
        if (member.node_id == 0) continue;
        if (const Node* node = node_of(member))
            node_of_seat_[seat] = static_cast<std::size_t>(node - nodes_.data());
    }
    drained ? seat_drainers(view, replicas) : before_.reset();
}

// Who drains has the blocks that it owned while it served, until others have them.
void Shards::seat_drainers(const model::View& view, std::uint32_t replicas) {
    model::View served = view;
    for (auto& member : served.members) {
        if (member.drains()) member.state = model::MemberState::Serving;
    }
    if (before_ == nullptr || before_->replicas() != replicas)
        before_ = std::make_unique<model::Placement>(replicas);
    before_->follow(served);
    drainer_of_seat_.assign(before_->seats(), std::nullopt);
    for (const auto& member : view.members) {
        if (!member.drains()) continue;
        const auto seat = before_->seat_of(member.node_id);
        if (const Node* node = node_of(member))
            drainer_of_seat_[seat] = static_cast<std::size_t>(node - nodes_.data());
    }
}

// Servers that have gone for good give their numbers back; those of the URI stay, to be asked again. Not
// from where a session's answer is heard: it might be that session's end.
void Shards::let_go() {
    letting_go_ = false;
    const auto& members = book_->view.members;
    for (std::size_t at = seeds_; at < nodes_.size(); ++at) {
        Node& node = nodes_[at];
        const bool there = std::any_of(members.begin(), members.end(), [&](const auto& member) {
            return member.node_id == node.node_id && member.address == node.address;
        });
        if (there || !node.named || at == home_) continue;
        node.named = false;
        for (const std::uint32_t shard : std::exchange(node.shards, {})) {
            sessions_[shard]->close();
            free_.push_back(shard);
        }
    }
}

// ---- where blocks are ----

std::span<const std::uint32_t> Shards::owners(std::uint64_t group, const Digest& key, Owners& into) noexcept {
    const std::uint64_t whole = group != 0 ? group : key.prefix();
    if (placement_ == nullptr) {
        into[0] = of_node(nodes_[home_], whole);
        return std::span(into).first(1);
    }
    std::size_t found = 0;
    for (const auto seat : placement_->owners(whole)) {
        if (seat == model::Placement::kNobody) break;
        into[found++] = of_node(nodes_[node_of_seat_[seat]], whole);
    }
    return std::span(into).first(found);
}

std::uint32_t Shards::best_owner(std::uint64_t group) noexcept {
    std::optional<std::uint32_t> first;
    for (const auto seat : placement_->owners(group)) {
        if (seat == model::Placement::kNobody) break;
        const std::uint32_t shard = of_node(nodes_[node_of_seat_[seat]], group);
        if (answers(shard)) return shard;
        if (!first) first = shard;
    }
    return first.value_or(nodes_[home_].shards.front());
}

bool Shards::may_answer(std::uint32_t shard) const noexcept {
    return !sessions_[shard]->hopeless() && !sessions_[shard]->refused();
}

std::optional<std::uint32_t> Shards::next(std::uint64_t group, const Digest& key,
                                          std::span<const std::uint32_t> asked) noexcept {
    if (placement_ == nullptr) return std::nullopt;
    const auto unasked = [&](std::uint32_t shard) {
        return may_answer(shard) && std::find(asked.begin(), asked.end(), shard) == asked.end();
    };
    Owners into;
    for (const std::uint32_t shard : owners(group, key, into)) {
        if (unasked(shard)) return shard;
    }
    if (before_ == nullptr) return std::nullopt;
    const std::uint64_t whole = group != 0 ? group : key.prefix();
    for (const auto seat : before_->owners(whole)) {
        if (seat == model::Placement::kNobody) break;
        if (!drainer_of_seat_[seat]) continue;
        const std::uint32_t shard = of_node(nodes_[*drainer_of_seat_[seat]], whole);
        if (unasked(shard)) return shard;
    }
    return std::nullopt;
}

std::optional<std::uint32_t> Shards::near_copy(std::uint32_t owner, std::uint64_t group,
                                               const Digest& key) const noexcept {
    if (!near_node_ || sessions_[owner]->attachment() != nullptr) return std::nullopt;
    const std::uint32_t shard = of_node(nodes_[*near_node_], group != 0 ? group : key.prefix());
    const auto& memory = sessions_[shard]->attachment();
    if (memory == nullptr || !memory->probe(key)) return std::nullopt;
    return shard;
}

std::optional<std::uint32_t> Shards::near_shard(std::uint64_t group, const Digest& key) noexcept {
    if (!near_node_) return std::nullopt;
    const std::uint32_t shard = of_node(nodes_[*near_node_], group != 0 ? group : key.prefix());
    Owners into;
    const auto all = owners(group, key, into);
    const bool ours = std::find(all.begin(), all.end(), shard) != all.end();
    return ours ? std::nullopt : std::optional(shard);
}

std::span<const std::uint32_t> Shards::of_member(std::uint64_t node_id) const noexcept {
    for (const Node& node : nodes_) {
        if (node.named && node.node_id == node_id && !node.shards.empty())
            return std::span(node.shards).first(node.count);
    }
    return {};
}

bool Shards::in_use(std::uint32_t shard) const noexcept {
    const auto has = [&](const Node& node) {
        const auto end =
            node.shards.begin() +
            std::min<std::ptrdiff_t>(node.count, static_cast<std::ptrdiff_t>(node.shards.size()));
        return std::find(node.shards.begin(), end, shard) != end;
    };
    if (placement_ == nullptr) return has(nodes_[home_]);
    return std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) {
        return node.named && has(node) &&
               std::any_of(book_->view.members.begin(), book_->view.members.end(), [&](const auto& member) {
                   return member.node_id == node.node_id && member.state != model::MemberState::Down;
               });
    });
}

// ---- how they are ----

Instant Shards::next_deadline() const noexcept {
    Instant next = near_keeper_.next_deadline();
    for (const auto& session : sessions_) next = std::min(next, session->next_deadline());
    return next;
}

std::span<transport::Lane* const> Shards::lanes() {
    lanes_.clear();
    for (const auto& session : sessions_) session->add_lanes(lanes_);
    return lanes_;
}

const model::Digester* Shards::digester() const noexcept {
    for (const auto& session : sessions_) {
        if (session->digester() != nullptr) return session->digester();
    }
    return nullptr;
}

bool Shards::ready() const noexcept {
    if (count() == 1) return answers(0);
    for (std::uint32_t shard = 0; shard < count(); ++shard) {
        if (!answers(shard) && in_use(shard)) return false;
    }
    return true;
}

bool Shards::undecided() const noexcept {
    if (count() == 1) return undecided(0);
    // Of several servers that the URI names one will do.
    if (placement_ == nullptr && seeds_ > 1 && !answers(nodes_[home_].shards.front())) {
        for (std::size_t at = 0; at < seeds_; ++at) {
            if (undecided(nodes_[at].shards.front())) return true;
        }
        return false;
    }
    for (std::uint32_t shard = 0; shard < count(); ++shard) {
        if (undecided(shard) && in_use(shard)) return true;
    }
    return false;
}

bool Shards::connecting() const noexcept {
    return std::any_of(sessions_.begin(), sessions_.end(),
                       [](const auto& session) { return session->reader().connecting(); });
}

void Shards::forget(Asker& asker) {
    for (const auto& session : sessions_) session->forget(asker);
}

void Shards::give_up(Asker& asker, const Error& why) {
    for (const auto& session : sessions_) {
        if (session->forget(asker)) session->overdue(why);
    }
}

void Shards::fail_over(Asker& asker, const Error& why) {
    std::vector<std::uint64_t> lost;
    for (const auto& session : sessions_) {
        const auto parts = session->parts_of(asker);
        if (parts.empty()) continue;
        session->forget_requests(asker);
        session->overdue(why);
        lost.insert(lost.end(), parts.begin(), parts.end());
    }
    // Whoever is told asks others at once: only now, or what they owe would look overdue too.
    for (const std::uint64_t part : lost) asker.lost(part, why);
}

void Shards::overdue(const Error& why) {
    for (std::uint32_t shard = 0; shard < count(); ++shard) {
        Session& session = *sessions_[shard];
        if (!session.ready() && in_use(shard)) session.overdue(session.trouble().value_or(why));
    }
}

// The pool is told, for whoever looks after it: in mapped memory, or one way.
void Shards::broken_seals(std::uint32_t shard, std::uint32_t blocks) {
    if (blocks == 0) return;
    sealer_->broken += blocks;
    Session& session = *sessions_[shard];
    if (session.attachment() != nullptr) return session.attachment()->count_broken(blocks);
    session.tell(wire::BrokenSeals{blocks});
}

Status Shards::status() const {
    Status status = home_session().status();
    status.stores_delayed = held_back_.stores_delayed;
    status.stores_dropped = held_back_.stores_dropped;
    status.loads_delayed = held_back_.loads_delayed;
    if (sealer_ != nullptr) status.broken_seals = sealer_->broken;
    status.epoch = epoch();
    for (std::uint32_t shard = 0; shard < count(); ++shard) {
        if (!in_use(shard)) continue;
        const Session& session = *sessions_[shard];
        ++status.shards;
        if (session.attachment() != nullptr) ++status.shards_mapped;
        if (session.ready() && !session.hopeless()) continue;
        status.ready = false;
        status.trouble = session.trouble();
    }
    for (const auto& member : book_->view.members) {
        if (!member.owns()) continue;
        ++status.members;
        const auto shards = of_member(member.node_id);
        if (shards.empty()) continue;
        if (std::all_of(shards.begin(), shards.end(), [&](std::uint32_t shard) { return answers(shard); }))
            ++status.members_ready;
    }
    // The pool is there where any member of it is.
    if (placement_ != nullptr && status.members_ready > 0) status.ready = true;
    return status;
}

}  // namespace cmpool::client
