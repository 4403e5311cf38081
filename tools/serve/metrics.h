#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/loop/router.h>

namespace cmpool::serve {

/// What a front has counted, as Prometheus text.
///
///   Threads  any
class Metrics {
public:
    /// One more runs; returns how many.
    std::size_t enter();
    void leave();
    void answered(int status);
    void cancelled();
    void prompted(std::size_t tokens);
    void generated(std::size_t tokens);
    void first_token(Nanos time);
    [[nodiscard]] std::string text(const std::vector<loop::WorkerReport>& workers) const;

private:
    static constexpr std::array<double, 12> kBounds{0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                    0.5,   1,    2.5,   5,    10,  30};

    mutable std::mutex mutex_;
    std::size_t running_ = 0;
    std::map<int, std::uint64_t> answers_;
    std::uint64_t cancelled_ = 0, prompt_tokens_ = 0, generated_tokens_ = 0;
    std::array<std::uint64_t, kBounds.size() + 1> first_tokens_{};  // one bucket each, the last without end
    double first_token_seconds_ = 0;
};

}  // namespace cmpool::serve
