#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include <cmpool/pool/chunked.h>

namespace cmpool::pool {

/// A group of blocks of one chain, inside one domain: small, dense, reused after erase().
using GroupId = std::uint32_t;
inline constexpr GroupId kNoGroup = UINT32_MAX;

/// Decides which group loses its last block next. It knows nothing of bytes, pins or leases: who
/// evicts walks from coldest() by warmer() past what it must not touch. The same classes serve the
/// pool server and the simulator of recorded traces.
class EvictionPolicy {
public:
    virtual ~EvictionPolicy() = default;
    /// As the warmest, or next to `parent` on its colder side: a group is never warmer than what it
    /// hangs on, and so never outlives it.
    virtual void insert(GroupId group, GroupId parent) = 0;
    virtual void touch(GroupId group) = 0;
    virtual void erase(GroupId group) = 0;
    [[nodiscard]] virtual GroupId coldest() const = 0;  ///< kNoGroup when empty
    [[nodiscard]] virtual GroupId warmer(GroupId group) const = 0;
    [[nodiscard]] virtual GroupId warmest() const = 0;  ///< kNoGroup when empty
    [[nodiscard]] virtual GroupId colder(GroupId group) const = 0;
};

/// Least recently used. A chain that is touched from its last block to its first keeps its root
/// warmest, so what stays resident is closed under prefixes.
class Lru final : public EvictionPolicy {
public:
    struct Links {
        GroupId colder = kNoGroup;
        GroupId warmer = kNoGroup;
    };
    using AllLinks = Chunked<Links>;

    Lru() : Lru(std::make_shared<AllLinks>()) {}
    /// Orders of groups that are in one of them each can share their links.
    explicit Lru(std::shared_ptr<AllLinks> links) noexcept : links_(std::move(links)) {}
    void insert(GroupId group, GroupId parent) override;
    void touch(GroupId group) override;
    void erase(GroupId group) override;
    [[nodiscard]] GroupId coldest() const override { return coldest_; }
    [[nodiscard]] GroupId warmer(GroupId group) const override { return (*links_)[group].warmer; }
    [[nodiscard]] GroupId warmest() const override { return warmest_; }
    [[nodiscard]] GroupId colder(GroupId group) const override { return (*links_)[group].colder; }

private:
    std::shared_ptr<AllLinks> links_;
    GroupId coldest_ = kNoGroup;
    GroupId warmest_ = kNoGroup;
};

}  // namespace cmpool::pool
