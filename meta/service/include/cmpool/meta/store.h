#pragma once

#include <cstddef>
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
    bool erase = false;  ///< in a batch: the key goes

    friend bool operator==(const Entry&, const Entry&) = default;
};

/// Where the few facts live that must survive everything: keys and values, in the order of the keys.
///
///   Threads  one at a time
///   Errors   Corrupt: what was read is not what was written. NoCapacity: the disk is full or broken;
///            after a failed apply() nobody knows whether the batch is there: read it again
class Store {
public:
    virtual ~Store() = default;
    [[nodiscard]] virtual Result<std::optional<std::string>> get(std::string_view key) = 0;
    /// Writes all of `batch` or nothing, over what was there; on disk when it returns.
    [[nodiscard]] virtual Result<void> apply(std::span<const Entry> batch) = 0;
    /// The first `limit` entries, at most kScanMax, whose key begins with `prefix` and comes behind
    /// `after`.
    [[nodiscard]] virtual Result<std::vector<Entry>> scan(std::string_view prefix, std::string_view after,
                                                          std::size_t limit) = 0;
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
