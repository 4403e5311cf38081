#include "watched_store.h"

#include <cmpool/base/rarely.h>

#include <spdlog/spdlog.h>

namespace cmpool::daemon {
namespace {

class WatchedStore final : public meta::Store {
public:
    WatchedStore(std::unique_ptr<meta::Store> store, const Clock& clock, std::atomic<std::uint64_t>& failures)
        : store_(std::move(store)), clock_(clock), failures_(failures) {}

    Result<std::optional<meta::Found>> read(std::string_view key) override {
        return seen(store_->read(key), reading_);
    }
    Result<std::uint64_t> write(std::span<const meta::Entry> batch,
                                std::span<const meta::Guard> guards) override {
        auto written = store_->write(batch, guards);
        // A lost race says nothing of the disk.
        if (!written && written.error().code == Errc::Again) return written;
        return seen(std::move(written), writing_);
    }
    Result<std::vector<meta::Entry>> scan(std::string_view prefix, std::string_view after,
                                          std::size_t limit) override {
        return seen(store_->scan(prefix, after, limit), reading_);
    }

private:
    /// Reads may go well while writes fail, and the other way round.
    struct Health {
        const char* doing;
        bool fails = false;
        Rarely said{};
    };

    template <class T>
    Result<T> seen(Result<T> result, Health& health) {
        if (!result) {
            failures_.fetch_add(1, std::memory_order_relaxed);
            health.fails = true;
            if (const auto times = health.said.happened(clock_.now())) {
                spdlog::error("event meta_store_failed doing {} times {} detail \"{}\"", health.doing, *times,
                              result.error().detail);
            }
        } else if (std::exchange(health.fails, false)) {
            spdlog::warn("event meta_store_well doing {}", health.doing);
        }
        return result;
    }

    std::unique_ptr<meta::Store> store_;
    const Clock& clock_;
    std::atomic<std::uint64_t>& failures_;
    Health reading_{"reading"};
    Health writing_{"writing"};
};

}  // namespace

std::unique_ptr<meta::Store> watched(std::unique_ptr<meta::Store> store, const Clock& clock,
                                     std::atomic<std::uint64_t>& failures) {
    return std::make_unique<WatchedStore>(std::move(store), clock, failures);
}

}  // namespace cmpool::daemon
