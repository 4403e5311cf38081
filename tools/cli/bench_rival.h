#pragma once

#include "bench.h"
#include "progress.h"

namespace cmpool::cli {

/// Another store that the pool is compared with, on this host.
///
///   Lifetime  outlives the works that it makes
///   Threads   work() from any; the rest from the one that started it
class Rival {
public:
    Rival() = default;
    Rival(const Rival&) = delete;
    Rival& operator=(const Rival&) = delete;
    virtual ~Rival() = default;

    /// Stores a block of `size` bytes under each key. Errors: PeerDown, NoCapacity with its own words.
    virtual Result<void> fill(std::span<const client::Digest> keys, std::uint64_t size,
                              Progress& progress) = 0;
    /// Forgets everything.
    virtual void clear() = 0;
    /// The same calls as pool_work(), on a connection of its own. Errors: PeerDown.
    [[nodiscard]] virtual Result<Contestant> work(const BenchCase& row,
                                                  const std::vector<client::Digest>& keys,
                                                  std::uint64_t own_blocks, MutableBytes buffer) = 0;
};

/// A redis-server of our own, spoken to as its users do: through hiredis.
/// Errors: Unsupported where one of the two is not there; PeerDown.
[[nodiscard]] Result<std::unique_ptr<Rival>> start_redis();

}  // namespace cmpool::cli
