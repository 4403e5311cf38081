#pragma once

#include "stage.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace cmpool::testing {

/// Several members, the first of which keeps meta, one namespace, and no chance.
struct Team {
    struct Options {
        std::size_t members = 5;
        std::uint32_t replicas = 1;
        ServerOptions server{.capacity_bytes = 4 * MiB};
        bool share_store = false;  ///< members are equal, and keep meta in a store that they share
        UniverseOptions blocks{.chains = 6, .chain_blocks_max = 40, .block_bytes_max = 4096};
    };
    explicit Team(Options its_options) : options(std::move(its_options)) {
        options.server.processes = std::make_shared<SimProcesses>(false);
        if (options.share_store) options.server.shared = &store;
        for (std::size_t number = 0; number < options.members; ++number) add();
        space = draw_space(head().controller(), rng, "one", "r1", options.blocks);
        const model::Credential proof{.uid = {}, .tenant_key = space.tenant_key};
        REQUIRE(head().controller().change(space.spec, proof, {.replicas = options.replicas}));
        run_while([&] { return !agreed(options.members); });
        for (std::size_t block = 0; block < space.blocks.size(); ++block) all.push_back(block);
    }

    ServerHost& add() {
        auto server = options.server;
        server.host = fmt::format("node-{}", nodes.size());
        if (!nodes.empty() && server.shared == nullptr) server.meta = "node-0";
        nodes.push_back(std::make_unique<ServerHost>(world, server, 7 + nodes.size()));
        return *nodes.back();
    }
    [[nodiscard]] ServerHost& head() { return *nodes.front(); }
    /// All who run know the same view, in which so many serve.
    [[nodiscard]] bool agreed(std::size_t serving) const {
        const model::View* view = nullptr;
        for (const auto& node : nodes) {
            if (!node->running() || node->frozen()) continue;
            if (view != nullptr && node->view() != *view) return false;
            view = &node->view();
        }
        return view != nullptr && serving == static_cast<std::size_t>(std::count_if(
                                                 view->members.begin(), view->members.end(),
                                                 [](const auto& member) { return member.owns(); }));
    }
    ClientHost& client(const std::string& name, bool mapped) {
        clients.push_back(
            std::make_unique<ClientHost>(world, head(), name, space.spec,
                                         ClientHost::Options{.mapped = mapped,
                                                             .tenant_key = space.tenant_key,
                                                             .others = {ServerHost::address_of("node-1")}}));
        ClientHost& added = *clients.back();
        run_while([&] {
            const auto status = added.pool().status();
            return !added.ready() || status.members != serving();
        });
        return added;
    }
    /// One that runs on a member's host, whose memory it maps; it reaches the others over the network.
    ClientHost& neighbour(const std::string& name, std::size_t node) {
        clients.push_back(std::make_unique<ClientHost>(
            world, *nodes[node], name, space.spec,
            ClientHost::Options{
                .one_host = true,
                .tenant_key = space.tenant_key,
                .others = {ServerHost::address_of("node-0"), ServerHost::address_of("node-1")}}));
        ClientHost& added = *clients.back();
        run_while([&] {
            const auto status = added.pool().status();
            return !added.ready() || status.members != serving();
        });
        return added;
    }
    [[nodiscard]] std::uint32_t serving() const {
        for (const auto& node : nodes) {
            if (!node->running()) continue;
            return static_cast<std::uint32_t>(
                std::count_if(node->view().members.begin(), node->view().members.end(),
                              [](const auto& member) { return member.owns(); }));
        }
        return 0;
    }

    /// Steps as long as `condition` holds; it must end within a simulated minute.
    void run_while(const std::function<bool()>& condition) {
        const Instant limit = world.clock().now() + std::chrono::minutes(1);
        while (condition() && world.clock().now() < limit && world.step()) {
        }
        REQUIRE(!condition());
    }
    void run(Nanos time) { world.run_until(world.clock().now() + time); }

    /// Every call ends by its deadline, whatever happens.
    client::Report finish(ClientHost& client, client::Pending<client::Report> call) {
        const Instant begun = world.clock().now();
        client.arm();
        run_while([&] { return !call.done(); });
        CHECK(world.clock().now() - begun <= client.deadline());
        took = world.clock().now() - begun;
        return call.take();
    }
    client::Report put(ClientHost& client, const std::vector<std::size_t>& blocks) {
        Stage::Putting putting(space, blocks);
        return finish(client, client.pool().start_put(putting.items));
    }
    /// Bytes are compared.
    client::Report get(ClientHost& client, const std::vector<std::size_t>& blocks) {
        std::vector<std::vector<std::byte>> buffers;
        std::vector<MutableBytes> pieces;
        std::vector<client::GetItem> items;
        for (const std::size_t block : blocks) buffers.emplace_back(space.blocks[block].bytes.size());
        for (auto& buffer : buffers) pieces.emplace_back(buffer);
        for (std::size_t at = 0; at < blocks.size(); ++at)
            items.push_back({space.blocks[blocks[at]].key, {&pieces[at], 1}, space.blocks[blocks[at]].group});
        auto report = finish(client, client.pool().start_get(items));
        for (std::size_t at = 0; at < blocks.size(); ++at) {
            if (report.blocks[at].outcome == client::Outcome::Hit)
                CHECK(buffers[at] == space.blocks[blocks[at]].bytes);
        }
        return report;
    }
    client::Match match(ClientHost& client, const std::vector<std::size_t>& blocks,
                        std::uint32_t lease_ms = 100) {
        const auto keys = space.keys(blocks);
        auto call = client.pool().start_match(keys, lease_ms);
        client.arm();
        run_while([&] { return !call.done(); });
        return call.take();
    }
    /// Summed over the members that run.
    [[nodiscard]] std::uint64_t stat(const char* name) const {
        std::uint64_t sum = 0;
        for (const auto& node : nodes) sum += node->running() ? node->stat(name) : 0;
        return sum;
    }

    Options options;
    SimWorld world{3};
    SimStore store{world.clock()};
    std::vector<std::unique_ptr<ServerHost>> nodes;
    Rng rng{11};
    Space space;
    std::vector<std::size_t> all;  ///< blocks
    std::vector<std::unique_ptr<ClientHost>> clients;
    Nanos took{0};  ///< by the last call
};

}  // namespace cmpool::testing
