#include "entry.h"
#include "handles.h"

using namespace cmpool;
using namespace cmpool::c;

size_t cmpool_lease_blocks(const cmpool_lease* lease) { return lease == nullptr ? 0 : lease->match.blocks(); }

int cmpool_lease_held(const cmpool_lease* lease) {
    if (lease == nullptr) return 0;
    int held = 0;
    guarded([&] {
        const auto turn = take_turn(*lease->core);
        held = lease->match.leased() ? 1 : 0;
    });
    return held;
}

cmpool_code cmpool_lease_view(const cmpool_lease* lease, size_t index, uint32_t part, cmpool_view* view,
                              cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (view == nullptr) return fail(missing("view"));
        *view = {};
        if (lease == nullptr) return fail(missing("lease"));
        const auto turn = take_turn(*lease->core);
        const auto bytes = lease->match.view(index, part);
        if (!bytes) return fail(bytes.error());
        *view = {bytes->data(), bytes->size()};
        return {};
    });
}

void cmpool_release(cmpool_lease* lease) {
    if (lease == nullptr) return;
    guarded([&] {
        const std::unique_ptr<cmpool_lease> released(lease);
        const auto turn = take_turn(*released->core);
        released->match = {};
    });
}

cmpool_code cmpool_register(cmpool_pool* pool, void* data, size_t bytes, cmpool_memory** memory,
                            cmpool_error* error) {
    return guarded(error, [&]() -> Result<void> {
        if (memory == nullptr) return fail(missing("memory"));
        *memory = nullptr;
        if (data == nullptr || bytes == 0) return fail(missing("data"));
        auto made = std::make_unique<cmpool_memory>();
        auto entered = enter(pool, nullptr);
        if (!entered) return fail(entered.error());
        auto registration = pool->core->client->register_buffer({static_cast<std::byte*>(data), bytes});
        if (!registration) return fail(registration.error());
        made->core = pool->core;
        made->registration.emplace(std::move(*registration));
        *memory = made.release();
        return {};
    });
}

void cmpool_unregister(cmpool_memory* memory) {
    if (memory == nullptr) return;
    guarded([&] {
        const std::unique_ptr<cmpool_memory> ended(memory);
        const auto turn = take_turn(*ended->core);
        ended->registration.reset();
    });
}
