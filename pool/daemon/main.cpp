#include "host.h"
#include "meta_thread.h"
#include "options.h"
#include "shard.h"
#include "stop_signal.h"
#include "watched_store.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdio>
#include <exception>

#include <cmpool/base/units.h>
#include <cmpool/meta/office.h>
#include <cmpool/pool/server.h>
#include <cmpool/transport/fabric.h>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

namespace cmpool::daemon {
namespace {

void start_log(const std::string& level) {
    auto log = spdlog::stderr_logger_mt("cmpoold");
    log->set_pattern("time %Y-%m-%dT%H:%M:%S.%e%z level %l %v");
    log->set_level(spdlog::level::from_str(level == "warn" ? "warning" : level));
    spdlog::set_default_logger(std::move(log));
}

/// What this process counts beside its shards.
struct HostCounts {
    std::atomic<std::uint64_t> accepts_refused{0};
    std::atomic<std::uint64_t> store_failures{0};
};

/// Adds what only the process knows: `counts`, and what it takes beside segments, now and when it began to
/// serve. A client has as many pages at each shard as at this one.
auto host_stats(std::uint32_t shards, const HostCounts& counts, const MetaThread& meta) {
    return [shards, &counts, &meta, start = resident_private_bytes(0)](std::vector<wire::Stat>& stats) {
        const auto named = [&](std::string_view name) {
            return std::ranges::find(stats, name, &wire::Stat::name);
        };
        const auto pages = named("client_pages");
        const auto own = resident_private_bytes(pages == stats.end() ? 0 : pages->value * shards);
        if (const auto index = named("private_bytes"); index != stats.end()) index->value += own;
        stats.push_back({"private_start_bytes", start});
        stats.push_back({"accepts_refused", counts.accepts_refused.load(std::memory_order_relaxed)});
        stats.push_back({"meta_store_failures", counts.store_failures.load(std::memory_order_relaxed)});
        stats.push_back({"meta_silent", meta.meta_silent() ? 1u : 0u});
    };
}

pool::ServerConfig server_config(const Options& options, std::uint64_t capacity_bytes,
                                 const std::string& local_address, const HostCounts& counts,
                                 const MetaThread& meta) {
    pool::ServerConfig config;
    config.capacity_bytes = capacity_bytes;
    config.segment_bytes = options.segment_bytes;
    config.near_bytes = options.near_bytes +
                        static_cast<std::uint64_t>(options.near_share * static_cast<double>(capacity_bytes));
    config.prefault = options.prefault;
    config.node_name = options.name;
    config.version = CMPOOL_VERSION;
    config.local_address = local_address;
    config.shards = options.shards;
    config.clients_max = options.clients_max;
    config.hello_within = std::chrono::milliseconds(options.hello_within_ms);
    config.add_host_stats = host_stats(options.shards, counts, meta);
    return config;
}

/// Where others reach us: a wildcard is no address.
std::string advertised(const Options& options, const std::string& address) {
    if (!options.advertise.empty()) return options.advertise;
    const auto colon = address.rfind(':');
    const std::string host = address.substr(0, colon);
    if (host != "0.0.0.0" && host != "[::]") return address;
    return host_name() + address.substr(colon);
}

meta::OfficeConfig cluster_config(const Options& options, std::uint64_t capacity_bytes,
                                  const std::string& address, Entropy& entropy) {
    const auto gibibytes = static_cast<std::uint32_t>((capacity_bytes + GiB - 1) / GiB);
    return {.self = {.incarnation = entropy.next_u64() | 1,
                     .name = options.name,
                     .address = advertised(options, address),
                     .host = options.host,
                     .zone = options.zone,
                     .weight = options.weight != 0 ? options.weight : gibibytes},
            .cluster_key = options.cluster_key,
            .admin_uid = ::geteuid(),
            .times = {.lease = std::chrono::milliseconds(options.lease_ms)}};
}

/// Where clients read this host's memory one-sided.
struct Plane {
    std::unique_ptr<transport::Fabric> fabric;
    std::unique_ptr<transport::Listener> listener;
    std::string address;  ///< NAME://HOST:PORT
};

Result<Plane> open_plane(const std::string& text, Entropy& entropy) {
    const auto wanted = transport::parse_plane(text);
    if (!wanted) return fail(wanted.error());
    auto fabric = transport::open_plane(wanted->name, entropy);
    if (!fabric) return fail(fabric.error());
    auto listener = (*fabric)->listen(wanted->address);
    if (!listener) return fail(listener.error());
    auto address = fmt::format("{}://{}", wanted->name, (*listener)->address());
    for (const auto& line : (*fabric)->explain())
        spdlog::info("event plane address {} through \"{}\"", address, line);
    return Plane{std::move(*fabric), std::move(*listener), std::move(address)};
}

Result<void> serve(const Options& options) {
    StopSignal signal;  // from here on a signal ends us only after cleaning up
    const auto descriptors = raise_descriptor_limit();
    if (!descriptors) return fail(descriptors.error());

    // Whoever holds both folders is alone with them, so what lies there is a dead run's.
    if (auto ready = prepare_runtime_folder(options.runtime_dir); !ready) return ready;
    if (auto ready = prepare_data_folder(options.data_dir); !ready) return ready;
    const auto runtime_lock = FolderLock::take(options.runtime_dir);
    if (!runtime_lock) return fail(runtime_lock.error());
    const auto data_lock = FolderLock::take(options.data_dir);
    if (!data_lock) return fail(data_lock.error());
    const auto removed = transport::remove_stale_segments(options.runtime_dir);
    if (!removed) return fail(removed.error());
    if (*removed > 0) spdlog::info("event stale_segments_removed count {}", *removed);
    const auto capacity_bytes = choose_capacity(options.capacity_bytes, options.runtime_dir);
    if (!capacity_bytes) return fail(capacity_bytes.error());

    SystemClock clock;
    SystemEntropy entropy;
    HostCounts counts;
    auto opened_store = meta::open_rocksdb(options.data_dir + "/meta");
    if (!opened_store) return fail(opened_store.error());
    const auto store = watched(std::move(*opened_store), clock, counts.store_failures);
    const auto shm = transport::open_shm({.runtime_dir = options.runtime_dir}, entropy);
    const auto tcp = transport::open_tcp(entropy);
    auto remote = tcp->listen(options.listen);
    if (!remote) return fail(remote.error());
    auto local = shm->listen(options.runtime_dir + "/cmpoold.sock");
    if (!local) return fail(local.error());
    Plane plane;
    if (!options.plane.empty()) {
        auto opened = open_plane(options.plane, entropy);
        if (!opened) return fail(opened.error().code, "--plane {}: {}", options.plane, opened.error().detail);
        plane = std::move(*opened);
    }
    const std::string address = (*remote)->address();
    auto office_config = cluster_config(options, *capacity_bytes, address, entropy);
    office_config.network = tcp.get();
    std::unique_ptr<meta::SharedStore> shared;
    auto office = [&]() -> Result<std::unique_ptr<meta::Office>> {
        if (options.meta.empty()) return meta::open_head_office(*store, clock, entropy, office_config);
        if (!options.meta.starts_with(meta::kEtcdScheme))
            return meta::open_branch(*store, clock, entropy, *tcp, options.meta, office_config);
        auto etcd = meta::parse_etcd(options.meta);
        if (!etcd) return fail(etcd.error().code, "--meta: {}", etcd.error().detail);
        shared = meta::open_etcd(std::move(*etcd));
        return meta::open_peer_office(*store, *shared, clock, entropy, office_config);
    }();
    if (!office) return fail(office.error());
    const std::uint64_t node_id = (*office)->node_id();

    // Outlived by the loops that its answers go to, outliving nothing that it asks.
    auto meta_thread = std::make_unique<MetaThread>(std::move(*office), clock);
    auto config = server_config(options, *capacity_bytes, (*local)->address(), counts, *meta_thread);
    config.node_id = node_id;
    config.network = tcp.get();
    config.cluster_key = options.cluster_key;
    config.repair_bytes_per_second = options.repair_bytes_per_second;
    config.scrub_bytes_per_second = options.scrub_bytes_per_second;
    config.one_sided = plane.fabric.get();
    if (plane.fabric != nullptr) config.planes = {plane.address};
    auto shards = Shards::create({clock, entropy, *shm, *meta_thread}, std::move(config));
    if (!shards) return fail(shards.error());
    meta_thread->start([all = shards->get()](const auto& view) { all->set_view(view); },
                       [all = shards->get()](const auto& info) { all->namespace_changed(info); });
    (*shards)->door().listen(std::move(*remote));
    (*shards)->door().listen(std::move(*local));
    if (plane.listener != nullptr) (*shards)->door().listen(std::move(plane.listener));
    (*shards)->door().stop_on(signal.fd());
    const auto clients_below = std::min<std::uint64_t>(*descriptors - kDescriptorsKept, INT_MAX);
    (*shards)->door().keep_free({static_cast<int>(clients_below), &counts.accepts_refused});
    spdlog::info("event ready address {} node {:016x} capacity_bytes {} shards {} descriptors_max {}",
                 address, node_id, *capacity_bytes, options.shards, *descriptors);
    fmt::print("ready cmpool://{}\n", address);
    std::fflush(stdout);
    (*shards)->run();
    meta_thread.reset();
    return {};
}

}  // namespace
}  // namespace cmpool::daemon

int main(int argc, char** argv) {
    using namespace cmpool::daemon;
    try {
        const auto parsed = parse_options(argc, argv);
        if (!parsed.options) return parsed.exit_code;
        start_log(parsed.options->log_level);
        if (auto served = serve(*parsed.options); !served) {
            fmt::print(stderr, "cmpoold: {}\n", served.error().detail);
            return 1;
        }
        spdlog::info("event stopped");
        return 0;
    } catch (const std::exception& error) {
        fmt::print(stderr, "cmpoold: stopped by what should not have happened: {}\n", error.what());
        return 1;
    }
}
