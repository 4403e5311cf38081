#pragma once

#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace cmpool::engine {

/// Threads that compute one thing together: the caller's and size() - 1 more. Who does which part is
/// chance, so parts write to different places and no part's arithmetic depends on how many there are:
/// results are the same for every size.
///
///   Threads  run() and what is built on it belong to one thread at a time
class Crew {
public:
    explicit Crew(std::size_t threads);
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;
    ~Crew();

    [[nodiscard]] std::size_t size() const noexcept { return helpers_.size() + 1; }
    /// part(index, member) for each index below `count`, `member` being who does it, below size().
    /// Returns when all are done.
    void run(std::size_t count, const std::function<void(std::size_t, std::size_t)>& part);
    /// each(first, end) for runs of rows that make up all of them.
    template <class Each>
    void rows(std::size_t count, const Each& each) {
        const std::size_t step = (count + size() - 1) / size();
        if (size() == 1 || step < kRowsWorthIt) return each(std::size_t{0}, count);
        run(size(), [&](std::size_t index, std::size_t) {
            const std::size_t first = std::min(index * step, count);
            each(first, std::min(first + step, count));
        });
    }
    /// As Kernels::multiply(), each member taking some of the panels.
    void multiply(const Panels& w, Rows<const float> x, std::size_t rows, Rows<float> y);

private:
    static constexpr std::size_t kRowsWorthIt = 4;

    void help(std::size_t member);
    void work(std::size_t member);

    const Kernels& kernels_ = best_kernels();
    const std::function<void(std::size_t, std::size_t)>* part_ = nullptr;
    std::size_t count_ = 0;
    bool over_ = false;
    std::atomic<std::size_t> next_{0};      // part to take
    std::atomic<std::size_t> busy_{0};      // helpers that have not seen the end of this round
    std::atomic<std::uint64_t> rounds_{0};  // goes on by one where there is work
    std::vector<std::jthread> helpers_;     // last: they end before what they use
};

}  // namespace cmpool::engine
