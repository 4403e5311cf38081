#include "member_lanes.h"

#include "server_impl.h"

#include <algorithm>
#include <array>

#include <spdlog/spdlog.h>

namespace cmpool::pool {

struct MemberLanes::Link final : transport::Receiver {
    Link(MemberLanes& its_owner, const model::Member& to, std::uint32_t its_shard,
         std::unique_ptr<transport::Lane> its_lane)
        : owner(its_owner),
          node_id(to.node_id),
          incarnation(to.incarnation),
          shard(its_shard),
          lane(std::move(its_lane)) {}
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane&, Bytes head, std::uint64_t) override { owner.message(*this, head); }

    MemberLanes& owner;
    std::uint64_t node_id;
    std::uint64_t incarnation;
    std::uint32_t shard;
    std::unique_ptr<transport::Lane> lane;
    bool greeted = false;
    bool failed = false;
    std::unordered_map<std::uint32_t, Space> spaces;
    std::map<std::uint64_t, Request> requests;  ///< by id, so the oldest comes first
};

MemberLanes::MemberLanes(Config config, const Clock& clock, transport::Fabric* network, MemberNews& news,
                         std::function<PeerId()> new_id)
    : config_(std::move(config)), clock_(clock), network_(network), news_(news), new_id_(std::move(new_id)) {}

MemberLanes::~MemberLanes() { close_all(); }

// ---- the way to a shard ----

MemberLanes::Node& MemberLanes::node_of(const model::Member& member) {
    Node& node = nodes_[member.node_id];
    if (node.incarnation == member.incarnation && node.address == member.address) return node;
    // Another process, whatever we knew of the last one.
    for (const auto& [id, link] : lanes_) {
        if (link->node_id == member.node_id) link->failed = true;
    }
    node = {.incarnation = member.incarnation, .address = member.address};
    return node;
}

MemberLanes::Link* MemberLanes::find(std::uint64_t node_id, std::uint32_t shard) const noexcept {
    for (const auto& [id, link] : lanes_) {
        if (link->node_id == node_id && link->shard == shard && !link->failed) return link.get();
    }
    return nullptr;
}

MoverLinks::Way MemberLanes::way(const model::Member& to, std::uint64_t group,
                                 const model::NamespaceRecord& space) {
    const Instant now = clock_.now();
    Node& node = node_of(to);
    if (network_ == nullptr || now < node.again_at) return Way::Shut;
    const std::uint32_t shard = node.shards == 0 ? 0 : model::shard_of(group, node.shards);
    Link* link = find(to.node_id, shard);
    if (link == nullptr) {
        if (lanes_.size() >= kMemberLanesMax && !make_room()) return Way::Opening;
        link = connect(to, shard);
        return link == nullptr ? Way::Shut : Way::Opening;
    }
    if (!link->greeted) return Way::Opening;
    const auto known = link->spaces.find(space.namespace_id);
    if (known != link->spaces.end()) {
        if (known->second.state == Space::State::Open) return Way::Open;
        if (known->second.state == Space::State::Asked) return Way::Opening;
        if (now < known->second.again_at) return Way::Shut;
    } else if (link->spaces.size() >= kNamespacesPerPeerMax) {
        // It keeps no more open for us: begin anew.
        if (link->requests.empty()) link->failed = true;
        return Way::Opening;
    }
    link->spaces.insert_or_assign(space.namespace_id, Space{});
    const bool sent = send(*link, {.asked_as = {}, .opens = space.namespace_id, .until = {}},
                           wire::OpenNamespace{.spec = space.spec,
                                               .tenant_key = {},
                                               .fingerprint = space.spec.fingerprint(),
                                               .cluster_key = config_.cluster_key},
                           {});
    if (!sent) link->spaces.erase(space.namespace_id);
    return Way::Opening;
}

MemberLanes::Link* MemberLanes::connect(const model::Member& to, std::uint32_t shard) {
    auto lane = network_->connect(to.address);
    if (!lane) {
        spdlog::debug("event member_unreachable name {} reason \"{}\"", to.name, lane.error().detail);
        Node& node = nodes_.at(to.node_id);
        node.again_at = clock_.now() + node.wait;
        node.wait = std::min(node.wait * 2, kMemberRetryMax);
        return nullptr;
    }
    const PeerId id = new_id_();
    auto& link = lanes_[id];
    link = std::make_unique<Link>(*this, to, shard, std::move(*lane));
    opened_.push_back(id);
    const bool sent = send(*link, {.asked_as = {}, .opens = 0, .until = {}},
                           wire::Hello{.client = "cmpoold " + config_.name, .shard = shard}, {});
    if (!sent) link->failed = true;
    return link.get();
}

// Closes one that nobody waits for.
bool MemberLanes::make_room() {
    const auto quiet = std::find_if(lanes_.begin(), lanes_.end(),
                                    [](const auto& each) { return each.second->requests.empty(); });
    if (quiet == lanes_.end()) return false;
    close(quiet->first, false);
    return true;
}

bool MemberLanes::ask(const model::Member& to, std::uint64_t group, std::uint64_t id, wire::Body question,
                      std::span<const Bytes> payload) {
    const std::uint32_t shards = nodes_.at(to.node_id).shards;
    Link* link = find(to.node_id, model::shard_of(group, shards));
    return link != nullptr &&
           send(*link, {.asked_as = id, .opens = 0, .until = {}}, std::move(question), payload);
}

bool MemberLanes::send(Link& link, const Request& request, wire::Body body, std::span<const Bytes> payload) {
    const std::uint64_t id = next_request_++;
    const Bytes head = encoder_.encode({.request_id = id, .epoch = epoch_, .body = std::move(body)});
    // An answer tells that all of it has arrived, and what fails completes anyway.
    const transport::Op op{
        .kind = transport::OpKind::Send, .signal = false, .gather = payload, .head = head, .cookie = id};
    const auto posted = link.lane->post({&op, 1});
    if (!posted && posted.error().code != Errc::Again) link.failed = true;
    if (!posted || *posted == 0) return false;
    auto& kept = link.requests[id] = request;
    kept.until = clock_.now() + kMemberDeadline;
    return true;
}

// ---- what comes back ----

Server::Served MemberLanes::serve(PeerId id) {
    Link& link = *lanes_.at(id);
    bool busy = false;
    for (int round = 0; round < kReceivesPerServe && !link.failed; ++round) {
        const auto received = link.lane->receive(link);
        if (!received) fail(link, received.error().detail);
        std::array<transport::Completion, 16> done;
        while (const std::size_t count = link.lane->poll(done)) {
            for (const auto& completion : std::span(done).first(count)) {
                if (completion.error) fail(link, "sending failed");
            }
        }
        busy = received && *received > 0;
        if (!busy) break;
    }
    if (!link.failed) return {.alive = true, .busy = busy};
    close(id, true);
    return {};
}

void MemberLanes::fail(Link& link, const std::string& why) {
    if (link.failed) return;
    link.failed = true;
    spdlog::debug("event member_lane_ended address {} shard {} reason \"{}\"",
                  nodes_.at(link.node_id).address, link.shard, why);
}

void MemberLanes::message(Link& link, Bytes head) {
    const auto message = decoder_.decode(head);
    if (!message) return fail(link, message.error().detail);
    if (message->epoch > epoch_) news_.heard_of(message->epoch);
    const auto asked = link.requests.extract(message->request_id);
    if (!asked) return;  // a view that it tells us unasked
    const Request& request = asked.mapped();
    if (!request.asked_as) return opening_answered(link, request, message->body);
    nodes_.at(link.node_id).wait = kMemberRetryMin;
    news_.answered(*request.asked_as, message->body);
}

void MemberLanes::opening_answered(Link& link, const Request& request, const wire::Body& body) {
    if (const auto* welcome = std::get_if<wire::Welcome>(&body); welcome != nullptr && request.opens == 0) {
        link.greeted = true;
        nodes_.at(link.node_id).shards = welcome->shards;
        return;
    }
    if (std::holds_alternative<wire::NamespaceOpened>(body) && request.opens != 0) {
        link.spaces[request.opens].state = Space::State::Open;
        return;
    }
    const auto* refused = std::get_if<wire::Failed>(&body);
    const std::string why = refused != nullptr ? refused->detail : "it answered something else";
    if (request.opens == 0) return fail(link, why);
    spdlog::warn("event member_refused address {} namespace {} reason \"{}\"",
                 nodes_.at(link.node_id).address, request.opens, why);
    link.spaces[request.opens] = {Space::State::Refused, clock_.now() + kMemberRetryMax};
}

void MemberLanes::tick() {
    const Instant now = clock_.now();
    std::vector<PeerId> dead;
    for (const auto& [id, link] : lanes_) {
        const auto late = [&](const auto& each) { return each.second.until <= now; };
        if (!link->failed && !link->requests.empty() && late(*link->requests.begin()))
            fail(*link, "it did not answer in time");
        if (link->failed) dead.push_back(id);
    }
    for (const PeerId id : dead) close(id, true);
}

void MemberLanes::close(PeerId id, bool failed) {
    const auto link = std::move(lanes_.extract(id).mapped());
    // No payload of ours is touched any more once it is quiet.
    (void)link->lane->quiesce(kSendDeadline);
    if (Node& node = nodes_.at(link->node_id); failed && node.incarnation == link->incarnation) {
        node.again_at = clock_.now() + node.wait;
        node.wait = std::min(node.wait * 2, kMemberRetryMax);
        node.shards = 0;
    }
    for (const auto& [number, request] : link->requests) {
        if (request.asked_as) news_.lost(*request.asked_as);
    }
}

void MemberLanes::close_all() {
    while (!lanes_.empty()) close(lanes_.begin()->first, false);
    nodes_.clear();
}

transport::Lane* MemberLanes::lane_of(PeerId id) const noexcept {
    const auto found = lanes_.find(id);
    return found == lanes_.end() ? nullptr : found->second->lane.get();
}

void MemberLanes::drop(PeerId id) { close(id, true); }

}  // namespace cmpool::pool
