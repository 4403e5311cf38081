#pragma once

#include "harness.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

// What tests of the server ask it for, in a line each.
namespace cmpool::testing {

using AllOk = std::vector<wire::Outcome>;

/// Blocks to put, with their bytes.
struct Batch {
    void add(std::uint64_t number, std::uint32_t length, std::uint64_t parent = 0,
             std::uint32_t position = 0) {
        bytes.push_back(bytes_of(number, length));
        items.push_back({.checksum = model::checksum(bytes.back()),
                         .length = length,
                         .position = position,
                         .digest = digest_of(number),
                         .parent = parent == 0 ? model::kNoParent : digest_of(parent)});
    }
    [[nodiscard]] wire::Put put(std::uint32_t space = 1) const {
        return {.namespace_id = space, .items = items};
    }
    [[nodiscard]] std::vector<Bytes> gather() const { return {bytes.begin(), bytes.end()}; }

    std::deque<std::vector<std::byte>> bytes;
    std::vector<wire::PutItem> items;
};

inline Batch blocks(std::uint64_t first, std::uint64_t count, std::uint32_t length) {
    Batch batch;
    for (std::uint64_t number = first; number < first + count; ++number) batch.add(number, length);
    return batch;
}

inline std::vector<model::Digest> digests_of(std::uint64_t first, std::uint64_t count) {
    std::vector<model::Digest> all;
    for (std::uint64_t number = first; number < first + count; ++number) all.push_back(digest_of(number));
    return all;
}

inline std::vector<wire::Outcome> put(TestPool& pool, Client& client, const Batch& batch) {
    return pool.outcomes(client, client.ask(batch.put(), batch.gather()));
}

inline std::uint64_t ask_get(Client& client, const std::vector<model::Digest>& digests, std::uint32_t room,
                             bool verify = false) {
    const std::vector<std::uint32_t> rooms(digests.size(), room);
    return client.ask(wire::Get{.namespace_id = 1, .digests = digests, .bytes_max = rooms, .verify = verify});
}

inline std::vector<wire::Outcome> exists(TestPool& pool, Client& client,
                                         const std::vector<model::Digest>& digests) {
    return pool.outcomes(client, client.ask(wire::Exists{.namespace_id = 1, .digests = digests}));
}

inline wire::Matched match(TestPool& pool, Client& client, const std::vector<model::Digest>& chain,
                           std::uint32_t lease_ms) {
    return pool.expect<wire::Matched>(
        client, client.ask(wire::Match{.namespace_id = 1, .chain = chain, .lease_ms = lease_ms}));
}

inline void on_both(const std::function<void(Over)>& body) {
    for (const Over over : {Over::Tcp, Over::Shm}) {
        INFO("over " << (over == Over::Tcp ? "tcp" : "shm"));
        body(over);
    }
}

}  // namespace cmpool::testing
