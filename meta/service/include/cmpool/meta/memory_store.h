#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include <cmpool/meta/revisions.h>
#include <cmpool/meta/store.h>

namespace cmpool::meta {

/// A store in memory, for the simulated cluster and for tests of what a crash leaves behind.
///
///   Threads  one
class MemoryStore final : public Store {
public:
    /// What happens to a write that fails. Lost: nothing of it is there. Landed: it is there all the
    /// same, as when the disk wrote and the answer got lost.
    enum class Failure { Lost, Landed };

    [[nodiscard]] Result<std::optional<Found>> read(std::string_view key) override;
    [[nodiscard]] Result<std::uint64_t> write(std::span<const Entry> batch,
                                              std::span<const Guard> guards) override;
    [[nodiscard]] Result<std::vector<Entry>> scan(std::string_view prefix, std::string_view after,
                                                  std::size_t limit) override;

    /// After `writes` more batches each one fails, and so does every read: the disk is gone.
    void fail_after(std::uint64_t writes, Failure failure) noexcept;
    /// What a restart finds: the same entries, in good health.
    void restart() noexcept;
    [[nodiscard]] std::uint64_t writes() const noexcept { return writes_; }
    [[nodiscard]] const std::map<std::string, std::string, std::less<>>& entries() const noexcept {
        return entries_;
    }

private:
    std::map<std::string, std::string, std::less<>> entries_;
    Revisions revisions_;
    std::uint64_t writes_ = 0;
    std::uint64_t writes_left_ = UINT64_MAX;
    Failure failure_ = Failure::Lost;
    bool down_ = false;
};

}  // namespace cmpool::meta
