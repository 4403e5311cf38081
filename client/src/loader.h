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
    std::shared_ptr<const Places> places;  ///< as the engine's own client has matched them
};

/// Loads prefixes from their back, batch by batch; and once the rest of one takes no longer than the step
/// behind it, this rest layer by layer.
class Loader : public Caller {
public:
    Loader(std::string uri, const NamespaceSpec& spec, const KvPages& kv, const Share& share, Shared& shared,
           std::optional<std::uint64_t> bytes_per_s)
        : Caller(std::move(uri), spec, kv, share, shared), bytes_per_s_(bytes_per_s) {}

    void work(const LoadJob& job, const std::stop_token& stop);
    void give_up(const LoadJob& job);

private:
    [[nodiscard]] bool begin_layers(const LoadJob& job, Meeting::Range& range);
    [[nodiscard]] bool load_batch(const LoadJob& job);
    void load_layers(const LoadJob& job, Meeting::Range range, const std::stop_token& stop);
    [[nodiscard]] bool layers_here(const LoadJob& job, Meeting::Range range, std::uint32_t from,
                                   std::uint32_t count, Nanos took);
    void layers_over(const LoadJob& job);

    struct Got {
        std::size_t good;  ///< blocks, counted from the range's back
        Nanos took;
    };
    /// Gets some bytes of each block of a range, as fast as it may; the engine is there in `until_met`.
    [[nodiscard]] Got get(const LoadJob& job, Meeting::Range range, Nanos until_met, ByteRange bytes);
    [[nodiscard]] std::size_t ask(const LoadJob& job, Meeting::Range range, ByteRange bytes,
                                  std::optional<Nanos> limit);
    void hold(Load::State& state, Instant until);
    [[nodiscard]] Nanos time_on_the_way(std::uint64_t bytes) const;
    [[nodiscard]] std::size_t batch_blocks();
    [[nodiscard]] std::uint32_t layers_at_once(std::size_t blocks);
    [[nodiscard]] std::optional<Nanos> deadline(bool patient, std::size_t blocks, Nanos until_met,
                                                std::uint64_t bytes);
    Nanos learn(std::uint64_t bytes, Nanos took);

    std::optional<std::uint64_t> bytes_per_s_;
    bool layers_tried_ = false;  ///< of the job at hand
};

}  // namespace cmpool::client
