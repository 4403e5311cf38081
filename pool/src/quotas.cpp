#include "quotas.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

namespace cmpool::pool {

bool Claim::before(const Space& one, std::uint64_t one_touched, const Space& other,
                   std::uint64_t other_touched) const noexcept {
    // An owner gives up what is its own last; a borrower is one borrower among others.
    const auto key = [&](const Space& space, std::uint64_t touched) {
        const bool last = owns_ && &space == &asker_;
        return std::tuple(last, !space.near, space.priority(), touched);
    };
    return key(one, one_touched) < key(other, other_touched);
}

Space& Quotas::space(std::uint32_t namespace_id, std::uint32_t domain_id) {
    return spaces_.try_emplace(namespace_id, Space{.domain_id = domain_id}).first->second;
}

Space& Quotas::near_space(std::uint32_t namespace_id, std::uint32_t domain_id) {
    return near_spaces_.try_emplace(namespace_id, Space{.domain_id = domain_id, .near = true}).first->second;
}

std::uint64_t Quotas::near_bytes() const noexcept {
    std::uint64_t bytes = 0;
    for (const auto& [id, space] : near_spaces_) bytes += space.used_bytes;
    return bytes;
}

std::uint32_t Quotas::domain_with_most_near() const {
    std::map<std::uint32_t, std::uint64_t> bytes;
    for (const auto& [id, space] : near_spaces_) bytes[space.domain_id] += space.used_bytes;
    const auto most = std::ranges::max_element(bytes, {}, [](const auto& each) { return each.second; });
    return most == bytes.end() ? 0 : most->first;
}

Space* Quotas::find(std::uint32_t namespace_id) noexcept {
    const auto known = spaces_.find(namespace_id);
    return known == spaces_.end() ? nullptr : &known->second;
}

// 128 bits, since both factors may have 64.
std::uint64_t Quotas::part_of(std::uint64_t bytes) const noexcept {
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>(Wide{bytes} * part_ / whole_);
}

void Quotas::set(Space& space, const model::Quota& quota) {
    quotas_bytes_ -= space.quota_bytes;
    space.whole = quota;
    space.quota_bytes = part_of(quota.bytes);
    quotas_bytes_ += space.quota_bytes;
}

void Quotas::set_part(std::uint64_t part, std::uint64_t whole) {
    part_ = part;
    whole_ = std::max<std::uint64_t>(whole, 1);
    for (auto& [id, space] : spaces_) set(space, space.whole);
}

std::vector<std::size_t> Quotas::entitled(std::span<const DomainSegments> all, std::size_t total,
                                          std::uint64_t segment_bytes) const {
    std::vector<double> wanted(all.size());
    for (std::size_t at = 0; at < all.size(); ++at) {
        for (const auto& [id, space] : spaces_) {
            if (space.domain_id == all[at].domain_id)
                wanted[at] += static_cast<double>(space.quota_bytes) / static_cast<double>(segment_bytes);
        }
    }
    std::vector<std::size_t> segments(all.size());
    const auto rounded_up = [](double each) { return static_cast<std::size_t>(each + 0.999'999); };
    std::ranges::transform(wanted, segments.begin(), rounded_up);
    if (std::accumulate(segments.begin(), segments.end(), std::size_t{0}) <= total) return segments;

    const double sum = std::accumulate(wanted.begin(), wanted.end(), 0.0);
    const double scale = std::min(1.0, static_cast<double>(total) / sum);
    std::size_t left = total;
    std::vector<std::pair<double, std::size_t>> remainders;
    for (std::size_t at = 0; at < all.size(); ++at) {
        segments[at] = static_cast<std::size_t>(wanted[at] * scale);
        remainders.emplace_back(static_cast<double>(segments[at]) - wanted[at] * scale, at);
        left -= std::min(left, segments[at]);
    }
    std::ranges::sort(remainders);
    for (std::size_t next = 0; next < remainders.size() && left > 0 && remainders[next].first < 0;
         ++next, --left) {
        ++segments[remainders[next].second];
    }
    return segments;
}

std::uint32_t Quotas::lowest_borrower(const Claim& claim, std::uint32_t domain_id) const noexcept {
    std::uint32_t lowest = UINT32_MAX;
    for (const auto& [id, space] : spaces_) {
        if (space.domain_id != domain_id || &space == &claim.asker() || claim.allowance(space) == 0) continue;
        lowest = std::min(lowest, space.priority());
    }
    return lowest;
}

std::vector<std::uint32_t> Quotas::givers(const Claim& claim, std::span<const DomainSegments> all,
                                          std::size_t total, std::uint64_t segment_bytes) const {
    const auto keeps = entitled(all, total, segment_bytes);
    const auto lent = [&](std::size_t at) {
        return all[at].segments > keeps[at] ? all[at].segments - keeps[at] : 0;
    };
    std::size_t own_lent = 0;
    for (std::size_t at = 0; at < all.size(); ++at) {
        if (all[at].domain_id == claim.asker().domain_id) own_lent = lent(at);
    }
    struct Giver {
        std::uint32_t priority;
        std::size_t lent;
        std::uint32_t domain_id;
    };
    std::vector<Giver> found;
    for (std::size_t at = 0; at < all.size(); ++at) {
        const std::uint32_t domain_id = all[at].domain_id;
        if (domain_id == claim.asker().domain_id || lent(at) == 0) continue;
        const std::uint32_t lowest = lowest_borrower(claim, domain_id);
        const bool empty = std::ranges::none_of(spaces_, [&](const auto& each) {
            return each.second.domain_id == domain_id && each.second.borrowed_bytes() > 0;
        });
        if (lowest == UINT32_MAX && !empty) continue;
        // Equals share what is lent, and give up a segment only to who has clearly less of it.
        const bool equals = !claim.owns() && !empty && lowest == claim.asker().priority();
        if (equals && lent(at) < own_lent + 2) continue;
        found.push_back({empty ? 0 : lowest, lent(at), domain_id});
    }
    std::ranges::sort(found, [](const Giver& one, const Giver& other) {
        return std::tuple(one.priority, other.lent, one.domain_id) <
               std::tuple(other.priority, one.lent, other.domain_id);
    });
    std::vector<std::uint32_t> givers;
    givers.reserve(found.size());
    for (const auto& each : found) givers.push_back(each.domain_id);
    return givers;
}

}  // namespace cmpool::pool
