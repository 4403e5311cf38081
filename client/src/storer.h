#pragma once

#include "cache_thread.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <cmpool/client/context_cache.h>

namespace cmpool::client {

struct StoreJob {
    std::shared_ptr<Store::State> state;
    std::vector<std::uint32_t> tokens;
    std::size_t first;
    std::vector<std::uint32_t> pages;
};

/// Stores what is new of prompts, batch by batch, as long as the pool is up to it.
class Storer : public Caller {
public:
    using Caller::Caller;

    void open();
    void work(const StoreJob& job, const std::stop_token& stop);
    void give_up(const StoreJob& job);

private:
    void put_all(const StoreJob& job, const std::stop_token& stop);
    [[nodiscard]] bool put(const StoreJob& job, std::span<const Digest> keys,
                           std::span<const std::size_t> wanted);
    [[nodiscard]] bool is_recent(const Digest& digest);
    [[nodiscard]] std::uint32_t cost_us();
};

}  // namespace cmpool::client
