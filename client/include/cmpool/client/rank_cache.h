#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>

#include <cmpool/client/context_cache.h>

namespace cmpool::client {

/// Most ranks that share a prompt.
inline constexpr std::uint32_t kRanksMax = 64;

/// One of several ranks that compute a prompt together, each with pages of its own.
struct Rank {
    enum class Holds : std::uint8_t {
        /// Each heads of its own: a block is `count` parts, each stored and loaded by its rank, and is there
        /// when all of them are.
        OwnHeads,
        /// All the same, as with a latent vector: rank 0 stores it, and each rank loads its share of a
        /// block's bytes, KvPages::stripe(); the ranks then give each other theirs.
        TheSame,
    };
    std::uint32_t index = 0;
    std::uint32_t count = 1;
    Holds holds = Holds::OwnHeads;
};

/// What one rank's match tells the others, so that all of them load the same blocks.
///
///   Layout    trivially copyable, without padding: an engine hands on its bytes, by its own collective
///   Lifetime  as long as the rank that matched holds the Prefix, and as its lease lives
struct Ticket {
    std::uint64_t epoch = 0;   ///< the run of the pool that matched
    std::uint32_t blocks = 0;  ///< from the front, to be loaded by all
    std::uint32_t leased = 0;  ///< 0: a later miss is legal
    Digest last{};             ///< the last of these blocks; zero where there is none

    friend bool operator==(const Ticket&, const Ticket&) noexcept = default;
};
static_assert(std::is_trivially_copyable_v<Ticket> && sizeof(Ticket) == 48);

/// The prefix cache of one of several ranks. One of them matches and hands out a ticket; then all load by
/// it, this one too, and hear All or Failed, each for itself. What Failed for one of them counts for none:
/// that they agree on by their own collective, since no pool can promise what reaches a rank.
///
///   Threads  those of ContextCache
class RankCache : public ContextCache {
public:
    [[nodiscard]] virtual Ticket ticket(const Prefix& prefix) const = 0;
    /// Begins to load the ticket's blocks into `pages`: all of them, or it fails; at once, where the pool's
    /// run is another, or the tokens are not those that were matched. `tokens` are the whole prompt's: what
    /// the ticket does not count may be stored again, so a ticket of no blocks is worth handing in too.
    [[nodiscard]] virtual std::unique_ptr<Load> load(const Ticket& ticket,
                                                     std::span<const std::uint32_t> tokens,
                                                     std::span<const std::uint32_t> pages) = 0;
    using ContextCache::load;
};

/// As open_context_cache(); `spec` and the shape of `kv` are the same on all ranks, and `kv` is this rank's.
/// Limits: model::kBatchMax parts a match, so that many blocks divided by the ranks.
/// Errors: also Invalid for a rank that is none of 1 to kRanksMax, or pages of fewer than 64 bytes a rank.
[[nodiscard]] Result<std::unique_ptr<RankCache>> open_rank_cache(std::string_view uri,
                                                                 const NamespaceSpec& spec, const KvPages& kv,
                                                                 const Rank& rank,
                                                                 ContextCacheOptions options = {});

}  // namespace cmpool::client
