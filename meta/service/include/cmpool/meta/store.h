#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/result.h>

namespace cmpool::meta {

/// Most entries that one scan returns; ask again for what follows.
inline constexpr std::size_t kScanMax = 4096;

struct Entry {
    std::string key;
    std::string value;
    bool erase = false;       ///< in a batch: the key goes
    std::uint64_t lease = 0;  ///< in a batch for a shared store: the key goes with that lease

    friend bool operator==(const Entry&, const Entry&) = default;
};

struct Found {
    std::string value;
    std::uint64_t revision;  ///< another one after each write of the key
};

/// What must not have changed since it was read, for a write to happen.
struct Guard {
    std::string key;
    std::uint64_t revision = 0;  ///< 0: nothing lies there
};

/// Where the few facts live that must survive everything: keys and values, in the order of the keys.
///
///   Threads  one at a time
///   Errors   Corrupt: what was read is not what was written. NoCapacity: the disk is full or broken.
///            PeerDown and Deadline of a store that lies elsewhere.
///            After a failed write, unless it failed with Again, nobody knows whether the batch is there:
///            read it again
class Store {
public:
    virtual ~Store() = default;
    [[nodiscard]] virtual Result<std::optional<Found>> read(std::string_view key) = 0;
    /// Writes all of `batch` or nothing, over what was there; safe when it returns. Returns the revision that
    /// all of it has now. Errors besides: Again, and nothing is written, when a guard does not hold.
    [[nodiscard]] virtual Result<std::uint64_t> write(std::span<const Entry> batch,
                                                      std::span<const Guard> guards) = 0;
    /// The first `limit` entries, at most kScanMax, whose key begins with `prefix` and comes behind
    /// `after`.
    [[nodiscard]] virtual Result<std::vector<Entry>> scan(std::string_view prefix, std::string_view after,
                                                          std::size_t limit) = 0;

    [[nodiscard]] Result<std::optional<std::string>> get(std::string_view key);
    /// Whatever others do.
    [[nodiscard]] Result<void> apply(std::span<const Entry> batch);
};

/// RocksDB in `folder`, made with its parents when it is not there, for this user only.
///
///   Limits  some 8 MiB of memory and 64 open files; with less than 8 MiB free on the disk it is not opened,
///   and
///           nothing is written
///   Errors  NoCapacity: the disk is full, or files may not grow. Denied: folder rights. Again: another
///   process has it open. Corrupt: it cannot be read
[[nodiscard]] Result<std::unique_ptr<Store>> open_rocksdb(const std::string& folder);

}  // namespace cmpool::meta
