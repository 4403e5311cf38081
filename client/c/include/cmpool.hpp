/// cmpool in C++20: cmpool.h with values that own themselves. It is compiled into its user, over the C border
/// alone, so that it may be built by another compiler than the library. What cmpool.h says of lifetime,
/// threads, limits and errors holds here too; nothing throws but allocations of the results' own vectors.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <cmpool.h>

namespace cmpool {
inline namespace v0 {

/// As CMPOOL_AGAIN and its kin.
enum class Code : std::int32_t {
    Again = CMPOOL_AGAIN,
    NoCapacity = CMPOOL_NO_CAPACITY,
    Deadline = CMPOOL_DEADLINE,
    LeaseLost = CMPOOL_LEASE_LOST,
    PeerDown = CMPOOL_PEER_DOWN,
    Corrupt = CMPOOL_CORRUPT,
    Denied = CMPOOL_DENIED,
    Mismatch = CMPOOL_MISMATCH,
    Unsupported = CMPOOL_UNSUPPORTED,
    Invalid = CMPOOL_INVALID,
    Fault = CMPOOL_FAULT,
};

struct Failure {
    Code code;
    std::string text;  ///< for people
};

/// A value, or why there is none.
template <class T>
class Expected {
public:
    Expected(T value) : held_(std::in_place_index<0>, std::move(value)) {}
    Expected(Failure failure) : held_(std::in_place_index<1>, std::move(failure)) {}
    [[nodiscard]] explicit operator bool() const noexcept { return held_.index() == 0; }
    /// Only where there is one: ask first.
    [[nodiscard]] T& operator*() & noexcept { return *std::get_if<0>(&held_); }
    [[nodiscard]] const T& operator*() const& noexcept { return *std::get_if<0>(&held_); }
    [[nodiscard]] T&& operator*() && noexcept { return std::move(*std::get_if<0>(&held_)); }
    [[nodiscard]] T* operator->() noexcept { return std::get_if<0>(&held_); }
    [[nodiscard]] const T* operator->() const noexcept { return std::get_if<0>(&held_); }
    /// Only where there is no value.
    [[nodiscard]] const Failure& error() const noexcept { return *std::get_if<1>(&held_); }

private:
    std::variant<T, Failure> held_;
};

using Digest = cmpool_digest;

struct Namespace {
    std::string tenant{}, model{}, revision{}, dtype{}, layout{}, parallel{}, engine{};
    std::uint32_t block_tokens = 0;  ///< 0: opaque keys, no chains
    std::uint32_t group_blocks = 0;  ///< 0: 64
    /// Where named, blocks are encrypted with it: see cmpool_namespace.
    std::optional<std::array<std::uint8_t, CMPOOL_SEAL_KEY_BYTES>> seal_key{};
};

struct Options {
    std::chrono::nanoseconds deadline{};  ///< from now; 0: the URI's
    std::uint32_t lease_ms = 0;           ///< match; 0: 2000
    std::uint32_t parts = 0;              ///< match; 0: 1
    bool verify = false;                  ///< get: compare checksums here
    bool lease = true;                    ///< match: not only look
};

/// A block to read: into one piece of memory, or, where `pieces` are named, into these.
struct Get {
    Digest key{};
    std::span<std::byte> into{};
    std::uint64_t group = 0;
    std::uint32_t offset = 0, length = 0;  ///< which of its bytes; both 0: all
    std::span<const cmpool_span> pieces{};
};

/// A block to write: from one piece of memory, or, where `pieces` are named, from these.
struct Put {
    Digest key{};
    std::span<const std::byte> from{};
    Digest parent{};  ///< all 0: it is in no chain, or begins one
    std::uint64_t group = 0;
    std::uint32_t position = 0;
    std::uint32_t cost_us = 0;
    std::span<const cmpool_view> pieces{};
};

enum class Outcome : std::uint32_t {
    Miss = CMPOOL_MISS,
    Hit = CMPOOL_HIT,
    Stored = CMPOOL_STORED,
    Present = CMPOOL_PRESENT,
    Dropped = CMPOOL_DROPPED,
    TooSmall = CMPOOL_TOO_SMALL,
    Outside = CMPOOL_OUTSIDE,
};

struct Block {
    Outcome outcome = Outcome::Miss;
    std::uint32_t bytes = 0;
    std::uint32_t copies = 0;
};

/// What became of a batch.
struct Report {
    std::vector<Block> blocks;
    std::optional<Failure> trouble;  ///< why blocks are missing, where there is more to say than "miss"

    [[nodiscard]] std::size_t count(Outcome outcome) const noexcept {
        std::size_t found = 0;
        for (const auto& block : blocks) found += block.outcome == outcome ? 1 : 0;
        return found;
    }
};

struct Statistic {
    std::string name;
    std::uint64_t value = 0;
};

namespace inside {

/// What a call says of itself; most say nothing, so nothing is set that need not be.
struct Told {
    Told() noexcept {
        error.size = sizeof error;
        error.text[0] = '\0';
    }
    [[nodiscard]] Failure failure(cmpool_code code) const { return {static_cast<Code>(code), error.text}; }
    [[nodiscard]] std::optional<Failure> trouble(cmpool_code code) const {
        if (code == CMPOOL_OK) return std::nullopt;
        return failure(code);
    }
    cmpool_error error;
};

inline cmpool_options as_c(const Options& options) noexcept {
    return {.size = sizeof(cmpool_options),
            .deadline_ns = options.deadline.count(),
            .lease_ms = options.lease_ms,
            .parts = options.parts,
            .verify = options.verify,
            .no_lease = !options.lease};
}

/// Items as cmpool.h has them, and the one piece of each that names no others.
struct Gets {
    explicit Gets(std::span<const Get> from) : whole(from.size()), items(from.size()) {
        for (std::size_t index = 0; index < from.size(); ++index) {
            const auto& one = from[index];
            whole[index] = {one.into.data(), one.into.size()};
            items[index] = {.size = sizeof(cmpool_get_item),
                            .key = one.key,
                            .into = one.pieces.empty() ? &whole[index] : one.pieces.data(),
                            .into_count = one.pieces.empty() ? 1 : one.pieces.size(),
                            .group = one.group,
                            .offset = one.offset,
                            .length = one.length};
        }
    }
    std::vector<cmpool_span> whole;
    std::vector<cmpool_get_item> items;
};
struct Puts {
    explicit Puts(std::span<const Put> from) : whole(from.size()), items(from.size()) {
        for (std::size_t index = 0; index < from.size(); ++index) {
            const auto& one = from[index];
            whole[index] = {one.from.data(), one.from.size()};
            items[index] = {.size = sizeof(cmpool_put_item),
                            .key = one.key,
                            .parent = one.parent,
                            .from = one.pieces.empty() ? &whole[index] : one.pieces.data(),
                            .from_count = one.pieces.empty() ? 1 : one.pieces.size(),
                            .group = one.group,
                            .position = one.position,
                            .cost_us = one.cost_us};
        }
    }
    std::vector<cmpool_view> whole;
    std::vector<cmpool_put_item> items;
};

/// Runs a batch and puts its results into words.
template <class Call>
Report report_of(std::size_t count, Call call) {
    std::vector<cmpool_result> results(count);
    if (count > 0) results.front().size = sizeof(cmpool_result);
    Told told;
    Report report;
    report.trouble = told.trouble(call(results.data(), &told.error));
    report.blocks.reserve(count);
    for (const auto& each : results)
        report.blocks.push_back({static_cast<Outcome>(each.outcome), each.bytes, each.copies});
    return report;
}

template <auto Free>
struct Freer {
    template <class T>
    void operator()(T* handle) const noexcept {
        Free(handle);
    }
};
template <class T, auto Free>
using Handle = std::unique_ptr<T, Freer<Free>>;

}  // namespace inside

/// A run of present blocks, and the right to find them there; destroying it gives it back.
class Lease {
public:
    Lease() = default;
    [[nodiscard]] std::size_t blocks() const noexcept { return cmpool_lease_blocks(handle_.get()); }
    [[nodiscard]] bool held() const noexcept { return cmpool_lease_held(handle_.get()) != 0; }
    /// Why the run may be shorter than what the pool holds, if so.
    [[nodiscard]] const std::optional<Failure>& trouble() const noexcept { return trouble_; }
    /// The bytes where they lie, without a copy, until it is released.
    [[nodiscard]] Expected<std::span<const std::byte>> view(std::size_t index, std::uint32_t part = 0) const {
        cmpool_view seen{};
        inside::Told told;
        if (const auto code = cmpool_lease_view(handle_.get(), index, part, &seen, &told.error);
            code != CMPOOL_OK)
            return told.failure(code);
        return std::span(static_cast<const std::byte*>(seen.data), seen.bytes);
    }
    void release() noexcept { handle_.reset(); }

private:
    friend class Pool;
    friend class Call;
    Lease(cmpool_lease* handle, std::optional<Failure> trouble) noexcept
        : handle_(handle), trouble_(std::move(trouble)) {}

    inside::Handle<cmpool_lease, cmpool_release> handle_;
    std::optional<Failure> trouble_;
};

/// A call that is on its way; destroying it waits until its memory is the caller's again.
class Call {
public:
    [[nodiscard]] bool done() const noexcept { return cmpool_call_done(handle_.get()) != 0; }
    void wait() noexcept { (void)cmpool_wait(handle_.get(), nullptr); }
    /// What became of it: waits, if need be. Once; each for calls of its kind, which the other answers with
    /// misses and Invalid.
    [[nodiscard]] Report report() {
        wait();
        auto taken = inside::report_of(count_, [&](cmpool_result* results, cmpool_error* error) {
            const auto code = cmpool_finish(handle_.get(), results, count_, error);
            if (!match_) (void)handle_.release();
            return code;
        });
        return taken;
    }
    [[nodiscard]] Lease lease() {
        wait();
        cmpool_lease* lease = nullptr;
        inside::Told told;
        const auto code = cmpool_finish_match(handle_.get(), &lease, nullptr, &told.error);
        if (match_) (void)handle_.release();
        return {lease, told.trouble(code)};
    }

private:
    friend class Pool;
    Call(cmpool_call* handle, std::size_t count, bool match) noexcept
        : handle_(handle), count_(count), match_(match) {}

    inside::Handle<cmpool_call, cmpool_drop> handle_;
    std::size_t count_ = 0;
    bool match_ = false;
};

/// Memory that need not be told of at each call.
class Memory {
private:
    friend class Pool;
    explicit Memory(cmpool_memory* handle) noexcept : handle_(handle) {}
    inside::Handle<cmpool_memory, cmpool_unregister> handle_;
};

/// A namespace of a pool, and the connection to it.
class Pool {
public:
    /// A pool that does not answer is no error: calls miss, and it is tried again on the side.
    [[nodiscard]] static Expected<Pool> open(const std::string& uri, const Namespace& space) {
        const cmpool_namespace asked{.size = sizeof asked,
                                     .tenant = space.tenant.c_str(),
                                     .model = space.model.c_str(),
                                     .revision = space.revision.c_str(),
                                     .dtype = space.dtype.c_str(),
                                     .layout = space.layout.c_str(),
                                     .parallel = space.parallel.c_str(),
                                     .engine = space.engine.c_str(),
                                     .block_tokens = space.block_tokens,
                                     .group_blocks = space.group_blocks,
                                     .seal_key = space.seal_key ? space.seal_key->data() : nullptr};
        cmpool_pool* pool = nullptr;
        inside::Told told;
        if (const auto code = cmpool_open(uri.c_str(), &asked, &pool, &told.error); code != CMPOOL_OK)
            return told.failure(code);
        return Pool(pool, space.block_tokens);
    }

    /// How things stand, and what keeps calls from a pool, if so.
    [[nodiscard]] std::pair<cmpool_status, std::optional<Failure>> status() const {
        cmpool_status status{};
        status.size = sizeof status;
        inside::Told told;
        const auto code = cmpool_read_status(handle_.get(), &status, &told.error);
        return {status, told.trouble(code)};
    }
    [[nodiscard]] Expected<std::vector<Statistic>> stats(const Options& options = {}) const {
        const auto how = inside::as_c(options);
        cmpool_stats* read = nullptr;
        inside::Told told;
        const auto code = cmpool_read_stats(handle_.get(), &how, &read, &told.error);
        if (code != CMPOOL_OK) return told.failure(code);
        const inside::Handle<cmpool_stats, cmpool_stats_free> owned(read);
        std::vector<Statistic> all;
        cmpool_stat one{};
        one.size = sizeof one;
        for (std::size_t index = 0; cmpool_stats_at(read, index, &one) == CMPOOL_OK; ++index)
            all.push_back({one.name, one.value});
        return all;
    }

    /// One key per full block of tokens, root first.
    [[nodiscard]] Expected<std::vector<Digest>> chain(std::span<const std::uint32_t> tokens) const {
        std::vector<Digest> keys(block_tokens_ == 0 ? 0 : tokens.size() / block_tokens_);
        std::size_t count = 0;
        inside::Told told;
        if (const auto code = cmpool_chain(handle_.get(), tokens.data(), tokens.size(), keys.data(),
                                           keys.size(), &count, &told.error);
            code != CMPOOL_OK)
            return told.failure(code);
        keys.resize(count);
        return keys;
    }
    /// The key for an engine's own key bytes.
    [[nodiscard]] Expected<Digest> key(std::span<const std::byte> own_key) const {
        Digest made{};
        inside::Told told;
        const auto code = cmpool_key(handle_.get(), own_key.data(), own_key.size(), &made, &told.error);
        if (code != CMPOOL_OK) return told.failure(code);
        return made;
    }
    [[nodiscard]] Expected<Digest> key(std::string_view own_key) const {
        return key(std::as_bytes(std::span(own_key.data(), own_key.size())));
    }
    /// What places the block at `position` of a chain; `position` is below its size.
    [[nodiscard]] std::uint64_t group(std::span<const Digest> chain, std::size_t position) const noexcept {
        return cmpool_group(handle_.get(), chain.data(), static_cast<std::uint32_t>(position));
    }

    [[nodiscard]] Lease match(std::span<const Digest> chain, const Options& options = {}) const {
        const auto how = inside::as_c(options);
        cmpool_lease* lease = nullptr;
        inside::Told told;
        const auto code =
            cmpool_match(handle_.get(), chain.data(), chain.size(), &how, &lease, nullptr, &told.error);
        return {lease, told.trouble(code)};
    }
    [[nodiscard]] Report get(std::span<const Get> items, const Options& options = {}) const {
        const inside::Gets named(items);
        const auto how = inside::as_c(options);
        return inside::report_of(items.size(), [&](cmpool_result* results, cmpool_error* error) {
            return cmpool_get(handle_.get(), named.items.data(), items.size(), &how, results, error);
        });
    }
    Report put(std::span<const Put> items, const Options& options = {}) const {
        const inside::Puts named(items);
        const auto how = inside::as_c(options);
        return inside::report_of(items.size(), [&](cmpool_result* results, cmpool_error* error) {
            return cmpool_put(handle_.get(), named.items.data(), items.size(), &how, results, error);
        });
    }
    [[nodiscard]] Report exists(std::span<const Digest> keys, const Options& options = {}) const {
        const auto how = inside::as_c(options);
        return inside::report_of(keys.size(), [&](cmpool_result* results, cmpool_error* error) {
            return cmpool_exists(handle_.get(), keys.data(), keys.size(), &how, results, error);
        });
    }
    Report remove(std::span<const Digest> keys, const Options& options = {}) const {
        const auto how = inside::as_c(options);
        return inside::report_of(keys.size(), [&](cmpool_result* results, cmpool_error* error) {
            return cmpool_remove(handle_.get(), keys.data(), keys.size(), &how, results, error);
        });
    }

    // ---- asynchronous: blocks' memory stays where it is until the call is done ----
    [[nodiscard]] Expected<Call> start_match(std::span<const Digest> chain,
                                             const Options& options = {}) const {
        return start(chain.size(), true, options, [&](auto... rest) {
            return cmpool_start_match(handle_.get(), chain.data(), chain.size(), rest...);
        });
    }
    [[nodiscard]] Expected<Call> start_get(std::span<const Get> items, const Options& options = {}) const {
        const inside::Gets named(items);
        return start(items.size(), false, options, [&](auto... rest) {
            return cmpool_start_get(handle_.get(), named.items.data(), items.size(), rest...);
        });
    }
    [[nodiscard]] Expected<Call> start_put(std::span<const Put> items, const Options& options = {}) const {
        const inside::Puts named(items);
        return start(items.size(), false, options, [&](auto... rest) {
            return cmpool_start_put(handle_.get(), named.items.data(), items.size(), rest...);
        });
    }
    [[nodiscard]] Expected<Call> start_exists(std::span<const Digest> keys,
                                              const Options& options = {}) const {
        return start(keys.size(), false, options, [&](auto... rest) {
            return cmpool_start_exists(handle_.get(), keys.data(), keys.size(), rest...);
        });
    }
    [[nodiscard]] Expected<Call> start_remove(std::span<const Digest> keys,
                                              const Options& options = {}) const {
        return start(keys.size(), false, options, [&](auto... rest) {
            return cmpool_start_remove(handle_.get(), keys.data(), keys.size(), rest...);
        });
    }
    void progress() const noexcept { (void)cmpool_progress(handle_.get(), nullptr); }
    /// Readable when progress() has something to do.
    [[nodiscard]] Expected<int> event_fd() const {
        int fd = -1;
        inside::Told told;
        const auto code = cmpool_event_fd(handle_.get(), &fd, &told.error);
        if (code != CMPOOL_OK) return told.failure(code);
        return fd;
    }

    /// `bytes` outlive what is returned.
    [[nodiscard]] Expected<Memory> register_memory(std::span<std::byte> bytes) const {
        cmpool_memory* memory = nullptr;
        inside::Told told;
        const auto code = cmpool_register(handle_.get(), bytes.data(), bytes.size(), &memory, &told.error);
        if (code != CMPOOL_OK) return told.failure(code);
        return Memory(memory);
    }

    /// For what cmpool.h has and this has not.
    [[nodiscard]] cmpool_pool* handle() const noexcept { return handle_.get(); }

private:
    Pool(cmpool_pool* handle, std::uint32_t block_tokens) noexcept
        : handle_(handle), block_tokens_(block_tokens) {}

    template <class Begin>
    [[nodiscard]] Expected<Call> start(std::size_t count, bool match, const Options& options,
                                       Begin begin) const {
        const auto how = inside::as_c(options);
        cmpool_call* call = nullptr;
        inside::Told told;
        const auto code = begin(&how, &call, &told.error);
        if (code != CMPOOL_OK) return told.failure(code);
        return Call(call, count, match);
    }

    inside::Handle<cmpool_pool, cmpool_close> handle_;
    std::uint32_t block_tokens_ = 0;
};

}  // namespace v0
}  // namespace cmpool
