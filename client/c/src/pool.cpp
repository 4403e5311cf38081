#include "entry.h"
#include "handles.h"
#include "sized.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include <cmpool/client/pool_uri.h>

using namespace cmpool;
using namespace cmpool::c;

namespace {

std::string text_or(const char* text, const char* otherwise) { return text != nullptr ? text : otherwise; }

struct Wanted {
    client::NamespaceSpec spec;
    std::optional<client::SealKey> seal_key;
};

Result<Wanted> read_namespace(const cmpool_namespace* space) {
    const auto asked = read_sized(space);
    if (!asked) return fail(asked.error());
    Wanted wanted;
    auto& [spec, seal_key] = wanted;
    spec = {.model = text_or(asked->model, ""),
            .revision = text_or(asked->revision, ""),
            .dtype = text_or(asked->dtype, ""),
            .layout = text_or(asked->layout, ""),
            .parallel = text_or(asked->parallel, ""),
            .engine = text_or(asked->engine, ""),
            .block_tokens = asked->block_tokens};
    if (asked->tenant != nullptr && *asked->tenant != '\0') spec.tenant = asked->tenant;
    if (asked->group_blocks != 0) spec.group_blocks = asked->group_blocks;
    if (asked->seal_key != nullptr)
        std::memcpy(seal_key.emplace().data(), asked->seal_key, sizeof(client::SealKey));
    return wanted;
}

template <std::size_t Room>
void write_text(char (&into)[Room], const std::string& text) noexcept {
    const std::size_t fits = std::min(text.size(), Room - 1);
    std::memcpy(into, text.data(), fits);
}

cmpool_status as_status(const client::Status& status) noexcept {
    cmpool_status written{.ready = status.ready,
                          .shards = status.shards,
                          .shards_mapped = status.shards_mapped,
                          .members = status.members,
                          .members_ready = status.members_ready,
                          .epoch = status.epoch,
                          .broken_seals = status.broken_seals};
    write_text(written.transport, status.transport);
    write_text(written.kv, status.kv);
    write_text(written.version, status.version);
    write_text(written.node, status.node);
    return written;
}

}  // namespace

cmpool_code cmpool_open(const char* uri, const cmpool_namespace* space, cmpool_pool** pool,
                        cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (pool == nullptr) return fail(missing("pool"));
        *pool = nullptr;
        if (uri == nullptr) return fail(missing("uri"));
        const auto wanted = read_namespace(space);
        if (!wanted) return fail(wanted.error());
        const auto& [spec, seal_key] = *wanted;
        const auto parsed = client::PoolUri::parse(uri);
        if (!parsed) return fail(parsed.error());
        auto opened = client::PoolClient::open(uri, spec, seal_key);
        if (!opened) return fail(opened.error());
        auto made = std::make_unique<cmpool_pool>();
        made->core = std::make_shared<Core>();
        made->core->client = std::move(*opened);
        made->core->deadline = parsed->deadline;
        made->core->group_blocks = spec.group_blocks;
        *pool = made.release();
        return {};
    });
}

void cmpool_close(cmpool_pool* pool) {
    if (pool == nullptr) return;
    guarded([&] {
        const std::unique_ptr<cmpool_pool> closed(pool);
        const auto turn = take_turn(*closed->core);
        closed->core->client.reset();
        // The handle goes after the turn, and the turn's mutex with the last handle.
    });
}

cmpool_code cmpool_read_status(cmpool_pool* pool, cmpool_status* status, cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (status == nullptr) return fail(missing("status"));
        if (auto fine = check_size<cmpool_status>(status->size); !fine) return fine;
        write_sized(status, status->size, cmpool_status{});
        auto entered = enter(pool, nullptr);
        if (!entered) return fail(entered.error());
        const auto seen = pool->core->client->status();
        write_sized(status, status->size, as_status(seen));
        return seen.ready ? Result<void>{} : trouble_of(seen.trouble);
    });
}

cmpool_code cmpool_read_stats(cmpool_pool* pool, const cmpool_options* options, cmpool_stats** stats,
                              cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (stats == nullptr) return fail(missing("stats"));
        *stats = nullptr;
        auto entered = enter(pool, options);
        if (!entered) return fail(entered.error());
        auto made = std::make_unique<cmpool_stats>();
        auto answer = pool->core->client->stats(entered->options.call);
        if (!answer) return fail(answer.error());
        made->all = std::move(*answer);
        *stats = made.release();
        return {};
    });
}

size_t cmpool_stats_count(const cmpool_stats* stats) { return stats == nullptr ? 0 : stats->all.size(); }

cmpool_code cmpool_stats_at(const cmpool_stats* stats, size_t index, cmpool_stat* stat) {
    return guarded(nullptr, [&]() -> Result<void> {
        if (stats == nullptr || stat == nullptr) return fail(missing("stats or stat"));
        if (auto fine = check_size<cmpool_stat>(stat->size); !fine) return fine;
        if (index >= stats->all.size()) return fail(Errc::Invalid, "no statistic {}", index);
        const auto& one = stats->all[index];
        write_sized(stat, stat->size, cmpool_stat{.name = one.name.c_str(), .value = one.value});
        return {};
    });
}

void cmpool_stats_free(cmpool_stats* stats) { delete stats; }
