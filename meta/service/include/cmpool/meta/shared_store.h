#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/meta/store.h>

namespace cmpool::meta {

/// A store that several nodes use at once: it also keeps leases, and tells of what others change.
///
///   Threads  as Store; event_fd() is readable while take_changes() has something
///   Errors   PeerDown, Deadline: it cannot be reached, or does not answer in time. Denied: it wants a proof
class SharedStore : public Store {
public:
    struct Change {
        Entry entry;         ///< `erase`: the key is gone
        std::string before;  ///< what lay there; empty for what is new
        std::uint64_t revision = 0;
    };
    struct Changes {
        bool whole =
            false;  ///< some may have been missed: this is all that is there of the view and of leases
        std::vector<Change> changes;
    };

    /// Entries that are written with the lease go when it has not been kept for `seconds`.
    [[nodiscard]] virtual Result<std::uint64_t> grant(std::chrono::seconds seconds) = 0;
    /// False: it has ended.
    [[nodiscard]] virtual Result<bool> keep(std::uint64_t lease) = 0;
    /// Ends it, with what hangs on it.
    [[nodiscard]] virtual Result<void> revoke(std::uint64_t lease) = 0;

    /// What has changed since the last call, in order, whoever changed it.
    [[nodiscard]] virtual std::vector<Changes> take_changes() = 0;
    [[nodiscard]] virtual int event_fd() const noexcept = 0;
};

/// Shortest lease that etcd grants with its usual timing.
inline constexpr std::chrono::seconds kEtcdLeaseMin{2};
inline constexpr std::size_t kEtcdEndpointsMax = 9;
inline constexpr std::string_view kEtcdScheme = "etcd://";

struct EtcdAddress {
    std::vector<std::string> endpoints;  ///< HOST:PORT each
    std::string prefix;                  ///< of all keys; ends with a slash
};
/// etcd://HOST:PORT[,HOST:PORT...][/PREFIX]; the prefix is "cmpool" where none is given. Errors: Invalid.
[[nodiscard]] Result<EtcdAddress> parse_etcd(std::string_view uri);

/// etcd by its JSON gateway (version 3, HTTP). Nothing is asked before the first call. A call that one
/// endpoint does not answer is made at the next one.
///
///   Threads  has one of its own, which watches
///   Limits   a call takes at most 500 ms at an endpoint, and is tried at each, at least twice; while nobody
///            has answered, at one
///   Source   etcd API reference v3.4: KV, Lease, Watch over gRPC gateway
[[nodiscard]] std::unique_ptr<SharedStore> open_etcd(EtcdAddress address);

}  // namespace cmpool::meta
