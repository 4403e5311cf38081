#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include <cmpool/base/assert.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/model/placement.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace cmpool::model {
namespace {

constexpr std::uint64_t kShardSeed = 0x73686172640a;
constexpr std::uint64_t kSlotSeed = 0x736c6f740a;
constexpr std::uint32_t kSlots = std::uint32_t{1} << kSlotBits;

std::uint64_t mix(std::uint64_t word, std::uint64_t seed) noexcept {
    return XXH3_64bits_withSeed(&word, sizeof word, seed);
}

std::uint64_t name_of(std::string_view text) noexcept { return XXH3_64bits(text.data(), text.size()); }

/// How a member does for a slot: the greatest wins among equal weights.
std::uint64_t draw(std::uint64_t slot_word, std::uint64_t seed) noexcept { return mix64(slot_word ^ seed); }

/// The same across weights: the least wins. A uniform number in (0, 1] from the upper 53 bits.
double cost(std::uint64_t drawn, double weight) noexcept {
    return -std::log((static_cast<double>(drawn >> 11) + 1) * 0x1p-53) / weight;
}

/// Whether cost(drawn, weight) certainly exceeds the other: 1 - u <= -ln(u) <= (1 - u) / u, which is sharp
/// where there are many members, and needs no logarithm.
bool costs_more(std::uint64_t drawn, double weight, std::uint64_t other_drawn, double other_weight) noexcept {
    const double u = static_cast<double>(drawn >> 11) * 0x1p-53;
    const double other = static_cast<double>(other_drawn >> 11) * 0x1p-53;
    return (1 - u) * other_weight * other > (1 - other) * weight * (1 + 1e-9) + 1e-12;
}

/// Slots are small numbers that lie side by side: their bits are spread first.
std::uint64_t word_of(std::uint32_t slot) noexcept { return mix64(slot + std::uint64_t{1}); }

}  // namespace

std::uint64_t group_key(std::span<const Digest> chain, std::uint32_t position,
                        std::uint32_t group_blocks) noexcept {
    return chain[group_start(position, group_blocks)].prefix();
}

std::uint32_t shard_of(std::uint64_t group, std::uint32_t shards) noexcept {
    return static_cast<std::uint32_t>((mix(group, kShardSeed) >> 32) * shards >> 32);
}

std::uint32_t slot_of(std::uint64_t group) noexcept {
    return static_cast<std::uint32_t>(mix(group, kSlotSeed) >> (64 - kSlotBits));
}

Placement::Placement(std::uint32_t replicas) : replicas_(replicas) {
    CMPOOL_ASSERT(replicas >= 1 && replicas <= kReplicasMax);
    table_.assign(std::size_t{kSlots} * replicas_, kUnknown);
}

Placement::Seat Placement::seat_of(std::uint64_t node_id) const noexcept {
    if (node_id == 0) return kNobody;
    const auto found = std::find_if(seats_.begin(), seats_.end(),
                                    [&](const Place& place) { return place.member.node_id == node_id; });
    return found == seats_.end() ? kNobody : static_cast<Seat>(found - seats_.begin());
}

void Placement::follow(const View& view) {
    CMPOOL_ASSERT(view.members.size() <= kMembersMax);
    const auto same_place = [](const Member& one, const Member& other) {
        return one.owns() == other.owns() && one.weight == other.weight && one.host == other.host &&
               one.zone == other.zone;
    };
    // Whoever is placed otherwise than before leaves first and comes again.
    std::vector<bool> gone(seats_.size(), true);
    std::vector<const Member*> newcomers;
    for (const auto& member : view.members) {
        const Seat seat = seat_of(member.node_id);
        if (seat == kNobody || !same_place(seats_[seat].member, member)) {
            newcomers.push_back(&member);
            continue;
        }
        gone[seat] = false;
        seats_[seat].member = member;
    }
    forget_owned_by(gone);
    for (std::size_t seat = 0; seat < gone.size(); ++seat) {
        if (gone[seat]) seats_[seat].owns = false;
    }
    for (const Member* member : newcomers) {
        Seat seat = seat_of(member->node_id);
        if (seat == kNobody) {
            const auto free = std::find_if(seats_.begin(), seats_.end(),
                                           [](const Place& place) { return place.member.node_id == 0; });
            seat = static_cast<Seat>(free - seats_.begin());
            if (free == seats_.end()) seats_.emplace_back();
        }
        if (seat < gone.size()) gone[seat] = false;
        Place place{.member = *member,
                    .seed = mix64(member->node_id),
                    .host = name_of(member->host),
                    .zone = name_of(member->zone)};
        seats_[seat] = std::move(place);
        if (member->owns()) let_in(seat);
        seats_[seat].owns = member->owns();
    }
    for (std::size_t seat = 0; seat < gone.size(); ++seat) {
        if (gone[seat]) seats_[seat] = {};
    }
    sort_by_weight();
}

void Placement::sort_by_weight() {
    classes_.clear();
    for (std::size_t at = 0; at < seats_.size(); ++at) {
        if (!seats_[at].owns) continue;
        const double weight = seats_[at].member.weight;
        auto found = std::find_if(classes_.begin(), classes_.end(),
                                  [&](const Class& each) { return each.weight == weight; });
        if (found == classes_.end()) found = classes_.insert(classes_.end(), {weight, {}, {}});
        found->seats.push_back(static_cast<Seat>(at));
        found->seeds.push_back(seats_[at].seed);
    }
}

void Placement::fill() {
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) (void)owners_of_slot(slot);
}

void Placement::work_out(std::uint32_t slot) noexcept {
    asked_ = true;
    Seat* owners = &table_[std::size_t{slot} * replicas_];
    std::array<Seat, kReplicasMax> found;
    found.fill(kNobody);
    for (std::uint32_t rank = 0; rank < replicas_; ++rank) {
        found[rank] = best(slot, {found.data(), rank});
        if (found[rank] == kNobody) break;
    }
    std::copy_n(found.begin(), replicas_, owners);
}

// How far a member is from those that were chosen before it: the farther the better.
unsigned Placement::distance(const Place& place, std::span<const Seat> before) const noexcept {
    unsigned away = 3;
    for (const Seat seat : before) {
        const Place& other = seats_[seat];
        if (&other == &place) return 0;
        if (other.zone == place.zone) away = std::min(away, other.host == place.host ? 1u : 2u);
    }
    return away;
}

Placement::Seat Placement::best(std::uint32_t slot, std::span<const Seat> before) const noexcept {
    const std::uint64_t word = word_of(slot);
    Seat winner = kNobody;
    unsigned winner_distance = 0;
    double winner_cost = std::numeric_limits<double>::infinity();
    for (const auto& [weight, seats, seeds] : classes_) {
        Seat here = kNobody;
        unsigned here_distance = before.empty() ? 3 : 0;
        std::uint64_t here_draw = 0;
        for (std::size_t at = 0; at < seats.size(); ++at) {
            const std::uint64_t drawn = draw(word, seeds[at]);
            if (!before.empty()) {
                const unsigned away = distance(seats_[seats[at]], before);
                if (away == 0 || away < here_distance) continue;
                if (away > here_distance) {
                    here_distance = away;
                    here = kNobody;
                }
            }
            // Two draws are never equal: the mixing of one slot's word with different seeds is one to one.
            if (here != kNobody && drawn < here_draw) continue;
            here = seats[at];
            here_draw = drawn;
        }
        if (here == kNobody || here_distance < winner_distance) continue;
        const double here_cost = cost(here_draw, weight);
        if (here_distance > winner_distance || here_cost < winner_cost) {
            winner = here;
            winner_distance = here_distance;
            winner_cost = here_cost;
        }
    }
    return winner;
}

void Placement::forget_owned_by(const std::vector<bool>& gone) {
    if (!asked_ || std::find(gone.begin(), gone.end(), true) == gone.end()) return;
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
        Seat* owners = &table_[std::size_t{slot} * replicas_];
        if (*owners == kUnknown) continue;
        for (std::uint32_t rank = 0; rank < replicas_; ++rank) {
            if (owners[rank] == kNobody || !gone[owners[rank]]) continue;
            *owners = kUnknown;
            break;
        }
    }
}

// Slots that a newcomer owns a part of are forgotten; it is not yet among the owners itself.
void Placement::let_in(Seat newcomer) {
    if (!asked_) return;
    const Place& place = seats_[newcomer];
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
        Seat* owners = &table_[std::size_t{slot} * replicas_];
        if (*owners != kUnknown && enters(place, slot, {owners, replicas_})) *owners = kUnknown;
    }
}

bool Placement::enters(const Place& newcomer, std::uint32_t slot,
                       std::span<const Seat> owners) const noexcept {
    const std::uint64_t word = word_of(slot);
    const std::uint64_t drawn = draw(word, newcomer.seed);
    for (std::size_t rank = 0; rank < owners.size(); ++rank) {
        if (owners[rank] == kNobody) return true;
        const Place& owner = seats_[owners[rank]];
        if (rank > 0) {
            const auto before = owners.first(rank);
            const unsigned ours = distance(newcomer, before);
            const unsigned theirs = distance(owner, before);
            if (ours != theirs) {
                if (ours > theirs) return true;
                continue;
            }
        }
        const std::uint64_t owner_draw = draw(word, owner.seed);
        const std::uint32_t weight = newcomer.member.weight;
        const std::uint32_t owner_weight = owner.member.weight;
        if (weight == owner_weight) {
            if (drawn > owner_draw) return true;
            continue;
        }
        if (costs_more(drawn, weight, owner_draw, owner_weight)) continue;
        if (cost(drawn, weight) <= cost(owner_draw, owner_weight)) return true;
    }
    return false;
}

}  // namespace cmpool::model
