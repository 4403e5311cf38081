#include "entry.h"
#include "handles.h"

#include <algorithm>

using namespace cmpool;
using namespace cmpool::c;

namespace {

/// A call on keys alone, which the client has two of.
template <class Ask>
cmpool_code ask_keys(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                     const cmpool_options* options, cmpool_result* results, bool needed, cmpool_error* error,
                     Ask ask) {
    return guarded(error, [&]() -> Result<void> {
        const auto open = Results::open(results, count, needed, client::Outcome::Miss);
        if (!open) return fail(open.error());
        const auto named = read_keys(keys, count);
        if (!named) return fail(named.error());
        auto entered = enter(pool, options);
        if (!entered) return fail(entered.error());
        const auto report = ask(*pool->core->client, *named, entered->options.call);
        open->write(report);
        return trouble_of(report.trouble);
    });
}

}  // namespace

cmpool_code cmpool_match(cmpool_pool* pool, const cmpool_digest* chain, size_t count,
                         const cmpool_options* options, cmpool_lease** lease, size_t* blocks,
                         cmpool_error* error) {
    if (lease != nullptr) *lease = nullptr;
    if (blocks != nullptr) *blocks = 0;
    return guarded(error, [&]() -> Result<void> {
        const auto keys = read_keys(chain, std::min<size_t>(count, CMPOOL_BATCH_MAX));
        if (!keys) return fail(keys.error());
        auto entered = enter(pool, options);
        if (!entered) return fail(entered.error());
        auto made = std::make_unique<cmpool_lease>();  // given back within the turn
        made->core = pool->core;
        made->match = pool->core->client->match(*keys, entered->options.lease_ms, entered->options.call);
        if (blocks != nullptr) *blocks = made->match.blocks();
        auto trouble = trouble_of(made->match.trouble());
        if (lease != nullptr) *lease = made.release();
        return trouble;
    });
}

cmpool_code cmpool_get(cmpool_pool* pool, const cmpool_get_item* items, size_t count,
                       const cmpool_options* options, cmpool_result* results, cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        const auto open = Results::open(results, count, true, client::Outcome::Miss);
        if (!open) return fail(open.error());
        auto entered = enter(pool, options);
        if (!entered) return fail(entered.error());
        auto& core = *pool->core;
        if (auto fine = core.gets.read(items, count); !fine) return fine;
        const auto report = core.client->get(core.gets.items, entered->options.call);
        open->write(report);
        return trouble_of(report.trouble);
    });
}

cmpool_code cmpool_put(cmpool_pool* pool, const cmpool_put_item* items, size_t count,
                       const cmpool_options* options, cmpool_result* results, cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        const auto open = Results::open(results, count, false, client::Outcome::Dropped);
        if (!open) return fail(open.error());
        auto entered = enter(pool, options);
        if (!entered) return fail(entered.error());
        auto& core = *pool->core;
        if (auto fine = core.puts.read(items, count); !fine) return fine;
        const auto report = core.client->put(core.puts.items, entered->options.call);
        open->write(report);
        return trouble_of(report.trouble);
    });
}

cmpool_code cmpool_exists(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                          const cmpool_options* options, cmpool_result* results, cmpool_error* error) {
    return ask_keys(pool, keys, count, options, results, true, error,
                    [](auto& client, auto named, auto& call) { return client.exists(named, call); });
}

cmpool_code cmpool_remove(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                          const cmpool_options* options, cmpool_result* results, cmpool_error* error) {
    return ask_keys(pool, keys, count, options, results, false, error,
                    [](auto& client, auto named, auto& call) { return client.remove(named, call); });
}
