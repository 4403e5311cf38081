#pragma once

#include "cache_thread.h"

#include <cstdint>
#include <memory>
#include <vector>

#include <cmpool/client/load.h>

namespace cmpool::client {

struct LoadJob {
    std::shared_ptr<Load::State> state;
    std::vector<Digest> keys;  ///< of whole blocks
    std::vector<std::uint32_t> pages;
};

/// Loads prefixes from their back, batch by batch; and once the rest of one takes no longer than the step
/// behind it, this rest layer by layer.
class Loader : public Caller {
public:
    using Caller::Caller;

    void work(const LoadJob& job, const std::stop_token& stop);
    void give_up(const LoadJob& job);

private:
    [[nodiscard]] bool begin_layers(const LoadJob& job, Meeting::Range& range);
    [[nodiscard]] bool load_batch(const LoadJob& job);
    [[nodiscard]] bool load_layers(const LoadJob& job, Meeting::Range range, const std::stop_token& stop);
    [[nodiscard]] bool layers_here(const LoadJob& job, Meeting::Range range, std::uint32_t from,
                                   std::uint32_t count, Nanos took);
    void layers_over(const LoadJob& job, bool for_good);

    /// Gets some bytes of each block of a range; returns how many are there, counted from its back.
    [[nodiscard]] std::size_t get(const LoadJob& job, Meeting::Range range, ByteRange bytes);
    [[nodiscard]] std::size_t batch_blocks();
    [[nodiscard]] std::uint32_t layers_at_once(std::size_t blocks);
    [[nodiscard]] std::optional<Nanos> deadline(const LoadJob& job, std::size_t blocks, std::uint64_t bytes);
    Nanos learn(std::uint64_t bytes, Nanos took);

    bool layers_tried_ = false;  ///< of the job at hand
};

}  // namespace cmpool::client
