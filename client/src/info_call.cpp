#include "calls.h"

#include <algorithm>

namespace cmpool::client {
namespace {

// A listing's cursor names the shard that it has come to in its highest bits.
constexpr unsigned kCursorBits = 44;
constexpr std::uint64_t kCursorMask = (std::uint64_t{1} << kCursorBits) - 1;

}  // namespace

void InfoCall::begin() {
    begun();
    if (auto* list = std::get_if<wire::List>(&question_)) {
        const auto shard = static_cast<std::uint32_t>(list->cursor >> kCursorBits);
        if (shard < shards().count()) {
            list->namespace_id = shards()[shard].namespace_id();
            list->cursor &= kCursorMask;
            ask(shard, shard, question_);
        } else {
            note({Errc::Invalid, fmt::format("expected a cursor of this pool, saw {}", list->cursor)});
        }
    } else {
        const auto asked = member_ ? shards().of_member(*member_) : shards().home();
        if (asked.empty()) note({Errc::PeerDown, "there is no connection to it"});
        const bool all = std::holds_alternative<wire::StatsRequest>(question_);
        for (const std::uint32_t shard :
             asked.first(all ? asked.size() : std::min<std::size_t>(asked.size(), 1)))
            ask(shard, shard, question_);
    }
    ended();
}

void InfoCall::answer(std::uint64_t shard, const wire::Body& answer) {
    if (const auto* stats = std::get_if<wire::Stats>(&answer)) {
        for (const auto& stat : stats->stats) add(stat);
    } else if (const auto* listed = std::get_if<wire::Listed>(&answer)) {
        for (const auto& block : listed->blocks) {
            listing_.blocks.push_back({block.digest, block.length, block.position, block.age_ms});
        }
        if (listed->next_cursor != 0) {
            listing_.next_cursor = shard << kCursorBits | listed->next_cursor;
        } else {
            // Members that do not answer have nothing to show.
            auto next = static_cast<std::uint32_t>(shard) + 1;
            while (next < shards().count() &&
                   (!shards().in_use(next) || (shards().cluster() && !shards()[next].ready())))
                ++next;
            if (next < shards().count()) listing_.next_cursor = std::uint64_t{next} << kCursorBits;
        }
    } else if (std::holds_alternative<wire::Namespaces>(answer) ||
               std::holds_alternative<wire::Members>(answer)) {
        answer_ = answer;
    } else {
        note({Errc::Corrupt, "the pool answered something else"});
    }
    ended();
}

Result<wire::Body> InfoCall::take_answer() {
    if (trouble_) return fail(*trouble_);
    return std::move(*answer_);
}

void InfoCall::add(const wire::Stat& stat) {
    const auto known = std::ranges::find(stats_, stat.name, &Statistic::name);
    if (known == stats_.end()) return void(stats_.push_back({stat.name, stat.value}));
    switch (stat.adds) {
        case wire::Adds::Sum:
            known->value += stat.value;
            break;
        case wire::Adds::Most:
            known->value = std::max(known->value, stat.value);
            break;
        case wire::Adds::Least:
            known->value = std::min(known->value, stat.value);
            break;
    }
}

Result<std::vector<Statistic>> InfoCall::take_stats() {
    if (trouble_) return fail(*trouble_);
    return std::move(stats_);
}

Result<Listing> InfoCall::take_listing() {
    if (trouble_) return fail(*trouble_);
    return std::move(listing_);
}

}  // namespace cmpool::client
