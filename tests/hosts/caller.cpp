// A client that calls again and again, in turns a put of new blocks, a get of them and a match, each of
// blocks that lie on nearly all members.
//
//   caller URI DEADLINE_MS
//
// Prints for each call when it began on the monotonic clock, how long it took, both in us, and how many of
// its blocks it stored or found.
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <cmpool/base/units.h>
#include <cmpool/client/pool_client.h>

#include <fmt/format.h>
#include <sys/prctl.h>

namespace {

using namespace cmpool;
using SteadyClock = std::chrono::steady_clock;

constexpr std::uint32_t kBlocks = 10;
constexpr std::uint32_t kBlockTokens = 4;
constexpr std::size_t kBlockBytes = 4 * KiB;

[[noreturn]] void give_up(const Error& why) {
    fmt::print(stderr, "{}\n", why.detail);
    std::exit(1);
}

class Caller {
public:
    Caller(std::unique_ptr<client::PoolClient> pool, Nanos deadline)
        : pool_(std::move(pool)), options_{.deadline = deadline}, memory_(kBlocks * kBlockBytes) {}

    void round(std::uint32_t number) {
        const std::vector<std::uint32_t> tokens(kBlocks * kBlockTokens, number);
        const auto keys = pool_->chain(tokens);
        if (!keys) give_up(keys.error());
        std::array<Bytes, kBlocks> from;
        std::array<MutableBytes, kBlocks> into;
        std::vector<client::PutItem> puts;
        std::vector<client::GetItem> gets;
        for (std::uint32_t at = 0; at < kBlocks; ++at) {
            into[at] = MutableBytes(memory_).subspan(at * kBlockBytes, kBlockBytes);
            from[at] = into[at];
            // Each block a group of its own.
            const client::Digest& key = (*keys)[at];
            puts.push_back({.key = key, .from = {&from[at], 1}, .group = key.prefix()});
            gets.push_back({key, {&into[at], 1}, key.prefix()});
        }
        timed("put", [&] { return pool_->put(puts, options_).count(client::Outcome::Stored); });
        timed("get", [&] { return pool_->get(gets, options_).count(client::Outcome::Hit); });
        timed("match", [&] { return pool_->match(*keys, kLeaseMs, options_).blocks(); });
    }

private:
    static constexpr std::uint32_t kLeaseMs = 100;

    template <class Call>
    static void timed(const char* kind, Call call) {
        using Us = std::chrono::microseconds;
        const auto begin = SteadyClock::now();
        const std::size_t blocks = call();
        const auto took = SteadyClock::now() - begin;
        fmt::print("{} {} {} {}\n", kind, std::chrono::duration_cast<Us>(begin.time_since_epoch()).count(),
                   std::chrono::duration_cast<Us>(took).count(), blocks);
    }

    std::unique_ptr<client::PoolClient> pool_;
    client::CallOptions options_;
    std::vector<std::byte> memory_;
};

}  // namespace

int main(int count, char** words) {
    if (count != 3) return fmt::print(stderr, "usage: caller URI DEADLINE_MS\n"), 2;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto pool = client::PoolClient::open(
        words[1],
        {.model = "calls", .revision = "1", .dtype = "u8", .block_tokens = kBlockTokens, .group_blocks = 1});
    if (!pool) give_up(pool.error());
    Caller caller(std::move(*pool), std::chrono::milliseconds(std::atoi(words[2])));
    for (std::uint32_t number = 0;; ++number) {
        caller.round(number);
        std::fflush(stdout);
    }
}
