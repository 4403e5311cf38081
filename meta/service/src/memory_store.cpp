#include <algorithm>

#include <cmpool/meta/memory_store.h>

namespace cmpool::meta {

Result<std::optional<Found>> MemoryStore::read(std::string_view key) {
    if (down_) return fail(Errc::NoCapacity, "the store has failed");
    const auto entry = entries_.find(key);
    if (entry == entries_.end()) return std::nullopt;
    return Found{entry->second, revisions_.of(key, true)};
}

Result<std::uint64_t> MemoryStore::write(std::span<const Entry> batch, std::span<const Guard> guards) {
    if (down_) return fail(Errc::NoCapacity, "the store has failed");
    const auto there = [&](const std::string& key) -> Result<bool> { return entries_.contains(key); };
    if (auto held = revisions_.check(guards, there); !held) return fail(held.error());
    down_ = writes_left_ == 0;
    if (!down_ || failure_ == Failure::Landed) {
        for (const auto& [key, value, erase, lease] : batch) {
            if (erase) {
                entries_.erase(key);
            } else {
                entries_[key] = value;
            }
        }
        ++writes_;
        revisions_.wrote(batch);
    }
    if (down_) return fail(Errc::NoCapacity, "the store fails at this write");
    --writes_left_;
    return revisions_.last();
}

Result<std::vector<Entry>> MemoryStore::scan(std::string_view prefix, std::string_view after,
                                             std::size_t limit) {
    if (down_) return fail(Errc::NoCapacity, "the store has failed");
    std::vector<Entry> found;
    auto entry = after < prefix ? entries_.lower_bound(prefix) : entries_.upper_bound(after);
    for (; entry != entries_.end() && entry->first.starts_with(prefix); ++entry) {
        if (found.size() == std::min(limit, kScanMax)) break;
        found.push_back({.key = entry->first, .value = entry->second});
    }
    return found;
}

void MemoryStore::fail_after(std::uint64_t writes, Failure failure) noexcept {
    writes_left_ = writes;
    failure_ = failure;
}

void MemoryStore::restart() noexcept {
    writes_left_ = UINT64_MAX;
    down_ = false;
}

}  // namespace cmpool::meta
