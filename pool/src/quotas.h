#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include <cmpool/model/namespace.h>

namespace cmpool::pool {

/// Room that was lent is taken back within so long after its owner asks for it.
inline constexpr std::chrono::milliseconds kLentBackWithin{2000};

/// What a namespace can count on at one shard, and what it has there. Its copies of what belongs to other
/// members are a space of their own, which counts on nothing.
struct Space {
    std::uint32_t domain_id = 0;
    bool near = false;               ///< the space of such copies
    model::Quota whole;              ///< as the cluster knows it
    std::uint64_t quota_bytes = 0;   ///< this shard's part of it
    std::uint64_t used_bytes = 0;    ///< of extents, live and being written
    std::uint64_t leased_bytes = 0;  ///< by leases, cooling ones too
    std::uint64_t evicted_bytes = 0;
    std::uint64_t expired_bytes = 0;

    [[nodiscard]] std::uint32_t priority() const noexcept { return whole.priority; }
    [[nodiscard]] std::uint64_t borrowed_bytes() const noexcept {
        return used_bytes > quota_bytes ? used_bytes - quota_bytes : 0;
    }
};

/// A put that needs room: who makes way for it, and in what order.
///
/// Who stays within its quota takes from everybody who borrows; who borrows takes from those who borrow with
/// no higher priority, itself among them. Nobody but itself takes from a namespace what is within its quota.
/// Copies of what belongs to others go before everything else, and themselves take from such copies only.
class Claim {
public:
    Claim(const Space& asker, std::uint64_t bytes) noexcept
        : asker_(asker), bytes_(bytes), owns_(asker.used_bytes + bytes <= asker.quota_bytes) {}

    /// The asker stays within its quota.
    [[nodiscard]] bool owns() const noexcept { return owns_; }
    [[nodiscard]] const Space& asker() const noexcept { return asker_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
    /// The same claim, but on what others have.
    [[nodiscard]] Claim on_others() const noexcept {
        Claim claim = *this;
        claim.spares_itself_ = true;
        return claim;
    }
    /// Bytes that this one may lose.
    [[nodiscard]] std::uint64_t allowance(const Space& victim) const noexcept {
        if (victim.near) return victim.used_bytes;
        if (asker_.near) return 0;
        if (&victim == &asker_) return spares_itself_ ? 0 : victim.used_bytes;
        return owns_ || victim.priority() <= asker_.priority() ? victim.borrowed_bytes() : 0;
    }
    /// Which of two loses its coldest block first; `touched` is when that block was, on any one clock.
    [[nodiscard]] bool before(const Space& one, std::uint64_t one_touched, const Space& other,
                              std::uint64_t other_touched) const noexcept;

private:
    const Space& asker_;
    std::uint64_t bytes_;
    bool owns_;
    bool spares_itself_ = false;
};

/// The namespaces of one shard, and to which domains its segments belong by their quotas.
///
///   Units    bytes of extents, headers included
///   Lifetime a Space stays where it is
///   Threads  one
///   Limits   a Space for each namespace that was opened here; meta bounds those
class Quotas {
public:
    Quotas() = default;
    Quotas(const Quotas&) = delete;
    Quotas& operator=(const Quotas&) = delete;

    /// Made at its first use, with no quota.
    [[nodiscard]] Space& space(std::uint32_t namespace_id, std::uint32_t domain_id);
    [[nodiscard]] const std::unordered_map<std::uint32_t, Space>& spaces() const noexcept { return spaces_; }
    /// The same for its copies of what belongs to other members. Made at its first use.
    [[nodiscard]] Space& near_space(std::uint32_t namespace_id, std::uint32_t domain_id);
    /// What all such copies may take, and what they take.
    void set_near_bytes_max(std::uint64_t bytes) noexcept { near_bytes_max_ = bytes; }
    [[nodiscard]] std::uint64_t near_bytes_max() const noexcept { return near_bytes_max_; }
    [[nodiscard]] std::uint64_t near_bytes() const noexcept;
    /// The domain with most of them.
    [[nodiscard]] std::uint32_t domain_with_most_near() const;
    /// Null for one that was never opened here.
    [[nodiscard]] Space* find(std::uint32_t namespace_id) noexcept;
    void set(Space& space, const model::Quota& quota);
    /// Of each quota, `part` of `whole` is this shard's.
    void set_part(std::uint64_t part, std::uint64_t whole);
    /// Somebody has a quota: what others have is partly lent.
    [[nodiscard]] bool any() const noexcept { return quotas_bytes_ > 0; }

    struct DomainSegments {
        std::uint32_t domain_id;
        std::size_t segments;
    };
    /// Domains that may lose a segment to this claim, those that lose first in front. A domain keeps as many
    /// segments as its quotas amount to: rounded up where that fits, else by the largest remainders.
    /// `all` are the domains, the asker's among them; `total` are the shard's segments.
    [[nodiscard]] std::vector<std::uint32_t> givers(const Claim& claim, std::span<const DomainSegments> all,
                                                    std::size_t total, std::uint64_t segment_bytes) const;
    /// The lowest priority with which somebody of this domain borrows what the claim may take, apart from the
    /// asker; UINT32_MAX: nobody.
    [[nodiscard]] std::uint32_t lowest_borrower(const Claim& claim, std::uint32_t domain_id) const noexcept;

    /// Segments that each domain keeps, in the order of `all`.
    [[nodiscard]] std::vector<std::size_t> entitled(std::span<const DomainSegments> all, std::size_t total,
                                                    std::uint64_t segment_bytes) const;

private:
    [[nodiscard]] std::uint64_t part_of(std::uint64_t bytes) const noexcept;

    std::unordered_map<std::uint32_t, Space> spaces_;
    std::unordered_map<std::uint32_t, Space> near_spaces_;
    std::uint64_t near_bytes_max_ = 0;
    std::uint64_t part_ = 1;
    std::uint64_t whole_ = 1;
    std::uint64_t quotas_bytes_ = 0;
};

}  // namespace cmpool::pool
