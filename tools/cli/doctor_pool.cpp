#include "doctor.h"
#include "print.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>

#include <fmt/format.h>
#include <unistd.h>

namespace cmpool::cli {
namespace {

using client::Outcome;

constexpr std::size_t kSmallBytes = 4 * KiB;
/// Large enough that the pool reads it from our memory where it can.
constexpr std::size_t kLargeBytes = 1 * MiB;
constexpr int kRounds = 31;

// ---- the round trip ----

/// Microseconds that each step took, one number a round.
struct Times {
    std::vector<double> put, match, get, remove;
};

double median(std::vector<double> values) {
    if (values.empty()) return 0;
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

Error unexpected(const char* step, const std::optional<Error>& trouble) {
    const std::string why = trouble ? trouble->detail : "the pool answered that it is not there";
    return {trouble ? trouble->code : Errc::Corrupt, fmt::format("{} failed: {}", step, why)};
}

class RoundTrip {
public:
    RoundTrip(client::PoolClient& pool, std::size_t bytes)
        : pool_(pool), sent_(bytes), back_(bytes), seed_(SystemEntropy().next_u64()) {}

    /// Put, match, get, compare, remove: each must do what it says.
    [[nodiscard]] Result<Times> run(int rounds) {
        Times times;
        for (int round = 0; round < rounds; ++round) {
            for (std::size_t at = 0; at < sent_.size(); ++at)
                sent_[at] = static_cast<std::byte>(at * 31 + static_cast<std::size_t>(round));
            const auto key = pool_.key(as_bytes(fmt::format("{}-{:x}-{}", ::getpid(), seed_, round)));
            if (!key) return fail(key.error());
            auto done = once(*key, times);
            if (!done) {
                pool_.remove({&*key, 1});
                return fail(done.error());
            }
        }
        return times;
    }

private:
    template <class Step>
    auto timed(std::vector<double>& into, const Step& step) {
        const Instant begun = clock_.now();
        auto result = step();
        into.push_back(milliseconds(clock_.now() - begun) * 1e3);
        return result;
    }

    Result<void> once(const client::Digest& key, Times& times) {
        const Bytes from[] = {sent_};
        const MutableBytes into[] = {back_};
        const client::PutItem put{.key = key, .from = from};
        const client::GetItem get{.key = key, .into = into};
        std::fill(back_.begin(), back_.end(), std::byte{0});

        const auto stored = timed(times.put, [&] { return pool_.put({&put, 1}); });
        if (stored.count(Outcome::Stored) != 1) return fail(unexpected("put", stored.trouble));
        {
            const auto match = timed(times.match, [&] { return pool_.match({&key, 1}); });
            if (match.blocks() != 1) return fail(unexpected("match", match.trouble()));
        }
        const auto got = timed(times.get, [&] { return pool_.get({&get, 1}, {.verify = true}); });
        if (got.count(Outcome::Hit) != 1) return fail(unexpected("get", got.trouble));
        if (back_ != sent_) return fail(Errc::Corrupt, "get returned other bytes than were put");
        const auto removed = timed(times.remove, [&] { return pool_.remove({&key, 1}); });
        if (removed.count(Outcome::Hit) != 1) return fail(unexpected("rm", removed.trouble));
        return {};
    }

    client::PoolClient& pool_;
    SystemClock clock_;
    std::vector<std::byte> sent_;
    std::vector<std::byte> back_;
    std::uint64_t seed_;
};

// ---- what the pool says of itself ----

void check_version(Checks& checks, const client::Status& status) {
    const bool same = status.version == CMPOOL_VERSION;
    checks.push_back({"version", same ? Health::Ok : Health::Warn,
                      fmt::format("both sides speak protocol {}; cmpoold is {}, cmpool-cli is {}",
                                  status.protocol, status.version, CMPOOL_VERSION),
                      same ? "" : "it works, but they were not tested together: run one version"});
}

bool is_loopback(std::string_view address) {
    return address.starts_with("127.") || address.starts_with("localhost:") || address.starts_with("[::1]");
}

void check_transport(Checks& checks, const client::Status& status, const client::PoolUri& uri) {
    Check check{"transport", Health::Ok, status.plane, {}};
    if (status.transport == "shm") {
        check.detail += "; a match sends no message, a get copies once";
    } else if (status.pool_uid) {
        check.health = Health::Warn;
        check.advice = "the pool's memory could not be mapped: a match costs a message, a get one copy more";
    } else if (is_loopback(uri.address) && uri.transport == client::Transport::Auto) {
        check.health = Health::Warn;
        check.advice =
            fmt::format("the pool is on this host: let this process see {}, and the same files there",
                        status.local_address);
    } else {
        check.detail += "; every call is a round trip, and bytes cross the network stack";
    }
    checks.push_back(std::move(check));
}

// Other hosts' readers: this one's own pool it maps.
void check_plane(Checks& checks, const client::Status& status) {
    if (status.transport == "shm") return;
    const bool reads = status.kv != status.transport;
    checks.push_back({"kv", Health::Ok, status.kv_plane,
                      reads ? "" : "blocks come as messages, copied by the pool's processor"});
}

void check_pull(Checks& checks, const client::Status& status) {
    if (!status.pool_uid) return;
    if (status.pulls) {
        checks.push_back(
            {"pull", Health::Ok, "the pool reads what is put from this process's memory: one copy", {}});
    } else {
        checks.push_back(
            {"pull", Health::Warn,
             "the pool may not read this process's memory, so what is put goes through a socket",
             "look at /proc/sys/kernel/yama/ptrace_scope, and at the container's seccomp filter and "
             "capabilities (process_vm_readv, CAP_SYS_PTRACE)"});
    }
}

void check_trust(Checks& checks, const client::Status& status, const client::NamespaceSpec& spec) {
    if (status.pool_uid && *status.pool_uid == ::geteuid()) {
        checks.push_back({"uid", Health::Warn,
                          fmt::format("the pool runs as uid {}, as this process does: it counts as the pool "
                                      "itself, and could overwrite what others read",
                                      *status.pool_uid),
                          "where engines are not trusted, run cmpoold as a user of its own"});
    } else if (status.pool_uid) {
        checks.push_back({"uid",
                          Health::Ok,
                          fmt::format("the pool runs as uid {}, this process as {}: it can read its tenant's "
                                      "memory and write none",
                                      *status.pool_uid, ::geteuid()),
                          {}});
    }
    if (spec.tenant == model::kDefaultTenant) {
        checks.push_back({"tenant", Health::Warn,
                          "this is tenant \"default\", which is open to everyone who reaches the pool",
                          "name a tenant where not all are friends: ?tenant=NAME&key=SECRET in the URI; the "
                          "first to use a name owns it"});
    } else {
        checks.push_back({"tenant",
                          Health::Ok,
                          fmt::format("this is tenant \"{}\", which only its owner can open", spec.tenant),
                          {}});
    }
}

void check_groups(Checks& checks) {
    checks.push_back(
        {"groups", Health::Ok,
         "with opaque keys each block is placed by itself (a group of 1): one node holds all "
         "today, so that costs nothing",
         "over several nodes a lost one would cut nearly every prefix: give blocks of one chain one "
         "PutItem::group"});
}

void check_counts(Checks& checks, client::PoolClient& pool) {
    const auto stats = pool.stats();
    if (!stats) {
        checks.push_back({"memory", Health::Fail, stats.error().detail, {}});
        return;
    }
    std::map<std::string, std::uint64_t> values;
    for (const auto& [name, value] : *stats) values[name] = value;
    checks.push_back(
        {"memory",
         Health::Ok,
         fmt::format("{} of {} in use by {} blocks, {} evicted since the start; a block fits below {}",
                     format_bytes(values["block_bytes"]), format_bytes(values["capacity_bytes"]),
                     grouped(values["blocks"]), grouped(values["evicted_blocks"]),
                     format_bytes(std::min(values["segment_bytes"], model::kBlockBytesMax))),
         {}});
    if (values["meta_silent"] > 0) {
        checks.push_back(
            {"meta", Health::Warn,
             "the node or the etcd that --meta names gives this node no answer, or refuses it",
             "gets and puts go on; new namespaces and members, and changes of them, wait: look at whether it "
             "runs, at the network between, and at cmpoold's log"});
    }
    if (values["meta_store_failures"] > 0) {
        checks.push_back(
            {"store", Health::Warn,
             fmt::format("what this node keeps on its own disk has failed {} times since the start",
                         grouped(values["meta_store_failures"])),
             "gets and puts go on: look at the room on the disk of --data-dir, and at cmpoold's "
             "log"});
    }
    if (values["put_refused"] > 0) {
        checks.push_back(
            {"refusals", Health::Warn,
             fmt::format("{} blocks were refused: larger than a segment, or all memory was in use by "
                         "readers",
                         grouped(values["put_refused"])),
             "give cmpoold a greater --segment or more --capacity, or take shorter leases"});
    }
    if (values["corrupt_blocks"] > 0) {
        checks.push_back({"corruption", Health::Warn,
                          fmt::format("{} blocks did not have their checksum; they were dropped as misses",
                                      grouped(values["corrupt_blocks"])),
                          "test the host's memory; a client of the pool's own uid can also have done it"});
    }
}

}  // namespace

void check_pool(Checks& checks, client::PoolClient& pool, const client::PoolUri& uri) {
    const auto status = pool.status();
    check_version(checks, status);
    check_transport(checks, status, uri);
    check_plane(checks, status);
    check_pull(checks, status);
    check_trust(checks, status, pool.spec());
    check_groups(checks);
    check_counts(checks, pool);
}

void check_round_trip(Checks& checks, client::PoolClient& pool) {
    const auto large = RoundTrip(pool, kLargeBytes).run(1);
    const auto small = large ? RoundTrip(pool, kSmallBytes).run(kRounds) : large;
    if (!small) {
        checks.push_back({"round trip", Health::Fail, small.error().detail,
                          "look at cmpoold's log, and at cmpool-cli stats"});
        return;
    }
    checks.push_back(
        {"round trip",
         Health::Ok,
         fmt::format("{} come back as they went in: put {:.0f} us, match {:.1f} us, get {:.1f} us, "
                     "rm {:.0f} us (median of {})",
                     format_bytes(kSmallBytes), median(small->put), median(small->match), median(small->get),
                     median(small->remove), kRounds),
         {}});
}

}  // namespace cmpool::cli
