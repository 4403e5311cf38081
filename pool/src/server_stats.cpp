// What people see of a shard, and what a test looks for in it.
#include "server_impl.h"
#include "statistics.h"

#include <algorithm>
#include <span>
#include <tuple>

#include <cmpool/wire/load_level.h>

namespace cmpool::pool {

using wire::Adds;

namespace {

constexpr Statistic<StoreCounts> kStoreStatistics[]{
    {"blocks", &StoreCounts::live_blocks},
    {"block_bytes", &StoreCounts::live_bytes},
    {"doomed_bytes", &StoreCounts::doomed_bytes},
    {"writing_bytes", &StoreCounts::writing_bytes},
    {"evicted_blocks", &StoreCounts::evicted_blocks},
    {"evicted_bytes", &StoreCounts::evicted_bytes},
    {"removed_blocks", &StoreCounts::removed_blocks},
    {"moved_blocks", &StoreCounts::moved_blocks},
    {"corrupt_blocks", &StoreCounts::corrupt_blocks},
    {"put_changed", &StoreCounts::changed_blocks},
    {"near_blocks", &StoreCounts::near_blocks},
    {"near_bytes", &StoreCounts::near_bytes},
    {"near_evicted_blocks", &StoreCounts::near_evicted_blocks},
    {"near_kept_blocks", &StoreCounts::near_kept_blocks},
};

template <class Counts>
void add_sums(std::vector<wire::Stat>& stats, std::span<const Statistic<Counts>> statistics,
              std::span<const Counts> parts) {
    for (const auto& [name, number] : statistics) {
        std::uint64_t sum = 0;
        for (const Counts& part : parts) sum += part.*number;
        stats.push_back({std::string(name), sum});
    }
}

}  // namespace

std::vector<wire::Stat> ServerImpl::stats() const {
    std::vector<StoreCounts> stores;
    std::vector<model::ReadCounts> reads{counts_.reads};
    std::uint64_t pages = 0;
    std::uint64_t index_bytes = 0;
    for (const auto& [id, store] : memory_->domains()) {
        stores.push_back(store->counts());
        reads.push_back(store->pins().counts());
        pages += store->pins().pages();
        index_bytes += store->index_bytes();
    }
    std::uint64_t leased_bytes = 0;
    for (const auto& [id, lease] : leases_) leased_bytes += lease.bytes;
    const auto members = static_cast<std::uint64_t>(
        std::ranges::count_if(view_->members, [](const auto& member) { return member.owns(); }));

    std::vector<wire::Stat> stats{
        {"capacity_bytes", memory_->capacity_bytes()},
        {"segment_bytes", memory_->segment_bytes(), Adds::Most},
        {"segments_ready", memory_->segments_ready()},
        {"domains", memory_->domains().size(), Adds::Most},
        {"put_stored", counts_.put_stored},
        {"put_present", counts_.put_present},
        {"put_refused", counts_.put_refused},
        {"put_orphan", counts_.put_orphan},
        {"put_bytes", counts_.put_bytes},
        {"near_capacity_bytes", config_.near_bytes},
        {"near_stored", counts_.near_stored},
        {"near_refused", counts_.near_refused},
        {"leases", leases_.size()},
        {"leased_bytes", leased_bytes},
        {"cooling_bytes", cooling_bytes_},
        {"leases_given", counts_.leases_given},
        {"leases_expired", counts_.leases_expired},
        {"leases_refused", counts_.leases_refused},
        {"slowed_answers", counts_.slowed_answers},
        {"owners_refused", memory_->owners_refused()},
        {"epoch", view_->epoch, Adds::Least},  // what all of them know
        {"members", members, Adds::Most},
        {"meta_questions", counts_.meta_questions},
        {"repair_pending_groups", mover_.pending()},
        {"repair_blocks", mover_.counts().blocks},
        {"repair_bytes", mover_.counts().bytes},
        {"repair_refused_blocks", mover_.counts().refused_blocks},
        {"repair_failures", mover_.counts().failures},
        {"clients", peers_.size(), Adds::Most},  // each is at every shard
        {"client_pages", pages},
        {"clients_refused", counts_.peers_refused},
        {"clients_silent", counts_.peers_silent},
        {"clients_broken", counts_.peers_broken},
        {"clients_stuck", counts_.peers_stuck},
        {"index_bytes", index_bytes},
        {"private_bytes", index_bytes},
    };
    add_sums<StoreCounts>(stats, kStoreStatistics, stores);
    add_sums<model::ReadCounts>(stats, kReadStatistics, reads);
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
            for (const auto& [share, label] : {std::pair(0.5, "p50"), std::pair(0.99, "p99")})
                stats.push_back({fmt::format("{}_wait_{}_ns", prefix, label),
                                 static_cast<std::uint64_t>(waits->quantile(share).count()), Adds::Most});
        }
        stats.push_back(
            {fmt::format("domain_{}_load_level", tenant), each->pressure.level(clock_.now()), Adds::Most});
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
