#include "shard.h"

#include "host.h"

#include <thread>
#include <utility>

#include <pthread.h>

namespace cmpool::daemon {

Result<std::unique_ptr<Shards>> Shards::create(const Common& common, pool::ServerConfig config) {
    auto shards = std::make_unique<Shards>();
    config.capacity_bytes /= config.shards;
    config.near_bytes /= config.shards;
    config.repair_bytes_per_second /= config.shards;
    config.scrub_bytes_per_second /= config.shards;
    for (config.shard = 0; config.shard < config.shards; ++config.shard) {
        // The first one speaks for the process, each for its thread.
        config.add_host_stats = [of_process =
                                     config.shard == 0 ? config.add_host_stats : nullptr](auto& stats) {
            if (of_process) of_process(stats);
            if (const auto time = processor_time()) {
                stats.push_back({"processor_ns", time->ran_ns, wire::Adds::Most});
                stats.push_back({"processor_wait_ns", time->waited_ns, wire::Adds::Most});
            }
        };
        auto shard = std::make_unique<Shard>();
        auto loop = DataLoop::create();
        if (!loop) return fail(loop.error());
        shard->loop = std::move(*loop);
        shard->directory = std::make_unique<MetaDirectory>(common.meta_thread, *shard->loop);
        auto server = pool::Server::create(config, common.clock, common.entropy, common.memory,
                                           *shard->directory, shards->processes_);
        if (!server) return fail(server.error());
        shard->server = std::move(*server);
        shards->shards_.push_back(std::move(shard));
    }
    // A job is copied around, a lane is not.
    shards->door().hand_over_by([all = shards.get()](std::uint32_t to, pool::Guest guest) {
        DataLoop& loop = *all->shards_[to]->loop;
        loop.post([&loop, guest = std::make_shared<pool::Guest>(std::move(guest))] {
            loop.welcome(std::move(*guest));
        });
    });
    return shards;
}

void Shards::set_view(const std::shared_ptr<const model::View>& view) {
    for (const auto& shard : shards_)
        shard->loop->post([server = shard->server.get(), view] { server->set_view(view); });
}

void Shards::namespace_changed(const wire::NamespaceInfo& info) {
    for (const auto& shard : shards_)
        shard->loop->post([server = shard->server.get(), info] { server->namespace_changed(info); });
}

void Shards::run() {
    std::vector<std::jthread> threads;
    for (std::size_t index = 1; index < shards_.size(); ++index) {
        threads.emplace_back([shard = shards_[index].get()] { shard->loop->run(*shard->server); });
        ::pthread_setname_np(threads.back().native_handle(), fmt::format("shard-{}", index).c_str());
    }
    shards_.front()->loop->run(*shards_.front()->server);
    for (std::size_t index = 1; index < shards_.size(); ++index) shards_[index]->loop->stop();
}

}  // namespace cmpool::daemon
