#include "etcd_client.h"
#include "records.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include <cmpool/base/assert.h>
#include <cmpool/base/backoff.h>
#include <cmpool/base/host_port.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/meta/shared_store.h>

#include <pthread.h>
#include <sodium.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

namespace cmpool::meta {
namespace {

using Json = EtcdClient::Json;

/// A watch over which nothing comes is opened again, at another endpoint: one that has lost its cluster says
/// nothing of that.
constexpr std::chrono::milliseconds kWatchSilence{1000};
constexpr std::chrono::milliseconds kRetryMin{50};
constexpr std::chrono::milliseconds kRetryMax{1000};
/// Changes that wait to be taken; above it all is read again.
constexpr std::size_t kChangesMax = 4096;

std::string to_base64(std::string_view bytes) {
    std::string text(sodium_base64_ENCODED_LEN(bytes.size(), sodium_base64_VARIANT_ORIGINAL), '\0');
    sodium_bin2base64(text.data(), text.size(), reinterpret_cast<const unsigned char*>(bytes.data()),
                      bytes.size(), sodium_base64_VARIANT_ORIGINAL);
    text.pop_back();  // the terminator
    return text;
}

std::string from_base64(std::string_view text) {
    std::string bytes(text.size() / 4 * 3, '\0');
    std::size_t length = 0;
    const int bad =
        sodium_base642bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(), text.data(),
                          text.size(), nullptr, &length, nullptr, sodium_base64_VARIANT_ORIGINAL);
    bytes.resize(bad == 0 ? length : 0);
    return bytes;
}

/// The first key behind all that begin with `prefix`, which ends with a slash.
std::string end_of(std::string prefix) {
    ++prefix.back();
    return prefix;
}

// Fields with their usual value are left out; numbers of 64 bits are text.
std::uint64_t number(const Json& object, const char* name) {
    const auto field = object.find(name);
    if (field == object.end()) return 0;
    if (field->is_number()) return field->get<std::uint64_t>();
    return field->is_string() ? std::strtoull(field->get_ref<const std::string&>().c_str(), nullptr, 10) : 0;
}

bool flag(const Json& object, const char* name) {
    const auto field = object.find(name);
    return field != object.end() && field->is_boolean() && field->get<bool>();
}

const Json& part(const Json& object, const char* name) {
    static const Json none = Json::object();
    const auto field = object.find(name);
    return field == object.end() ? none : *field;
}

std::string text(const Json& object, const char* name) {
    const auto& field = part(object, name);
    return field.is_string() ? from_base64(field.get_ref<const std::string&>()) : std::string();
}

class EtcdStore final : public SharedStore {
public:
    explicit EtcdStore(EtcdAddress address)
        : prefix_(std::move(address.prefix)),
          client_(address.endpoints),
          watching_(std::move(address.endpoints)),
          bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        CMPOOL_ASSERT(bell_);
        watcher_ = std::thread([this] { watch(); });
        ::pthread_setname_np(watcher_.native_handle(), "etcd-watch");
    }
    ~EtcdStore() override {
        std::unique_lock lock(mutex_);
        stopping_ = true;
        changed_.notify_all();
        // A call that began after stop() has looked is stopped by the next one.
        while (!watcher_done_) {
            lock.unlock();
            watching_.stop();
            lock.lock();
            changed_.wait_for(lock, kRetryMin, [&] { return watcher_done_; });
        }
        lock.unlock();
        watcher_.join();
    }

    Result<std::optional<Found>> read(std::string_view key) override {
        const auto answer = client_.call("/v3/kv/range", {{"key", name(key)}});
        if (!answer) return fail(answer.error());
        for (const auto& found : part(*answer, "kvs"))
            return Found{text(found, "value"), number(found, "mod_revision")};
        return std::nullopt;
    }

    Result<std::uint64_t> write(std::span<const Entry> batch, std::span<const Guard> guards) override {
        Json compare = Json::array();
        for (const auto& guard : guards) {
            compare.push_back({{"key", name(guard.key)},
                               {"target", "MOD"},
                               {"result", "EQUAL"},
                               {"mod_revision", std::to_string(guard.revision)}});
        }
        Json writes = Json::array();
        for (const auto& [key, value, erase, lease] : batch) {
            if (erase) {
                writes.push_back({{"request_delete_range", {{"key", name(key)}}}});
                continue;
            }
            Json put{{"key", name(key)}, {"value", to_base64(value)}};
            if (lease != 0) put["lease"] = std::to_string(lease);
            writes.push_back({{"request_put", std::move(put)}});
        }
        const auto answer = client_.call("/v3/kv/txn", {{"compare", compare}, {"success", writes}});
        if (!answer) return fail(answer.error());
        if (!flag(*answer, "succeeded")) return fail(Errc::Again, "another node has written in between");
        return number(part(*answer, "header"), "revision");
    }

    Result<std::vector<Entry>> scan(std::string_view prefix, std::string_view after,
                                    std::size_t limit) override {
        // Behind a key comes the same with a zero.
        const std::string from = after < prefix ? std::string(prefix) : std::string(after) + '\0';
        const auto answer = client_.call("/v3/kv/range", {{"key", name(from)},
                                                          {"range_end", to_base64(end_of(full(prefix)))},
                                                          {"limit", std::min(limit, kScanMax)}});
        if (!answer) return fail(answer.error());
        std::vector<Entry> found;
        for (const auto& entry : part(*answer, "kvs"))
            found.push_back({.key = plain(text(entry, "key")), .value = text(entry, "value")});
        return found;
    }

    Result<std::uint64_t> grant(std::chrono::seconds seconds) override {
        const auto answer = client_.call("/v3/lease/grant", {{"TTL", std::to_string(seconds.count())}});
        if (!answer) return fail(answer.error());
        const auto lease = number(*answer, "ID");
        if (lease == 0) return fail(Errc::Corrupt, "expected a lease of etcd, saw none");
        return lease;
    }
    Result<bool> keep(std::uint64_t lease) override {
        const auto answer = client_.call("/v3/lease/keepalive", {{"ID", std::to_string(lease)}});
        if (!answer && answer.error().code == Errc::LeaseLost) return false;
        if (!answer) return fail(answer.error());
        return number(part(*answer, "result"), "TTL") > 0;
    }
    Result<void> revoke(std::uint64_t lease) override {
        const auto answer = client_.call("/v3/lease/revoke", {{"ID", std::to_string(lease)}});
        if (!answer && answer.error().code != Errc::LeaseLost) return fail(answer.error());
        return {};
    }

    std::vector<Changes> take_changes() override {
        eventfd_t rings = 0;
        ::eventfd_read(bell_.get(), &rings);
        const std::scoped_lock lock(mutex_);
        waiting_ = 0;
        return std::exchange(changes_, {});
    }
    [[nodiscard]] int event_fd() const noexcept override { return bell_.get(); }

private:
    [[nodiscard]] std::string full(std::string_view key) const { return prefix_ + std::string(key); }
    [[nodiscard]] std::string name(std::string_view key) const { return to_base64(full(key)); }
    [[nodiscard]] std::string plain(const std::string& key) const {
        return key.starts_with(prefix_) ? key.substr(prefix_.size()) : std::string();
    }

    // ---- the watching thread ----

    void watch() {
        Backoff pauses(kRetryMin, kRetryMax);
        for (std::uint64_t from = 0; !stopping();) {
            if (from == 0) {
                const auto snapshot = read_all();
                if (!snapshot) {
                    sleep(pauses.next());
                    continue;
                }
                from = *snapshot;
            }
            if (follow(from)) {
                pauses.reset();
            } else {
                sleep(pauses.next());
            }
        }
        const std::scoped_lock lock(mutex_);
        watcher_done_ = true;
        changed_.notify_all();
    }

    /// Returns from which revision on changes are to be watched.
    Result<std::uint64_t> read_all() {
        const auto alive = full(kAlivePrefix);
        const Json both = {
            {{"request_range", {{"key", name(kViewKey)}}}},
            {{"request_range", {{"key", to_base64(alive)}, {"range_end", to_base64(end_of(alive))}}}}};
        const auto answer = watching_.call("/v3/kv/txn", {{"success", both}});
        if (!answer) return fail(answer.error());
        Changes all{.whole = true, .changes = {}};
        for (const auto& response : part(*answer, "responses")) {
            for (const auto& entry : part(part(response, "response_range"), "kvs")) {
                all.changes.push_back(
                    {.entry = {.key = plain(text(entry, "key")), .value = text(entry, "value")},
                     .before = {},
                     .revision = number(entry, "mod_revision")});
            }
        }
        tell(std::move(all));
        return number(part(*answer, "header"), "revision") + 1;
    }

    /// Whether the watch began. Moves `from` on, to zero if some changes are not to be had any more.
    bool follow(std::uint64_t& from) {
        bool heard = false;
        const Json ask{{"create_request",
                        {{"key", to_base64(prefix_)},
                         {"range_end", to_base64(end_of(prefix_))},
                         {"start_revision", std::to_string(from)},
                         {"prev_kv", true}}}};
        watching_.stream("/v3/watch", ask, kWatchSilence, [&](const Json& message) {
            const auto& result = part(message, "result");
            // One that was emptied, or put back to what it was, begins to count anew.
            const bool behind =
                flag(result, "created") && number(part(result, "header"), "revision") + 1 < from;
            if (result.empty() || behind || flag(result, "canceled")) {
                from = 0;
                return false;
            }
            heard = true;
            Changes some;
            for (const auto& event : part(result, "events")) {
                const auto& entry = part(event, "kv");
                const auto revision = number(entry, "mod_revision");
                from = std::max(from, revision + 1);
                some.changes.push_back(
                    {.entry = {.key = plain(text(entry, "key")),
                               .value = text(entry, "value"),
                               .erase = event.contains("type") && event["type"] == "DELETE"},
                     .before = text(part(event, "prev_kv"), "value"),
                     .revision = revision});
            }
            if (!some.changes.empty() && !tell(std::move(some))) from = 0;
            return from != 0;
        });
        return heard;
    }

    /// False when so many wait that these, and those before, are thrown away.
    bool tell(Changes changes) {
        const std::scoped_lock lock(mutex_);
        const bool fits = changes.whole || waiting_ + changes.changes.size() <= kChangesMax;
        if (changes.whole || !fits) {
            changes_.clear();
            waiting_ = 0;
        }
        if (!fits) return false;
        waiting_ += changes.changes.size();
        changes_.push_back(std::move(changes));
        ::eventfd_write(bell_.get(), 1);
        return true;
    }

    [[nodiscard]] bool stopping() {
        const std::scoped_lock lock(mutex_);
        return stopping_;
    }
    void sleep(std::chrono::milliseconds pause) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, pause, [&] { return stopping_; });
    }

    std::string prefix_;
    EtcdClient client_;
    EtcdClient watching_;
    UniqueFd bell_;
    std::mutex mutex_;  ///< of what follows
    std::condition_variable changed_;
    std::vector<Changes> changes_;
    std::size_t waiting_ = 0;
    bool stopping_ = false;
    bool watcher_done_ = false;
    std::thread watcher_;
};

}  // namespace

Result<EtcdAddress> parse_etcd(std::string_view uri) {
    const auto wrong = [&] {
        return fail(Errc::Invalid,
                    "expected {}HOST:PORT[,HOST:PORT...][/PREFIX] with at most {} nodes, saw {}", kEtcdScheme,
                    kEtcdEndpointsMax, uri);
    };
    if (!uri.starts_with(kEtcdScheme)) return wrong();
    auto rest = uri.substr(kEtcdScheme.size());
    EtcdAddress address{.endpoints = {}, .prefix = "cmpool"};
    if (const auto slash = rest.find('/'); slash != std::string_view::npos) {
        auto prefix = rest.substr(slash + 1);
        while (prefix.ends_with('/')) prefix.remove_suffix(1);
        if (!prefix.empty()) address.prefix = prefix;
        rest = rest.substr(0, slash);
    }
    address.prefix += '/';
    while (true) {
        const auto comma = rest.find(',');
        const auto endpoint = rest.substr(0, comma);
        const auto where = HostPort::parse(endpoint);
        if (!where || where->host.empty()) return wrong();
        address.endpoints.emplace_back(endpoint);
        if (comma == std::string_view::npos) break;
        rest = rest.substr(comma + 1);
    }
    if (address.endpoints.size() > kEtcdEndpointsMax) return wrong();
    return address;
}

std::unique_ptr<SharedStore> open_etcd(EtcdAddress address) {
    return std::make_unique<EtcdStore>(std::move(address));
}

}  // namespace cmpool::meta
