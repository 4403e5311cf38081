#pragma once

#include "client_host.h"
#include "server_host.h"
#include "universe.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace cmpool::testing {

/// A cluster for one story: one tenant, one namespace, no chance.
struct Stage {
    explicit Stage(ServerOptions options = {.capacity_bytes = 4 * MiB},
                   UniverseOptions blocks = {.chains = 1, .chain_blocks_max = 4, .block_bytes_max = 4096})
        : server(world, std::move(options), 7),
          rng(11),
          space(draw_space(server.controller(), rng, "one", "r1", blocks)) {}

    ClientHost& client(const std::string& name, bool mapped, bool one_sided = false) {
        clients.push_back(std::make_unique<ClientHost>(
            world, server, name, space.spec,
            ClientHost::Options{.mapped = mapped, .one_sided = one_sided, .tenant_key = space.tenant_key}));
        ClientHost& added = *clients.back();
        run_while([&] { return !added.ready() || (one_sided && added.pool().status().kv != "sim"); });
        return added;
    }

    /// Steps as long as `condition` holds; it must end within a simulated minute.
    void run_while(const std::function<bool()>& condition) {
        const Instant limit = world.clock().now() + std::chrono::minutes(1);
        while (condition() && world.clock().now() < limit && world.step()) {
        }
        REQUIRE(!condition());
    }
    void run(Nanos time) { world.run_until(world.clock().now() + time); }

    client::Report finish(ClientHost& client, client::Pending<client::Report> call) {
        client.arm();
        run_while([&] { return !call.done(); });
        return call.take();
    }
    client::Report put(ClientHost& client, const std::vector<std::size_t>& blocks) {
        Putting putting(space, blocks);
        return finish(client, client.pool().start_put(putting.items));
    }
    /// A put with which a story begins.
    void store(ClientHost& client, const std::vector<std::size_t>& blocks) {
        REQUIRE(put(client, blocks).count(client::Outcome::Stored) == blocks.size());
    }
    client::Report get(ClientHost& client, const std::vector<std::size_t>& blocks) {
        Getting getting(space, blocks);
        auto report = finish(client, client.pool().start_get(getting.items));
        for (std::size_t at = 0; at < blocks.size(); ++at) {
            if (report.blocks[at].outcome == client::Outcome::Hit)
                CHECK(getting.buffers[at] == space.blocks[blocks[at]].bytes);
        }
        return report;
    }
    client::Match match(ClientHost& client, const std::vector<std::size_t>& blocks, std::uint32_t lease_ms) {
        const auto keys = space.keys(blocks);
        auto call = client.pool().start_match(keys, lease_ms);
        client.arm();
        run_while([&] { return !call.done(); });
        return call.take();
    }

    /// The items of a put, with what they point to.
    struct Putting {
        Putting(const Space& space, const std::vector<std::size_t>& blocks) {
            for (const std::size_t block : blocks) pieces.emplace_back(space.blocks[block].bytes);
            for (std::size_t at = 0; at < blocks.size(); ++at) {
                const KnownBlock& block = space.blocks[blocks[at]];
                items.push_back({.key = block.key,
                                 .from = {&pieces[at], 1},
                                 .parent = block.parent_key,
                                 .position = block.position,
                                 .group = block.group});
            }
        }
        std::vector<Bytes> pieces;
        std::vector<client::PutItem> items;
    };

    /// The items of a get, with room for what they ask.
    struct Getting {
        Getting(const Space& space, const std::vector<std::size_t>& blocks) {
            for (const std::size_t block : blocks) buffers.emplace_back(space.blocks[block].bytes.size());
            for (auto& buffer : buffers) pieces.emplace_back(buffer);
            for (std::size_t at = 0; at < blocks.size(); ++at) {
                const KnownBlock& block = space.blocks[blocks[at]];
                items.push_back({block.key, {&pieces[at], 1}, block.group});
            }
        }
        std::vector<std::vector<std::byte>> buffers;
        std::vector<MutableBytes> pieces;
        std::vector<client::GetItem> items;
    };

    SimWorld world{3};
    ServerHost server;
    Rng rng;
    Space space;
    std::vector<std::unique_ptr<ClientHost>> clients;
};

/// Nobody writes, and nobody keeps what others find no more.
[[nodiscard]] inline bool no_extents_left(ServerHost& server) {
    return server.stat("writing_bytes") == 0 && server.stat("doomed_bytes") == 0 &&
           server.stat("leases") == 0;
}

}  // namespace cmpool::testing
