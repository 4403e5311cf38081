#include "history.h"

#include <algorithm>
#include <cstring>

namespace cmpool::testing {

using client::Outcome;

namespace {

/// Around each buffer, so that writes beside it show.
constexpr std::size_t kMargin = 64;
constexpr std::byte kMarginByte{0xa7};
constexpr std::byte kRestByte{0x5c};
/// For how long a buffer whose call is done is watched.
constexpr std::chrono::milliseconds kWatched{3};
/// Leases are judged with this much to spare.
constexpr std::chrono::milliseconds kLeaseSpare{5};
/// Of a large view so many bytes are compared at each step, and all now and then.
constexpr std::size_t kViewWindow = 2 * KiB;
constexpr std::uint64_t kWholeEvery = 32;

bool all_are(Bytes bytes, std::byte value) {
    return bytes.empty() ||
           (bytes.front() == value && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

bool same(Bytes one, Bytes other) {
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size()) == 0;
}

struct Buffer {
    explicit Buffer(std::size_t bytes) : memory(bytes + 2 * kMargin, kMarginByte) {}
    [[nodiscard]] MutableBytes inside() {
        return MutableBytes(memory).subspan(kMargin, memory.size() - 2 * kMargin);
    }
    [[nodiscard]] Bytes inside() const { return Bytes(memory).subspan(kMargin, memory.size() - 2 * kMargin); }
    std::vector<std::byte> memory;
};

template <class T>
std::vector<std::span<T>> cut(std::span<T> whole, std::size_t pieces) {
    std::vector<std::span<T>> parts;
    const std::size_t step = whole.size() / pieces + 1;
    for (std::size_t at = 0; at < whole.size(); at += step) {
        parts.push_back(whole.subspan(at, std::min(step, whole.size() - at)));
    }
    return parts;
}

}  // namespace

struct History::Call {
    CallKind kind;
    ClientHost& client;
    const Space& own;
    Space& named;
    std::vector<std::size_t> blocks;
    std::vector<model::Digest> keys;
    std::uint64_t number;
    Instant started;
    Instant deadline;
    bool was_ready;
    Nanos keep{0};
    std::vector<Buffer> buffers;
    std::vector<std::vector<MutableBytes>> into;
    std::vector<std::vector<Bytes>> from;
    std::vector<client::GetItem> gets;
    std::vector<client::PutItem> puts;
    std::optional<client::Pending<client::Report>> report;
    std::optional<client::Pending<client::Match>> match;
    std::uint32_t lease_ms = 0;
    bool must_succeed = false;
    bool over = false;
    Instant over_at{};

    [[nodiscard]] bool done() const { return report ? report->done() : match->done(); }
};

struct History::Held {
    ClientHost& client;
    Space& space;
    std::vector<std::size_t> blocks;
    client::Match match;
    std::vector<Bytes> views;
    Instant since;
    Instant until;       ///< when it is released
    Instant lease_ends;  ///< never on one host
    std::size_t window = 0;
};

History::History(SimWorld& world, Expectations expectations) : world_(world), expectations_(expectations) {}
History::~History() = default;

void History::blame(std::string what) {
    if (wrong_.empty()) wrong_ = std::move(what);
}

// ---- starting ----

History::Call& History::begin(CallKind kind, ClientHost& client, const Space& own, Space& named,
                              std::vector<std::size_t> blocks) {
    const Instant now = world_.clock().now();
    Call& call = calls_.emplace_back(Call{.kind = kind,
                                          .client = client,
                                          .own = own,
                                          .named = named,
                                          .blocks = std::move(blocks),
                                          .keys = {},
                                          .number = begun_++,
                                          .started = now,
                                          .deadline = now + client.deadline(),
                                          .was_ready = client.ready()});
    call.keys = named.keys(call.blocks);
    ++seen_.calls;
    return call;
}

void History::begun(Call& call) { call.client.arm(); }

void History::match(ClientHost& client, const Space& own, Space& named, std::vector<std::size_t> blocks,
                    std::uint32_t lease_ms, Nanos keep) {
    Call& call = begin(CallKind::Match, client, own, named, std::move(blocks));
    call.keep = keep;
    call.lease_ms = lease_ms;
    call.match = client.pool().start_match(call.keys, lease_ms);
    begun(call);
}

void History::get(ClientHost& client, const Space& own, Space& named, std::vector<std::size_t> blocks,
                  bool verify, std::size_t pieces, std::size_t short_by, std::uint64_t range_seed) {
    Call& call = begin(CallKind::Get, client, own, named, std::move(blocks));
    std::vector<client::ByteRange> ranges(call.blocks.size());
    for (std::size_t at = 0; at < call.blocks.size(); ++at) {
        std::size_t bytes = named.blocks[call.blocks[at]].bytes.size();
        if (range_seed != 0) {
            Rng rng(range_seed + at);
            ranges[at].offset = static_cast<std::uint32_t>(rng.below(bytes));
            ranges[at].length = static_cast<std::uint32_t>(1 + rng.below(bytes - ranges[at].offset));
            if (rng.chance(0.1)) ranges[at].length += static_cast<std::uint32_t>(bytes);
            bytes = ranges[at].length;
        }
        auto& buffer = call.buffers.emplace_back(bytes - std::min(bytes, short_by));
        call.into.push_back(cut(buffer.inside(), pieces));
    }
    for (std::size_t at = 0; at < call.keys.size(); ++at)
        call.gets.push_back({call.keys[at], call.into[at], named.blocks[call.blocks[at]].group, ranges[at]});
    call.report = client.pool().start_get(call.gets, {.deadline = {}, .verify = verify});
    begun(call);
}

void History::put(ClientHost& client, Space& own, std::vector<std::size_t> blocks, bool pieces) {
    Call& call = begin(CallKind::Put, client, own, own, std::move(blocks));
    for (const std::size_t index : call.blocks) {
        KnownBlock& block = own.blocks[index];
        block.ever_put = true;
        auto& buffer = call.buffers.emplace_back(block.bytes.size());
        std::copy(block.bytes.begin(), block.bytes.end(), buffer.inside().begin());
        call.from.push_back(cut(std::as_const(buffer).inside(), pieces ? 3 : 1));
    }
    for (std::size_t at = 0; at < call.blocks.size(); ++at) {
        const KnownBlock& block = own.blocks[call.blocks[at]];
        call.puts.push_back({.key = block.key,
                             .from = call.from[at],
                             .parent = block.parent_key,
                             .position = block.position,
                             .group = block.group});
    }
    call.report = client.pool().start_put(call.puts);
    begun(call);
}

void History::exists(ClientHost& client, const Space& own, Space& named, std::vector<std::size_t> blocks) {
    Call& call = begin(CallKind::Exists, client, own, named, std::move(blocks));
    call.report = client.pool().start_exists(call.keys);
    begun(call);
}

void History::remove(ClientHost& client, Space& own, std::vector<std::size_t> blocks) {
    Call& call = begin(CallKind::Remove, client, own, own, std::move(blocks));
    for (const std::size_t index : call.blocks) own.blocks[index].ever_removed = true;
    call.report = client.pool().start_remove(call.keys);
    begun(call);
}

void History::expect_stored(ClientHost& client, Space& own, std::size_t block) {
    put(client, own, {block}, false);
    calls_.back().must_succeed = true;
}

// ---- checking ----

void History::check() {
    ++steps_;
    const Instant now = world_.clock().now();
    for (auto call = calls_.begin(); call != calls_.end();) {
        const auto next = std::next(call);
        if (!call->client.alive()) {
            // What a dead process had stays where it was, until nobody can want it any more.
        } else if (call->over) {
            if (now - call->over_at >= kWatched) {
                check_rest(*call);
                calls_.erase(call);
            }
        } else if (call->done()) {
            finish(*call);
        } else if (now > call->deadline && now > call->client.excused_until() && !call->client.frozen()) {
            blame(fmt::format("call {} of {} is not done {} ns after its deadline", call->number,
                              call->client.name(), (now - call->deadline).count()));
        }
        call = next;
    }
    for (auto held = held_.begin(); held != held_.end();) {
        const auto next = std::next(held);
        if (held->client.alive()) {
            const bool over = now >= held->until && !held->client.frozen();
            check_views(*held, over || steps_ % kWholeEvery == 0);
            if (over) {
                held_.erase(held);
            }
        }
        held = next;
    }
}

void History::finish(Call& call) {
    const Instant now = world_.clock().now();
    call.match ? finish_match(call) : finish_report(call);
    call.over = true;
    call.over_at = now;
    if (call.must_succeed && call.kind == CallKind::Put) {
        get(call.client, call.own, call.named, call.blocks, true, 1);
        calls_.back().must_succeed = true;
    }
    // The caller uses its memory for something else now.
    for (auto& buffer : call.buffers) std::fill(buffer.memory.begin(), buffer.memory.end(), kRestByte);
    if (expectations_.overwrites_after_done && !call.buffers.empty()) {
        call.buffers.front().inside().front() = std::byte{0};
    }
}

void History::finish_match(Call& call) {
    const Instant now = world_.clock().now();
    client::Match match = call.match->take();
    seen_.matched += match.blocks();
    if (match.blocks() > call.keys.size()) return blame("a match is longer than what was asked");
    if (&call.named != &call.own && match.blocks() > 0) return blame("a match shows another tenant's blocks");
    if (expectations_.no_faults && call.was_ready && match.trouble()) {
        blame(fmt::format("call {}: trouble without a fault: {}", call.number, match.trouble()->detail));
    }
    for (std::size_t at = 0; at < match.blocks(); ++at) {
        if (!call.named.blocks[call.blocks[at]].ever_put) blame("a match shows a block that nobody put");
    }
    if (match.blocks() == 0 || call.lease_ms == 0) return;

    Held held{.client = call.client,
              .space = call.named,
              .blocks = call.blocks,
              .match = std::move(match),
              .views = {},
              .since = now,
              .until = now + call.keep,
              .lease_ends = Instant::never()};
    held.blocks.resize(held.match.blocks());
    seen_.leased += held.match.leased() ? 1 : 0;
    for (std::size_t at = 0; at < held.blocks.size(); ++at) {
        const auto view = held.match.view(at);
        if (!view && view.error().code == Errc::Corrupt) blame("a view is of another block");
        if (!view) break;
        held.views.push_back(*view);
        ++seen_.views;
    }
    if (held.views.empty()) held.lease_ends = now + std::chrono::milliseconds(call.lease_ms) - kLeaseSpare;
    check_views(held, true);
    held_.push_back(std::move(held));
}

void History::finish_report(Call& call) {
    const client::Report report = call.report->take();
    check_margins(call);
    if (report.blocks.size() != call.keys.size()) return blame("a report of another length");
    if (report.trouble && report.trouble->code == Errc::Deadline) ++seen_.late;
    if (report.trouble &&
        (report.trouble->code == Errc::Corrupt ||
         (expectations_.no_faults && call.was_ready && report.trouble->code != Errc::NoCapacity &&
          report.trouble->code != Errc::Invalid))) {
        blame(fmt::format("call {}: trouble {}: {}", call.number, to_string(report.trouble->code),
                          report.trouble->detail));
    }
    for (std::size_t at = 0; at < report.blocks.size(); ++at) {
        const auto& result = report.blocks[at];
        const KnownBlock& block = call.named.blocks[call.blocks[at]];
        if (call.must_succeed && (result.outcome == Outcome::Miss || result.outcome == Outcome::Dropped)) {
            blame(fmt::format("{}: after all faults a {} failed: {}", call.client.name(),
                              call.kind == CallKind::Put ? "put" : "get",
                              report.trouble ? report.trouble->detail : "without a reason"));
        }
        switch (call.kind) {
            case CallKind::Get:
                check_get(call, at, result);
                break;
            case CallKind::Exists:
            case CallKind::Remove:
                if (result.outcome == Outcome::Hit && !block.ever_put)
                    blame("a block is present that nobody put");
                if (result.outcome == Outcome::Hit && &call.named != &call.own)
                    blame("another tenant's block is shown as present");
                break;
            case CallKind::Put:
                seen_.stored += result.outcome == Outcome::Stored ? 1 : 0;
                seen_.present += result.outcome == Outcome::Present ? 1 : 0;
                seen_.dropped += result.outcome == Outcome::Dropped ? 1 : 0;
                if (expectations_.ample && call.was_ready && result.outcome == Outcome::Dropped) {
                    blame(fmt::format("call {}: a put was dropped although there is room: {}", call.number,
                                      report.trouble ? report.trouble->detail : "without a reason"));
                }
                break;
            case CallKind::Match:
                break;
        }
        if (call.kind == CallKind::Put && expectations_.ample &&
            (result.outcome == Outcome::Stored || result.outcome == Outcome::Present)) {
            auto& since = call.named.blocks[call.blocks[at]].known_since;
            since = std::min(since, world_.clock().now());
        }
    }
}

void History::check_get(const Call& call, std::size_t at, const client::BlockResult& result) {
    const KnownBlock& block = call.named.blocks[call.blocks[at]];
    const auto size = static_cast<std::uint32_t>(block.bytes.size());
    const auto range = call.gets[at].range.within(size);
    if (result.outcome == Outcome::Hit) {
        ++seen_.hits;
        seen_.parts += call.gets[at].range.whole() ? 0 : 1;
        if (&call.named != &call.own) return blame("a get shows another tenant's block");
        if (!range) return blame("a get hits with bytes that the block does not have");
        const auto expected = Bytes(block.bytes).subspan(range->offset, range->length);
        if (result.bytes != expected.size() || !same(call.buffers[at].inside(), expected)) {
            blame(fmt::format(
                "call {} of {}: block {} of {} bytes, {} from {} on, hits with other bytes, from {} of {} on",
                call.number, call.client.name(), at, size, range->length, range->offset,
                std::mismatch(expected.begin(), expected.end(), call.buffers[at].inside().begin()).first -
                    expected.begin(),
                result.bytes));
        }
        return;
    }
    ++seen_.misses;
    if (&call.named != &call.own) return;
    if (result.outcome == Outcome::Outside) {
        ++seen_.outside;
        if (range || result.bytes != size) blame("a range is refused that the block has");
        return;
    }
    if (result.outcome == Outcome::TooSmall) {
        ++seen_.too_small;
        if (!range || call.buffers[at].inside().size() >= range->length || result.bytes != range->length)
            blame("a block is said to be larger than what was put");
        return;
    }
    if (expectations_.no_faults && call.was_ready && !block.ever_removed &&
        leased_throughout(call, call.blocks[at])) {
        blame(fmt::format("call {}: block {} is leased and misses", call.number, at));
    }
    if (expectations_.ample && call.was_ready && !block.ever_removed && block.known_since < call.started) {
        blame(fmt::format("call {} of {} {}: block {} was stored at {} us and misses, begun at {} us",
                          call.number, call.client.name(), call.client.mapped(), at,
                          block.known_since.ns / 1000, call.started.ns / 1000));
    }
}

bool History::leased_throughout(const Call& call, std::size_t block) const {
    const Instant now = world_.clock().now();
    return std::any_of(held_.begin(), held_.end(), [&](const Held& held) {
        return &held.client == &call.client && &held.space == &call.named && held.match.leased() &&
               held.since <= call.started && now < held.lease_ends &&
               std::find(held.blocks.begin(), held.blocks.end(), block) != held.blocks.end();
    });
}

void History::check_margins(const Call& call) {
    for (const auto& buffer : call.buffers) {
        const Bytes memory(buffer.memory);
        if (!all_are(memory.first(kMargin), kMarginByte) || !all_are(memory.last(kMargin), kMarginByte)) {
            blame(fmt::format("call {}: memory beside its buffer was written", call.number));
        }
    }
    if (call.kind != CallKind::Put) return;
    for (std::size_t at = 0; at < call.blocks.size(); ++at) {
        if (!same(call.buffers[at].inside(), call.named.blocks[call.blocks[at]].bytes))
            blame(fmt::format("call {}: a put wrote to its buffer", call.number));
    }
}

void History::check_rest(const Call& call) {
    for (const auto& buffer : call.buffers) {
        if (!all_are(buffer.memory, kRestByte))
            blame(fmt::format("call {}: its buffer was written after it was done", call.number));
    }
}

void History::check_views(Held& held, bool whole) {
    for (std::size_t at = 0; at < held.views.size(); ++at) {
        const Bytes expected(held.space.blocks[held.blocks[at]].bytes);
        const Bytes view = held.views[at];
        const std::size_t from =
            whole || expected.size() <= kViewWindow ? 0 : held.window % (expected.size() - kViewWindow);
        const std::size_t count = whole ? expected.size() : std::min(kViewWindow, expected.size());
        if (view.size() != expected.size() ||
            !same(view.subspan(from, count), expected.subspan(from, count))) {
            blame(fmt::format("a view of {} bytes that {} holds has changed", expected.size(),
                              held.client.name()));
        }
    }
    held.window += kViewWindow;
}

void History::release_all() {
    held_.remove_if([](const Held& held) { return held.client.acts(); });
}

bool History::idle() const noexcept {
    return std::none_of(calls_.begin(), calls_.end(),
                        [](const Call& call) { return call.client.alive() && !call.over; });
}

std::size_t History::held(const ClientHost& client) const noexcept {
    return static_cast<std::size_t>(
        std::count_if(held_.begin(), held_.end(), [&](const Held& held) { return &held.client == &client; }));
}

}  // namespace cmpool::testing
