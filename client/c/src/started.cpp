#include "entry.h"
#include "handles.h"

#include <algorithm>

using namespace cmpool;
using namespace cmpool::c;

namespace {

/// Begins a call; `begin(call, client, options)` reads what it names into the call and starts it.
template <class Begin>
cmpool_code start(cmpool_pool* pool, std::size_t count, const cmpool_options* options, cmpool_call** call,
                  cmpool_error* error, Begin begin) {
    return guarded(error, [&]() -> Result<void> {
        if (call == nullptr) return fail(missing("call"));
        *call = nullptr;
        auto entered = enter(pool, options);
        if (!entered) return fail(entered.error());
        auto made = std::make_unique<cmpool_call>();
        auto& core = *pool->core;
        if (core.calls >= CMPOOL_CALLS_MAX)
            return fail(Errc::Again, "{} calls are on their way: finish some of them first",
                        CMPOOL_CALLS_MAX);
        made->core = pool->core;
        made->count = count;
        if (Result<void> fine = begin(*made, *core.client, entered->options); !fine) return fine;
        ++core.calls;
        *call = made.release();
        return {};
    });
}

/// What `keys` name stays with the call.
Result<void> keep_keys(cmpool_call& call, const cmpool_digest* keys, std::size_t count) {
    const auto named = read_keys(keys, count);
    if (!named) return fail(named.error());
    call.keys.assign(named->begin(), named->end());
    return {};
}

/// A pool takes so many messages with blocks from a client at once; a call has up to four of them on their
/// way, and one call more may be blocking.
Result<void> check_puts(Core& core) {
    std::erase_if(core.puts_started, [](const cmpool_call* put) { return put->done(); });
    if (core.puts_started.size() < CMPOOL_PUTS_MAX) return {};
    return fail(Errc::Again, "{} puts are on their way: wait for one of them first", CMPOOL_PUTS_MAX);
}

Result<void> not_done() { return fail(Errc::Again, "the call is not done yet"); }

/// The call's own memory ends with it; `turn` is held meanwhile.
void end(std::unique_ptr<cmpool_call>& call) noexcept {
    --call->core->calls;
    std::erase(call->core->puts_started, call.get());
    call->report.reset();
    call->match.reset();
}

void wait_until_done(cmpool_call& call) {
    if (call.done()) return;  // always, once the pool is closed
    call.report ? call.core->client->wait(*call.report) : call.core->client->wait(*call.match);
}

}  // namespace

cmpool_code cmpool_start_match(cmpool_pool* pool, const cmpool_digest* chain, size_t count,
                               const cmpool_options* options, cmpool_call** call, cmpool_error* error) {
    count = std::min<size_t>(count, CMPOOL_BATCH_MAX);
    return start(pool, count, options, call, error,
                 [&](cmpool_call& made, client::PoolClient& client, const Options& how) -> Result<void> {
                     if (auto kept = keep_keys(made, chain, count); !kept) return kept;
                     made.match.emplace(client.start_match(made.keys, how.lease_ms, how.call));
                     return {};
                 });
}

cmpool_code cmpool_start_get(cmpool_pool* pool, const cmpool_get_item* items, size_t count,
                             const cmpool_options* options, cmpool_call** call, cmpool_error* error) {
    return start(pool, count, options, call, error,
                 [&](cmpool_call& made, client::PoolClient& client, const Options& how) -> Result<void> {
                     if (auto read = made.gets.read(items, count); !read) return read;
                     made.report.emplace(client.start_get(made.gets.items, how.call));
                     return {};
                 });
}

cmpool_code cmpool_start_put(cmpool_pool* pool, const cmpool_put_item* items, size_t count,
                             const cmpool_options* options, cmpool_call** call, cmpool_error* error) {
    return start(pool, count, options, call, error,
                 [&](cmpool_call& made, client::PoolClient& client, const Options& how) -> Result<void> {
                     if (auto free = check_puts(*made.core); !free) return free;
                     if (auto read = made.puts.read(items, count); !read) return read;
                     made.core->puts_started.reserve(CMPOOL_PUTS_MAX);
                     made.report.emplace(client.start_put(made.puts.items, how.call));
                     made.core->puts_started.push_back(&made);
                     return {};
                 });
}

cmpool_code cmpool_start_exists(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                                const cmpool_options* options, cmpool_call** call, cmpool_error* error) {
    return start(pool, count, options, call, error,
                 [&](cmpool_call& made, client::PoolClient& client, const Options& how) -> Result<void> {
                     if (auto kept = keep_keys(made, keys, count); !kept) return kept;
                     made.report.emplace(client.start_exists(made.keys, how.call));
                     return {};
                 });
}

cmpool_code cmpool_start_remove(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                                const cmpool_options* options, cmpool_call** call, cmpool_error* error) {
    return start(pool, count, options, call, error,
                 [&](cmpool_call& made, client::PoolClient& client, const Options& how) -> Result<void> {
                     if (auto kept = keep_keys(made, keys, count); !kept) return kept;
                     made.report.emplace(client.start_remove(made.keys, how.call));
                     return {};
                 });
}

cmpool_code cmpool_event_fd(cmpool_pool* pool, int* fd, cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (fd == nullptr) return fail(missing("fd"));
        *fd = -1;
        auto entered = enter(pool, nullptr);
        if (!entered) return fail(entered.error());
        const auto made = pool->core->client->event_fd();
        if (!made) return fail(made.error());
        *fd = *made;
        return {};
    });
}

cmpool_code cmpool_progress(cmpool_pool* pool, cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (pool == nullptr) return fail(missing("pool"));
        // Whoever is at the pool now moves all that is on its way.
        const Turn turn(pool->core->turn, std::try_to_lock);
        if (turn) pool->core->client->progress();
        return {};
    });
}

int cmpool_call_done(const cmpool_call* call) {
    if (call == nullptr) return 0;
    int done = 0;
    guarded([&] {
        const auto turn = take_turn(*call->core);
        done = call->done() ? 1 : 0;
    });
    return done;
}

cmpool_code cmpool_wait(cmpool_call* call, cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (call == nullptr) return fail(missing("call"));
        const auto turn = take_turn(*call->core);
        wait_until_done(*call);
        return {};
    });
}

cmpool_code cmpool_finish(cmpool_call* call, cmpool_result* results, size_t count, cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (call == nullptr) return fail(missing("call"));
        if (!call->report) return fail(Errc::Invalid, "expected a call with results, saw a match");
        if (results != nullptr && count != call->count)
            return fail(Errc::Invalid, "expected room for {} results, saw {}", call->count, count);
        const auto open = Results::open(results, count, false, client::Outcome::Miss);
        if (!open) return fail(open.error());
        const auto core = call->core;  // the mutex outlives the turn
        const auto turn = take_turn(*core);
        if (!call->done()) return not_done();
        std::unique_ptr<cmpool_call> finished(call);
        const auto report = finished->report->take();
        end(finished);
        open->write(report);
        return trouble_of(report.trouble);
    });
}

cmpool_code cmpool_finish_match(cmpool_call* call, cmpool_lease** lease, size_t* blocks,
                                cmpool_error* error) {
    if (lease != nullptr) *lease = nullptr;
    if (blocks != nullptr) *blocks = 0;
    return guarded(error, [&]() -> Result<void> {
        if (call == nullptr) return fail(missing("call"));
        if (!call->match) return fail(Errc::Invalid, "expected a match, saw a call with results");
        const auto core = call->core;
        const auto turn = take_turn(*core);
        if (!call->done()) return not_done();
        auto made = std::make_unique<cmpool_lease>();
        std::unique_ptr<cmpool_call> finished(call);
        made->core = core;
        made->match = finished->match->take();
        end(finished);
        if (blocks != nullptr) *blocks = made->match.blocks();
        auto trouble = trouble_of(made->match.trouble());
        if (lease != nullptr) *lease = made.release();
        return trouble;
    });
}

void cmpool_drop(cmpool_call* call) {
    if (call == nullptr) return;
    guarded([&] {
        const auto core = call->core;
        const auto turn = take_turn(*core);
        wait_until_done(*call);
        std::unique_ptr<cmpool_call> dropped(call);
        // An answer that nobody takes gives its lease back here.
        if (dropped->match) (void)dropped->match->take();
        end(dropped);
    });
}
