#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include <cmpool/meta/store.h>

namespace cmpool::meta {

/// Revisions of keys in a store that one process writes and nobody else. They are not stored: what was read
/// in another run guards nothing in this one.
///
///   Limits  an entry for each key that was written in this run
class Revisions {
public:
    [[nodiscard]] std::uint64_t of(std::string_view key, bool is_there) const {
        if (!is_there) return 0;
        const auto known = written_.find(key);
        return known == written_.end() ? kBefore : known->second;
    }
    /// `is_there` says whether the store has a key.
    template <class IsThere>
    [[nodiscard]] Result<void> check(std::span<const Guard> guards, IsThere is_there) const {
        for (const auto& [key, revision] : guards) {
            const auto there = is_there(key);
            if (!there) return fail(there.error());
            if (const auto seen = of(key, *there); seen != revision)
                return fail(Errc::Again, "expected {} at revision {}, saw {}", key, revision, seen);
        }
        return {};
    }
    void wrote(std::span<const Entry> batch) {
        ++last_;
        for (const auto& entry : batch) written_[entry.key] = last_;
    }
    [[nodiscard]] std::uint64_t last() const noexcept { return last_; }

private:
    /// Of what an earlier run wrote.
    static constexpr std::uint64_t kBefore = 1;
    std::uint64_t last_ = kBefore;
    std::map<std::string, std::uint64_t, std::less<>> written_;
};

}  // namespace cmpool::meta
