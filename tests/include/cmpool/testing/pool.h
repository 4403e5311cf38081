#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/rng.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/model/placement.h>

#include <doctest/doctest.h>

namespace cmpool::testing {

using namespace std::chrono_literals;

/// A namespace like any other.
[[nodiscard]] inline client::NamespaceSpec plain_namespace(std::string model = "test") {
    return {.model = std::move(model), .revision = "1", .dtype = "u8", .block_tokens = 4};
}

[[nodiscard]] inline std::unique_ptr<client::PoolClient> open_pool(
    const std::string& uri, const client::NamespaceSpec& spec = plain_namespace()) {
    auto opened = client::PoolClient::open(uri, spec);
    if (!opened) FAIL(opened.error().detail);
    return std::move(*opened);
}

/// Keys of an unbranched chain of `count` blocks; another `seed` is another chain.
[[nodiscard]] inline std::vector<client::Digest> chain_of(const client::PoolClient& pool, std::size_t count,
                                                          std::uint32_t seed = 0) {
    std::vector<std::uint32_t> tokens(count * pool.spec().block_tokens, seed);
    auto keys = pool.chain(tokens);
    if (!keys) FAIL(keys.error().detail);
    return *keys;
}

/// The group of one of its blocks.
[[nodiscard]] inline std::uint64_t group_of(const client::PoolClient& pool,
                                            std::span<const client::Digest> chain, std::size_t index) {
    return model::group_key(chain, static_cast<std::uint32_t>(index), pool.spec().group_blocks);
}

/// Fills `out` with bytes that are a function of `seed` and of where they stand.
inline void fill_pattern(MutableBytes out, std::uint64_t seed) {
    Rng words(seed);
    for (std::size_t at = 0; at < out.size(); at += sizeof(std::uint64_t)) {
        const std::uint64_t word = words.next();
        std::memcpy(out.data() + at, &word, std::min(sizeof word, out.size() - at));
    }
}
[[nodiscard]] inline std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed) {
    std::vector<std::byte> out(bytes);
    fill_pattern(out, seed);
    return out;
}

/// Stores one block of a chain, or one that is in none.
inline client::Outcome put_one(client::PoolClient& pool, const client::Digest& key, Bytes bytes,
                               const client::CallOptions& options = {}) {
    const client::PutItem item{.key = key, .from = {&bytes, 1}};
    return pool.put({&item, 1}, options).blocks.front().outcome;
}
[[nodiscard]] inline client::BlockResult get_one(client::PoolClient& pool, const client::Digest& key,
                                                 MutableBytes into, const client::CallOptions& options = {}) {
    const client::GetItem item{key, {&into, 1}};
    return pool.get({&item, 1}, options).blocks.front();
}

/// One of the server's numbers; 2^64 - 1 where it does not say.
[[nodiscard]] inline std::uint64_t statistic(client::PoolClient& pool, std::string_view name) {
    const auto all = pool.stats({.deadline = 5s});
    if (!all) return UINT64_MAX;
    const auto found = std::ranges::find(*all, name, &client::Statistic::name);
    return found == all->end() ? UINT64_MAX : found->value;
}

/// The same of all members together; what one does not say counts nothing.
[[nodiscard]] inline std::uint64_t statistic_of_all(client::PoolClient& pool, std::string_view name) {
    std::uint64_t sum = 0;
    for (const auto& member : pool.member_stats({.deadline = 2s})) {
        const auto found = std::ranges::find(member.statistics, name, &client::Statistic::name);
        if (found != member.statistics.end()) sum += found->value;
    }
    return sum;
}

/// Asks until the answer is yes; false when it was not within `limit`.
template <class Question>
[[nodiscard]] bool comes_true(Question question, std::chrono::milliseconds limit = 10s) {
    const auto until = std::chrono::steady_clock::now() + limit;
    do {
        if (question()) return true;
    } while (std::chrono::steady_clock::now() < until);
    return false;
}

}  // namespace cmpool::testing
