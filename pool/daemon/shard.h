#pragma once

#include "data_loop.h"
#include "meta_directory.h"
#include "processes.h"

#include <cstdint>
#include <memory>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/pool/server.h>

namespace cmpool::daemon {

/// What all shards of a daemon are made from. All of it outlives them.
struct Common {
    const Clock& clock;
    Entropy& entropy;
    transport::Fabric& memory;
    MetaThread& meta_thread;
};

/// The shards of one daemon, a thread each: the first serves on the thread that calls run() and is where
/// clients come in, from where they move to the shard that they ask for.
///
///   Lifetime  the meta thread ends first: it answers into the loops
class Shards {
public:
    /// Divides the capacity. Errors: those of pool::Server::create().
    [[nodiscard]] static Result<std::unique_ptr<Shards>> create(const Common& common,
                                                                pool::ServerConfig config);

    [[nodiscard]] DataLoop& door() noexcept { return *shards_.front()->loop; }
    /// Tells every shard. From any thread, as long as run() has not returned.
    void set_view(const std::shared_ptr<const model::View>& view);
    void namespace_changed(const wire::NamespaceInfo& info);
    /// Serves until the first loop is stopped; then all are.
    void run();

private:
    struct Shard {
        std::unique_ptr<DataLoop> loop;
        std::unique_ptr<MetaDirectory> directory;
        std::unique_ptr<pool::Server> server;
    };

    PidfdWatch processes_;
    std::vector<std::unique_ptr<Shard>> shards_;
};

}  // namespace cmpool::daemon
