#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/rng.h>
#include <cmpool/client/pool_client.h>

namespace cmpool::cli {

enum class BenchOp : std::uint8_t { Get, Put, Match };

/// One row of the bench: which call, over what, how large, how many at a time.
struct BenchCase {
    BenchOp op = BenchOp::Get;
    client::Transport transport = client::Transport::Shm;
    std::uint64_t size = 0;   ///< of a block, in bytes
    std::uint32_t batch = 1;  ///< blocks that a call names
    std::uint32_t threads = 1;

    [[nodiscard]] std::uint64_t call_bytes() const noexcept { return size * batch; }
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
    /// Chooses what the next run() is about. Not timed.
    virtual void prepare() = 0;
    /// Errors: Corrupt where an outcome is not the expected one, such as a miss.
    virtual Result<void> run() = 0;
    /// Calls that one run() makes: several where the clock would weigh more than the call.
    [[nodiscard]] virtual std::uint32_t calls() const noexcept { return 1; }
};

struct Contestant {
    std::string name;
    std::unique_ptr<Work> work;
};

/// Memory as a pool has it: shared, with huge pages where the system gives them, all of it written.
class SharedPages {
public:
    /// Errors: NoCapacity with the system's reason.
    [[nodiscard]] static Result<std::unique_ptr<SharedPages>> open(std::uint64_t bytes);
    ~SharedPages();
    SharedPages(const SharedPages&) = delete;
    SharedPages& operator=(const SharedPages&) = delete;

    [[nodiscard]] MutableBytes bytes() const noexcept { return bytes_; }

private:
    explicit SharedPages(MutableBytes bytes) noexcept : bytes_(bytes) {}
    MutableBytes bytes_;
};

/// The blocks that a row reads: put when it begins, removed when it ends.
///
///   Threads  that of its client; keys() may be read by any
class Filling {
public:
    /// Puts `count` blocks, or chains of `row.batch` blocks for a match.
    /// Errors: NoCapacity where the pool keeps fewer; those of the calls.
    [[nodiscard]] static Result<std::unique_ptr<Filling>> put(client::PoolClient& pool, const BenchCase& row,
                                                              std::uint64_t count);
    ~Filling();
    Filling(const Filling&) = delete;
    Filling& operator=(const Filling&) = delete;

    [[nodiscard]] const std::vector<client::Digest>& keys() const noexcept { return keys_; }

private:
    explicit Filling(client::PoolClient& pool) noexcept : pool_(pool) {}
    client::PoolClient& pool_;
    std::vector<client::Digest> keys_;
};

/// What a row's namespace is called and shaped like: opaque keys, or chains for a match.
[[nodiscard]] client::NamespaceSpec bench_namespace(BenchOp op);
[[nodiscard]] client::Digest random_key(Rng& rng);

/// The pool's own way. `keys` are those it holds; `own_blocks` bounds what a put leaves in the pool.
/// `buffer` holds a call's payload.
[[nodiscard]] std::unique_ptr<Work> pool_work(const BenchCase& row, client::PoolClient& pool,
                                              const std::vector<client::Digest>& keys,
                                              std::uint64_t own_blocks, MutableBytes buffer);
/// What this machine can do at most without a pool that holds so many blocks: each a way that might be
/// the fastest.
/// Errors: PeerDown where this host has no loopback.
[[nodiscard]] Result<std::vector<Contestant>> limit_work(const BenchCase& row, std::uint64_t blocks,
                                                         const SharedPages& pages, MutableBytes buffer);
/// Bytes of SharedPages that limit_work() needs, to range as far as a pool of `capacity_bytes` does that
/// holds so many blocks.
[[nodiscard]] std::uint64_t limit_bytes(const BenchCase& row, std::uint64_t blocks,
                                        std::uint64_t capacity_bytes);

/// What one contestant did, over all threads.
struct Pace {
    std::string name;
    double calls_per_s = 0;  ///< median over slices
    double p50_us = 0, p99_us = 0;
};
/// Makes a thread's contestants, in that thread; the first is ours. What they borrow is `keep`'s.
struct Crew {
    std::shared_ptr<void> keep;
    std::vector<Contestant> contestants;
};
using Recruit = std::function<Result<Crew>()>;

/// Lets contestants take turns in short slices for `seconds`, all threads at the same one.
/// Errors: the first of any thread.
[[nodiscard]] Result<std::vector<Pace>> race(const Recruit& recruit, std::uint32_t threads, double seconds);

}  // namespace cmpool::cli
