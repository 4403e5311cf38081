// What people see of a shard, and what a test looks for in it.
#include "server_impl.h"

#include <algorithm>
#include <tuple>

#include <cmpool/wire/load_level.h>

namespace cmpool::pool {

std::vector<wire::Stat> ServerImpl::stats() const {
    StoreCounts blocks;
    ClientCounts clients;
    std::size_t pages = 0;
    for (const auto& [id, store] : memory_->domains()) {
        const auto& counts = store->counts();
        blocks.live_blocks += counts.live_blocks;
        blocks.live_bytes += counts.live_bytes;
        blocks.doomed_bytes += counts.doomed_bytes;
        blocks.writing_bytes += counts.writing_bytes;
        blocks.evicted_blocks += counts.evicted_blocks;
        blocks.evicted_bytes += counts.evicted_bytes;
        blocks.removed_blocks += counts.removed_blocks;
        blocks.moved_blocks += counts.moved_blocks;
        blocks.corrupt_blocks += counts.corrupt_blocks;
        blocks.changed_blocks += counts.changed_blocks;
        blocks.near_blocks += counts.near_blocks;
        blocks.near_bytes += counts.near_bytes;
        blocks.near_evicted_blocks += counts.near_evicted_blocks;
        blocks.near_kept_blocks += counts.near_kept_blocks;
        const auto from_clients = store->pins().counts();
        clients.match_calls += from_clients.match_calls;
        clients.match_blocks_asked += from_clients.match_blocks_asked;
        clients.match_blocks_hit += from_clients.match_blocks_hit;
        clients.get_blocks_hit += from_clients.get_blocks_hit;
        clients.get_blocks_missed += from_clients.get_blocks_missed;
        clients.get_bytes += from_clients.get_bytes;
        clients.stale_reads += from_clients.stale_reads;
        clients.broken_seals += from_clients.broken_seals;
        clients.near_hits += from_clients.near_hits;
        pages += store->pins().pages();
    }
    std::uint64_t leased_bytes = 0;
    for (const auto& [id, lease] : leases_) leased_bytes += lease.bytes;
    std::uint64_t index_bytes = 0;
    for (const auto& [id, store] : memory_->domains()) index_bytes += store->index_bytes();

    std::vector<wire::Stat> stats{
        {"capacity_bytes", memory_->capacity_bytes()},
        {"segment_bytes", memory_->segment_bytes()},
        {"segments_ready", memory_->segments_ready()},
        {"domains", memory_->domains().size()},
        {"blocks", blocks.live_blocks},
        {"block_bytes", blocks.live_bytes},
        {"doomed_bytes", blocks.doomed_bytes},
        {"writing_bytes", blocks.writing_bytes},
        {"evicted_blocks", blocks.evicted_blocks},
        {"evicted_bytes", blocks.evicted_bytes},
        {"removed_blocks", blocks.removed_blocks},
        {"moved_blocks", blocks.moved_blocks},
        {"corrupt_blocks", blocks.corrupt_blocks},
        {"match_calls", counts_.match_calls + clients.match_calls},
        {"match_blocks_asked", counts_.match_blocks_asked + clients.match_blocks_asked},
        {"match_blocks_hit", counts_.match_blocks_hit + clients.match_blocks_hit},
        {"get_hits", counts_.get_hits + clients.get_blocks_hit},
        {"get_misses", counts_.get_misses + clients.get_blocks_missed},
        {"get_bytes", counts_.get_bytes + clients.get_bytes},
        {"stale_reads", clients.stale_reads},
        {"broken_seals", counts_.broken_seals + clients.broken_seals},
        {"put_stored", counts_.put_stored},
        {"put_present", counts_.put_present},
        {"put_refused", counts_.put_refused},
        {"put_orphan", counts_.put_orphan},
        {"put_changed", blocks.changed_blocks},
        {"put_bytes", counts_.put_bytes},
        {"near_capacity_bytes", config_.near_bytes},
        {"near_bytes", blocks.near_bytes},
        {"near_blocks", blocks.near_blocks},
        {"near_hits", counts_.near_hits + clients.near_hits},
        {"near_stored", counts_.near_stored},
        {"near_refused", counts_.near_refused},
        {"near_evicted_blocks", blocks.near_evicted_blocks},
        {"near_kept_blocks", blocks.near_kept_blocks},
        {"leases", leases_.size()},
        {"leased_bytes", leased_bytes},
        {"cooling_bytes", cooling_bytes_},
        {"leases_given", counts_.leases_given},
        {"leases_expired", counts_.leases_expired},
        {"leases_refused", counts_.leases_refused},
        {"slowed_answers", counts_.slowed_answers},
        {"owners_refused", memory_->owners_refused()},
        {"epoch", view_->epoch},
        {"members", static_cast<std::uint64_t>(std::ranges::count_if(
                        view_->members, [](const auto& member) { return member.owns(); }))},
        {"meta_questions", counts_.meta_questions},
        {"repair_pending_groups", mover_.pending()},
        {"repair_blocks", mover_.counts().blocks},
        {"repair_bytes", mover_.counts().bytes},
        {"repair_refused_blocks", mover_.counts().refused_blocks},
        {"repair_failures", mover_.counts().failures},
        {"clients", peers_.size()},
        {"client_pages", pages},
        {"clients_refused", counts_.peers_refused},
        {"clients_silent", counts_.peers_silent},
        {"clients_broken", counts_.peers_broken},
        {"clients_stuck", counts_.peers_stuck},
        {"index_bytes", index_bytes},
        {"private_bytes", index_bytes},
    };
    const std::array<wire::Body, 16> requests{
        wire::Join{},    wire::Renew{},         wire::Resolve{},      wire::ViewRequest{},
        wire::Hello{},   wire::OpenNamespace{}, wire::Attach{},       wire::Match{},
        wire::Release{}, wire::Exists{},        wire::Get{},          wire::Remove{},
        wire::Put{},     wire::List{},          wire::StatsRequest{}, wire::BrokenSeals{}};
    for (const auto& body : requests) {
        stats.push_back({fmt::format("messages_{}", wire::name_of(body)), counts_.messages[body.index()]});
    }
    add_tenant_stats(stats);
    if (config_.add_host_stats) config_.add_host_stats(stats);
    return stats;
}

bool ServerImpl::holds(const model::Digest& block) const {
    return std::any_of(memory_->domains().begin(), memory_->domains().end(),
                       [&](const auto& domain) { return domain.second->find(block) != kNoExtent; });
}

// By number: whose they are is their tenants' business.
void ServerImpl::add_tenant_stats(std::vector<wire::Stat>& stats) const {
    std::vector<std::pair<std::uint32_t, const Space*>> spaces;
    for (const auto& [id, space] : memory_->quotas().spaces()) spaces.emplace_back(id, &space);
    std::ranges::sort(spaces, [](const auto& one, const auto& other) {
        return std::tuple(other.second->used_bytes, one.first) <
               std::tuple(one.second->used_bytes, other.first);
    });
    if (spaces.size() > kSpacesShown) spaces.resize(kSpacesShown);
    for (const auto& [id, space] : spaces) {
        stats.push_back({fmt::format("namespace_{}_bytes", id), space->used_bytes});
        stats.push_back({fmt::format("namespace_{}_quota_bytes", id), space->quota_bytes});
        stats.push_back({fmt::format("namespace_{}_evicted_bytes", id), space->evicted_bytes});
        stats.push_back({fmt::format("namespace_{}_expired_bytes", id), space->expired_bytes});
    }
    std::size_t shown = 0;
    for (const auto& [tenant, each] : services_) {
        if (++shown > kSpacesShown) break;
        for (const auto& [name, waits] :
             {std::pair("load", &each->loads), std::pair("store", &each->stores)}) {
            const auto prefix = fmt::format("domain_{}_{}", tenant, name);
            stats.push_back({prefix + "s", waits->count()});
            stats.push_back(
                {prefix + "_wait_p50_ns", static_cast<std::uint64_t>(waits->quantile(0.5).count())});
            stats.push_back(
                {prefix + "_wait_p99_ns", static_cast<std::uint64_t>(waits->quantile(0.99).count())});
        }
        stats.push_back({fmt::format("domain_{}_load_level", tenant), each->pressure.level(clock_.now())});
    }
}

std::string ServerImpl::check_invariants() const {
    if (auto broken = memory_->check_invariants(); !broken.empty()) return broken;
    std::uint64_t held = mover_.holds();
    for (const auto& [id, lease] : leases_) held += lease.extents.size();
    for (const auto& [id, peer] : peers_) {
        for (const auto& outgoing : peer->outbox) held += outgoing.held.size();
        for (const auto& sending : peer->sending) held += sending.held.size();
    }
    std::uint64_t holds = 0;
    for (const auto& [id, store] : memory_->domains()) holds += store->holds();
    if (held != holds) return fmt::format("{} extents are held by somebody, {} holds counted", held, holds);
    return {};
}

}  // namespace cmpool::pool
