#pragma once

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/meta/memory_store.h>
#include <cmpool/meta/shared_store.h>

namespace cmpool::testing {

/// What etcd keeps, in simulated time, for all members of a simulated cluster. Like etcd it ends leases late
/// rather than early, and all those at once that have run out while it was frozen.
class SimStore {
public:
    explicit SimStore(const Clock& clock) : clock_(clock) {}

    /// Calls fail and changes are not told, as by a store that is frozen; leases run out all the same.
    void freeze(bool frozen) noexcept { frozen_ = frozen; }
    /// Emptied, as by somebody who lost its disk.
    void wipe() {
        kept_ = {};
        leases_.clear();
        told_.clear();
        ++wiped_;
    }

    /// One member's way to it.
    [[nodiscard]] std::unique_ptr<meta::SharedStore> connect();

private:
    class Link;
    struct Lease {
        std::chrono::seconds seconds;
        Instant ends;
        std::vector<std::string> keys;
    };

    void expire() {
        for (auto lease = leases_.begin(); lease != leases_.end();) {
            if (lease->second.ends > clock_.now()) {
                ++lease;
                continue;
            }
            const auto keys = lease->second.keys;
            lease = leases_.erase(lease);
            for (const auto& key : keys) {
                const meta::Entry gone{.key = key, .value = "", .erase = true};
                if (kept_.get(key).value()) (void)write({&gone, 1}, {});
            }
        }
    }
    Result<std::uint64_t> write(std::span<const meta::Entry> batch, std::span<const meta::Guard> guards) {
        std::vector<meta::SharedStore::Change> changes;
        for (const auto& entry : batch) {
            changes.push_back(
                {.entry = entry, .before = kept_.get(entry.key).value().value_or(""), .revision = 0});
        }
        auto written = kept_.write(batch, guards);
        if (!written) return written;
        for (auto& change : changes) {
            change.revision = *written;
            if (change.entry.lease != 0) leases_[change.entry.lease].keys.push_back(change.entry.key);
            told_.push_back(std::move(change));
        }
        return written;
    }

    const Clock& clock_;
    meta::MemoryStore kept_;
    std::map<std::uint64_t, Lease> leases_;
    std::uint64_t last_lease_ = 0;
    std::vector<meta::SharedStore::Change> told_;
    std::uint64_t wiped_ = 0;
    bool frozen_ = false;
};

class SimStore::Link final : public meta::SharedStore {
public:
    explicit Link(SimStore& store) : store_(store) {}

    Result<std::optional<meta::Found>> read(std::string_view key) override {
        if (!reach()) return silence();
        return store_.kept_.read(key);
    }
    Result<std::uint64_t> write(std::span<const meta::Entry> batch,
                                std::span<const meta::Guard> guards) override {
        if (!reach()) return silence();
        return store_.write(batch, guards);
    }
    Result<std::vector<meta::Entry>> scan(std::string_view prefix, std::string_view after,
                                          std::size_t limit) override {
        if (!reach()) return silence();
        return store_.kept_.scan(prefix, after, limit);
    }
    Result<std::uint64_t> grant(std::chrono::seconds seconds) override {
        if (!reach()) return silence();
        store_.leases_[++store_.last_lease_] = {seconds, store_.clock_.now() + seconds, {}};
        return store_.last_lease_;
    }
    Result<bool> keep(std::uint64_t lease) override {
        if (!reach()) return silence();
        const auto known = store_.leases_.find(lease);
        if (known == store_.leases_.end()) return false;
        known->second.ends = store_.clock_.now() + known->second.seconds;
        return true;
    }
    Result<void> revoke(std::uint64_t lease) override {
        if (!reach()) return silence();
        if (const auto known = store_.leases_.find(lease); known != store_.leases_.end())
            known->second.ends = Instant{};
        store_.expire();
        return {};
    }
    std::vector<Changes> take_changes() override {
        if (!reach()) return {};
        std::vector<Changes> news;
        if (!std::exchange(begun_, true) || wiped_ != store_.wiped_) {
            wiped_ = store_.wiped_;
            seen_ = store_.told_.size();
            Changes all{.whole = true, .changes = {}};
            for (const auto& [key, value] : store_.kept_.entries()) {
                const auto revision = store_.kept_.read(key).value()->revision;
                all.changes.push_back(
                    {.entry = {.key = key, .value = value}, .before = {}, .revision = revision});
            }
            news.push_back(std::move(all));
        } else if (seen_ < store_.told_.size()) {
            const auto from = store_.told_.begin() + static_cast<std::ptrdiff_t>(seen_);
            news.push_back({.whole = false, .changes = {from, store_.told_.end()}});
            seen_ = store_.told_.size();
        }
        return news;
    }
    [[nodiscard]] int event_fd() const noexcept override { return -1; }

private:
    [[nodiscard]] bool reach() {
        if (store_.frozen_) return false;
        store_.expire();
        return true;
    }
    static tl::unexpected<Error> silence() { return fail(Errc::Deadline, "the store is frozen"); }

    SimStore& store_;
    std::size_t seen_ = 0;
    std::uint64_t wiped_ = 0;
    bool begun_ = false;
};

inline std::unique_ptr<meta::SharedStore> SimStore::connect() { return std::make_unique<Link>(*this); }

}  // namespace cmpool::testing
