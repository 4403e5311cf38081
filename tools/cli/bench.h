#pragma once

#include "progress.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>
#include <cmpool/client/pool_client.h>

namespace cmpool::cli {

enum class BenchOp : std::uint8_t { Get, Put, Match, Memory };

/// Blocks put in one call while a row is prepared: at most so many, of at most so many bytes.
inline constexpr std::size_t kFillBlocksMax = 256;
inline constexpr std::uint64_t kFillBytesMax = 16 * MiB;

/// One row of the bench: which call, over what, how large, how many at a time.
struct BenchCase {
    BenchOp op = BenchOp::Get;  ///< Memory is no call: it stores once, and nothing races
    client::Transport transport = client::Transport::Shm;
    std::uint64_t size = 0;   ///< of a block, in bytes
    std::uint32_t batch = 1;  ///< blocks that a call names
    std::uint32_t threads = 1;
    bool sealed = false;  ///< in a sealed namespace

    [[nodiscard]] std::uint64_t call_bytes() const noexcept { return size * batch; }
    /// Blocks of a call while the row is prepared.
    [[nodiscard]] std::size_t fill_blocks() const noexcept;
    /// Whether a call is long enough to be judged by its throughput, not by its duration.
    [[nodiscard]] bool by_throughput() const noexcept;
};

/// What is timed, again and again.
///
///   Threads  belongs to the thread that made it
class Work {
public:
    Work() = default;
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;
    virtual ~Work() = default;
    /// Meets once all that run() may choose from: a program's first touch of a page is no pace. Not timed.
    virtual Result<void> warm_up() { return {}; }
    /// Before each slice of run()s: puts right what the others have changed meanwhile. Not timed.
    virtual Result<void> take_turn() { return {}; }
    /// Chooses what the next run() is about. Not timed.
    virtual void prepare() = 0;
    /// Errors: Corrupt where an outcome is not the expected one, such as a miss.
    virtual Result<void> run() = 0;
    /// Calls that one run() makes: several where the clock would weigh more than the call.
    [[nodiscard]] virtual std::uint32_t calls() const noexcept { return 1; }
};

/// What a contestant stands for. There may be several limits: the best of them counts.
enum class Side : std::uint8_t { Ours, Limit, Redis };

struct Contestant {
    Side side = Side::Ours;
    std::string name;
    std::unique_ptr<Work> work;
};

/// Memory as a pool has it: shared, with huge pages where the system gives them, all of it written.
class SharedPages {
public:
    /// `folder` is the pool's own, used where this process may write there.
    /// Errors: NoCapacity with the system's reason.
    [[nodiscard]] static Result<std::unique_ptr<SharedPages>> open(const std::string& folder,
                                                                   std::uint64_t bytes);
    ~SharedPages();
    SharedPages(const SharedPages&) = delete;
    SharedPages& operator=(const SharedPages&) = delete;

    [[nodiscard]] MutableBytes bytes() const noexcept { return bytes_; }

private:
    explicit SharedPages(MutableBytes bytes) noexcept : bytes_(bytes) {}
    MutableBytes bytes_;
};

/// The blocks that a row reads, or that keep a pool full: put when it begins, removed when it ends.
///
///   Threads  that of its client; keys() may be read by any
class Filling {
public:
    /// Puts `count` blocks, or chains of `row.batch` blocks for a match.
    /// Errors: NoCapacity where the pool keeps fewer; those of the calls.
    [[nodiscard]] static Result<std::unique_ptr<Filling>> put(client::PoolClient& pool, const BenchCase& row,
                                                              std::uint64_t count, Progress& progress);
    /// Puts blocks until the pool evicts.
    /// Errors: NoCapacity where it never does, or refuses; those of the calls.
    [[nodiscard]] static Result<std::unique_ptr<Filling>> fill_up(client::PoolClient& pool,
                                                                  const BenchCase& row, Progress& progress);
    ~Filling();
    Filling(const Filling&) = delete;
    Filling& operator=(const Filling&) = delete;

    [[nodiscard]] const std::vector<client::Digest>& keys() const noexcept { return keys_; }

private:
    Filling(client::PoolClient& pool, const BenchCase& row);
    /// So many more blocks, or one more chain.
    Result<void> put_more(std::uint64_t count);

    client::PoolClient& pool_;
    BenchCase row_;
    Rng rng_;
    std::vector<std::byte> block_;
    std::vector<client::Digest> keys_;
};

/// A pool's statistics by name.
struct PoolStats {
    std::map<std::string, std::uint64_t, std::less<>> values;
    /// 0 where the pool does not have it.
    [[nodiscard]] std::uint64_t of(std::string_view name) const;
};
[[nodiscard]] Result<PoolStats> pool_stats(client::PoolClient& pool);

/// What a row's namespace is called and shaped like: opaque keys, or chains for a match.
[[nodiscard]] client::NamespaceSpec bench_namespace(BenchOp op, bool sealed = false);
[[nodiscard]] client::Digest random_key(Rng& rng);

/// Where the blocks of a put find room.
enum class PutRoom : std::uint8_t {
    Removed,  ///< what was put before is removed in time, the oldest first
    Evicted,  ///< the pool sees to it
    /// As Removed, in a pool that others fill: what is to be removed is put anew at each turn, lest it is
    /// evicted before.
    Refreshed,
};

/// The pool's own way. `keys` are those it holds; `own_blocks` bounds what a put leaves in the pool, or
/// with PutRoom::Evicted what it may still find there. `buffer` holds a call's payload.
[[nodiscard]] std::unique_ptr<Work> pool_work(const BenchCase& row, client::PoolClient& pool,
                                              const std::vector<client::Digest>& keys,
                                              std::uint64_t own_blocks, MutableBytes buffer);
[[nodiscard]] std::unique_ptr<Work> put_work(const BenchCase& row, client::PoolClient& pool, PutRoom room,
                                             std::uint64_t own_blocks, MutableBytes buffer);
/// What this machine can do at most without a pool that holds so many blocks: each a way that might be
/// the fastest.
/// Errors: PeerDown where this host has no loopback.
[[nodiscard]] Result<std::vector<Contestant>> limit_work(const BenchCase& row, std::uint64_t blocks,
                                                         const SharedPages& pages, MutableBytes buffer);
/// What a core does at most for a sealed row, wherever its blocks travel: AES-256-GCM over blocks of the
/// pages.
[[nodiscard]] std::unique_ptr<Work> crypt_work(const BenchCase& row, const SharedPages& pages,
                                               MutableBytes buffer);
/// Bytes of SharedPages that limit_work() needs, to range as far as a pool of `capacity_bytes` does that
/// holds so many blocks.
[[nodiscard]] std::uint64_t limit_bytes(const BenchCase& row, std::uint64_t blocks,
                                        std::uint64_t capacity_bytes);

/// What one contestant did, over all threads.
struct Pace {
    Side side = Side::Ours;
    std::string name;
    double calls_per_s = 0;  ///< median over slices
    double p50_us = 0, p99_us = 0;
};
/// Makes a thread's contestants, in that thread. What they borrow is `keep`'s.
struct Crew {
    std::shared_ptr<void> keep;
    std::vector<Contestant> contestants;
};
using Recruit = std::function<Result<Crew>()>;

/// Lets contestants take turns in short slices, each with the first of the numbers of threads, then with
/// the next one: for each number `seconds` in all, all its threads at the same contestant.
/// Returns paces for each number of threads.
/// Errors: the first of any thread.
[[nodiscard]] Result<std::vector<std::vector<Pace>>> race(const Recruit& recruit,
                                                          std::span<const std::uint32_t> threads,
                                                          double seconds, Progress& progress);

}  // namespace cmpool::cli
