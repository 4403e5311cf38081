#include "entry.h"
#include "handles.h"

#include <cstring>

#include <cmpool/model/placement.h>

using namespace cmpool;
using namespace cmpool::c;

cmpool_code cmpool_chain(cmpool_pool* pool, const uint32_t* tokens, size_t token_count, cmpool_digest* keys,
                         size_t room, size_t* count, cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (count == nullptr) return fail(missing("count"));
        *count = 0;
        if (tokens == nullptr && token_count > 0) return fail(missing("tokens"));
        if (token_count > CMPOOL_TOKENS_MAX)
            return fail(Errc::Invalid, "expected at most {} tokens, saw {}", CMPOOL_TOKENS_MAX, token_count);
        auto entered = enter(pool, nullptr);
        if (!entered) return fail(entered.error());
        const auto chain = pool->core->client->chain({tokens, token_count});
        if (!chain) return fail(chain.error());
        if (chain->empty()) return {};
        if (keys == nullptr) return fail(missing("keys"));
        if (chain->size() > room)
            return fail(Errc::Invalid, "expected room for {} keys, saw room for {}", chain->size(), room);
        std::memcpy(keys, chain->data(), chain->size() * sizeof *keys);
        *count = chain->size();
        return {};
    });
}

cmpool_code cmpool_key(cmpool_pool* pool, const void* own_key, size_t bytes, cmpool_digest* key,
                       cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (key == nullptr) return fail(missing("key"));
        if (own_key == nullptr && bytes > 0) return fail(missing("own_key"));
        auto entered = enter(pool, nullptr);
        if (!entered) return fail(entered.error());
        const auto made = pool->core->client->key({static_cast<const std::byte*>(own_key), bytes});
        if (!made) return fail(made.error());
        std::memcpy(key, made->bytes.data(), sizeof *key);
        return {};
    });
}

uint64_t cmpool_group(const cmpool_pool* pool, const cmpool_digest* chain, uint32_t position) {
    if (pool == nullptr || chain == nullptr) return 0;
    const auto* keys = reinterpret_cast<const model::Digest*>(chain);
    return model::group_key({keys, std::size_t{position} + 1}, position, pool->core->group_blocks);
}

cmpool_code cmpool_part_key(const cmpool_digest* block, uint32_t part, uint32_t parts, cmpool_digest* key) {
    if (block == nullptr || key == nullptr || part >= parts) return CMPOOL_INVALID;
    const auto made = model::part_digest(read_digest(*block), part, parts);
    std::memcpy(key, made.bytes.data(), sizeof *key);
    return CMPOOL_OK;
}
