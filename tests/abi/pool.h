#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <cmpool.h>
#include <doctest/doctest.h>

namespace abi {

struct Close {
    void operator()(cmpool_pool* pool) const { cmpool_close(pool); }
};
using Pool = std::unique_ptr<cmpool_pool, Close>;

inline cmpool_error no_error() {
    cmpool_error error{};
    error.size = sizeof error;
    return error;
}

/// A namespace like any other, of chains of 4 tokens a block.
inline Pool open(const std::string& uri, const char* model = "test") {
    const cmpool_namespace space{
        .size = sizeof space, .model = model, .revision = "1", .dtype = "u8", .block_tokens = 4};
    cmpool_pool* pool = nullptr;
    auto error = no_error();
    const auto code = cmpool_open(uri.c_str(), &space, &pool, &error);
    CAPTURE(std::string(error.text));
    REQUIRE(code == CMPOOL_OK);
    return Pool(pool);
}

inline std::vector<cmpool_digest> chain(cmpool_pool* pool, std::size_t blocks, std::uint32_t seed = 7) {
    const std::vector<std::uint32_t> tokens(blocks * 4 + 3, seed);
    std::vector<cmpool_digest> keys(blocks);
    std::size_t count = 0;
    REQUIRE(cmpool_chain(pool, tokens.data(), tokens.size(), keys.data(), keys.size(), &count, nullptr) ==
            CMPOOL_OK);
    REQUIRE(count == blocks);
    return keys;
}

/// Blocks of a chain with a byte of their own, and what a call says about them.
struct Blocks {
    Blocks(cmpool_pool* pool, const std::vector<cmpool_digest>& keys, std::size_t bytes)
        : memory(keys.size(), std::vector<std::uint8_t>(bytes)), results(keys.size()) {
        for (std::size_t at = 0; at < keys.size(); ++at) {
            std::fill(memory[at].begin(), memory[at].end(), static_cast<std::uint8_t>(at + 1));
            into.push_back({memory[at].data(), bytes});
            from.push_back({memory[at].data(), bytes});
        }
        for (std::size_t at = 0; at < keys.size(); ++at) {
            const auto position = static_cast<std::uint32_t>(at);
            const auto group = cmpool_group(pool, keys.data(), position);
            gets.push_back({.size = sizeof gets[0],
                            .key = keys[at],
                            .into = &into[at],
                            .into_count = 1,
                            .group = group});
            puts.push_back({.size = sizeof puts[0],
                            .key = keys[at],
                            .parent = at == 0 ? cmpool_digest{} : keys[at - 1],
                            .from = &from[at],
                            .from_count = 1,
                            .group = group,
                            .position = position});
        }
        results[0].size = sizeof results[0];
    }
    void clear() {
        for (auto& block : memory) std::fill(block.begin(), block.end(), 0);
    }
    [[nodiscard]] bool as_put() const {
        for (std::size_t at = 0; at < memory.size(); ++at) {
            for (const auto byte : memory[at])
                if (byte != static_cast<std::uint8_t>(at + 1)) return false;
        }
        return true;
    }
    [[nodiscard]] std::size_t count(std::uint32_t outcome) const {
        std::size_t found = 0;
        for (const auto& result : results) found += result.outcome == outcome ? 1 : 0;
        return found;
    }

    std::vector<std::vector<std::uint8_t>> memory;
    std::vector<cmpool_span> into;
    std::vector<cmpool_view> from;
    std::vector<cmpool_get_item> gets;
    std::vector<cmpool_put_item> puts;
    std::vector<cmpool_result> results;
};

}  // namespace abi
