#include <algorithm>

#include <cmpool/base/assert.h>
#include <cmpool/pool/turns.h>

namespace cmpool::pool {

namespace {

/// Tenants that are remembered though none of their clients waits.
constexpr std::size_t kTenantsKept = 64;

}  // namespace

void Turns::add(const Turn& turn) {
    Queue& queue = queues_[static_cast<std::size_t>(turn.work)];
    Tenant& tenant = queue.tenants[turn.tenant];
    // Who has asked for less than its part goes first for a while, and not for as long as it was away.
    if (tenant.waiting.empty()) tenant.had = std::max(tenant.had, queue.now - kTurnCredit);
    tenant.waiting.push_back(turn);
    ++queue.count;
    ++count_;
}

Work Turns::choose() {
    std::size_t first = 0;
    while (queues_[first].count == 0) ++first;
    std::size_t later = first + 1;
    while (later < kWorks && queues_[later].count == 0) ++later;
    if (later == kWorks || in_a_row_ < kTurnsInARow) {
        in_a_row_ = later == kWorks ? 0 : in_a_row_ + 1;
        return static_cast<Work>(first);
    }
    in_a_row_ = 0;
    return static_cast<Work>(later);
}

Turns::Turn Turns::next() {
    CMPOOL_ASSERT(count_ > 0);
    Queue& queue = queues_[static_cast<std::size_t>(choose())];
    auto least = queue.tenants.end();
    for (auto at = queue.tenants.begin(); at != queue.tenants.end(); ++at) {
        if (at->second.waiting.empty()) continue;
        const bool less = least == queue.tenants.end() || at->second.had < least->second.had ||
                          (at->second.had == least->second.had &&
                           at->second.waiting.front().since < least->second.waiting.front().since);
        if (less) least = at;
    }
    const Turn turn = least->second.waiting.front();
    least->second.waiting.pop_front();
    queue.now = std::max(queue.now, least->second.had);
    --queue.count;
    --count_;
    return turn;
}

void Turns::spent(const Turn& turn, Nanos time) {
    Queue& queue = queues_[static_cast<std::size_t>(turn.work)];
    const auto tenant = queue.tenants.find(turn.tenant);
    if (tenant == queue.tenants.end()) return;
    tenant->second.had += time;
    if (queue.tenants.size() <= kTenantsKept) return;
    // Whoever is ahead of the clock owes the others time; the rest need not be remembered.
    std::erase_if(queue.tenants, [&](const auto& each) {
        return each.second.waiting.empty() && each.second.had <= queue.now - kTurnCredit;
    });
}

}  // namespace cmpool::pool
