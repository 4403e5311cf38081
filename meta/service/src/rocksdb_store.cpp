#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <cmpool/base/units.h>
#include <cmpool/meta/revisions.h>
#include <cmpool/meta/store.h>

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace cmpool::meta {
namespace {

/// Below it nothing is written: a log, a table and what replaces them have room at any time.
constexpr std::uint64_t kDiskFreeMin = 8 * MiB;
/// No file of the database becomes longer.
constexpr std::uint64_t kFileBytesMax = 16 * MiB;

rocksdb::Slice slice(std::string_view text) { return {text.data(), text.size()}; }

// Each entry is a few hundred bytes and read once per opening of a namespace: little memory is plenty.
rocksdb::Options small_options() {
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = rocksdb::NewLRUCache(2 * MiB);
    table.cache_index_and_filter_blocks = true;
    rocksdb::Options options;
    options.create_if_missing = true;
    options.write_buffer_size = 1 * MiB;
    options.max_write_buffer_number = 2;
    options.max_total_wal_size = 4 * MiB;
    options.max_open_files = 64;
    options.max_background_jobs = 2;
    options.paranoid_checks = true;
    options.info_log_level = rocksdb::WARN_LEVEL;
    options.max_log_file_size = 1 * MiB;
    options.keep_log_file_num = 2;
    options.stats_dump_period_sec = 0;
    options.stats_persist_period_sec = 0;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    return options;
}

tl::unexpected<Error> explain(const rocksdb::Status& status, std::string_view doing,
                              const std::string& folder) {
    if (status.IsCorruption()) {
        return fail(Errc::Corrupt,
                    "expected an intact database in {}, saw damage while {}: {}; move the folder away and "
                    "start again: the cache is empty then, nothing else is lost",
                    folder, doing, status.ToString());
    }
    return fail(Errc::NoCapacity, "{} in {} failed: {}", doing, folder, status.ToString());
}

// RocksDB as Debian builds it ends the process by an assertion when a file of its cannot grow.
Result<void> check_room(const std::string& folder) {
    struct statvfs space {};
    if (::statvfs(folder.c_str(), &space) != 0) return {};
    const std::uint64_t free_bytes = std::uint64_t{space.f_bavail} * space.f_frsize;
    if (free_bytes >= kDiskFreeMin) return {};
    return fail(Errc::NoCapacity, "writing in {} failed: expected at least {} free there, saw {}", folder,
                format_bytes(kDiskFreeMin), format_bytes(free_bytes));
}

Result<void> check_file_limit() {
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    if (limit.rlim_cur >= kFileBytesMax) return {};
    return fail(Errc::NoCapacity,
                "expected that files may grow to {}, saw a limit of {}: raise it (ulimit -f)",
                format_bytes(kFileBytesMax), format_bytes(limit.rlim_cur));
}

class RocksDbStore final : public Store {
public:
    RocksDbStore(std::unique_ptr<rocksdb::DB> db, std::string folder)
        : folder_(std::move(folder)), db_(std::move(db)) {}

    Result<std::optional<Found>> read(std::string_view key) override {
        std::string value;
        const auto status = db_->Get(rocksdb::ReadOptions{}, slice(key), &value);
        if (status.IsNotFound()) return std::nullopt;
        if (!status.ok()) return explain(status, "reading", folder_);
        return Found{std::move(value), revisions_.of(key, true)};
    }

    Result<std::uint64_t> write(std::span<const Entry> batch, std::span<const Guard> guards) override {
        const auto there = [&](const std::string& key) -> Result<bool> {
            const auto found = read(key);
            if (!found) return fail(found.error());
            return found->has_value();
        };
        if (auto held = revisions_.check(guards, there); !held) return fail(held.error());
        if (auto room = check_room(folder_); !room) return fail(room.error());
        rocksdb::WriteBatch writes;
        for (const auto& [key, value, erase, lease] : batch)
            erase ? writes.Delete(key) : writes.Put(key, value);
        rocksdb::WriteOptions durable;
        durable.sync = true;
        const auto status = db_->Write(durable, &writes);
        if (!status.ok()) return explain(status, "writing", folder_);
        revisions_.wrote(batch);
        return revisions_.last();
    }

    Result<std::vector<Entry>> scan(std::string_view prefix, std::string_view after,
                                    std::size_t limit) override {
        std::vector<Entry> found;
        const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(rocksdb::ReadOptions{}));
        at->Seek(slice(std::max(prefix, after)));
        if (at->Valid() && !after.empty() && at->key() == slice(after)) at->Next();
        for (; at->Valid() && at->key().starts_with(slice(prefix)); at->Next()) {
            if (found.size() == std::min(limit, kScanMax)) break;
            found.push_back({.key = at->key().ToString(), .value = at->value().ToString()});
        }
        if (!at->status().ok()) return explain(at->status(), "scanning", folder_);
        return found;
    }

private:
    std::string folder_;
    std::unique_ptr<rocksdb::DB> db_;
    Revisions revisions_;
};

// It holds the namespaces' secrets: for nobody else's eyes. A folder that was there is not changed.
Result<void> make_folder(const std::string& folder) {
    std::error_code error;
    const auto parent = std::filesystem::path(folder).parent_path();
    if (!parent.empty()) std::filesystem::create_directories(parent, error);
    if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
        return fail(Errc::Denied, "expected to make the data folder {}, saw \"{}\"", folder,
                    std::strerror(errno));
    }
    struct stat seen {};
    if (::stat(folder.c_str(), &seen) != 0 || !S_ISDIR(seen.st_mode) || seen.st_uid != ::geteuid() ||
        (seen.st_mode & 0777) != 0700) {
        return fail(Errc::Denied,
                    "expected a data folder of uid {} with mode 700, saw {} of uid {} with mode {:o}",
                    ::geteuid(), folder, seen.st_uid, seen.st_mode & 0777);
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<Store>> open_rocksdb(const std::string& folder) {
    if (auto made = make_folder(folder); !made) return fail(made.error());
    if (auto room = check_room(folder); !room) return fail(room.error());
    if (auto grows = check_file_limit(); !grows) return fail(grows.error());
    rocksdb::DB* opened = nullptr;
    const auto status = rocksdb::DB::Open(small_options(), folder, &opened);
    std::unique_ptr<rocksdb::DB> db(opened);
    if (status.ok()) return std::make_unique<RocksDbStore>(std::move(db), folder);
    if (status.IsIOError() && status.ToString().find("lock") != std::string::npos) {
        return fail(Errc::Again,
                    "expected the data folder {} to be free, saw that another process has it open", folder);
    }
    return explain(status, "opening the database", folder);
}

}  // namespace cmpool::meta
