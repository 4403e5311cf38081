#include "crew.h"

#include <cmpool/base/assert.h>

namespace cmpool::engine {

namespace {

// Some 20 us: a step has hundreds of rounds, and going to sleep between them takes longer than most last.
constexpr int kLooks = 1000;
// A product below so many multiply-adds is done before a helper has noticed it.
constexpr std::size_t kWorthIt = std::size_t{1} << 17;
// What the kernels take together, so that nobody gets less.
constexpr std::size_t kPanelsTogether = 4;

void rest() noexcept {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// Returns once `value` is no longer `old`.
template <class T>
void wait_while(const std::atomic<T>& value, T old) noexcept {
    for (int look = 0; look < kLooks; ++look) {
        if (value.load(std::memory_order_acquire) != old) return;
        rest();
    }
    value.wait(old, std::memory_order_acquire);
}

}  // namespace

Crew::Crew(std::size_t threads) {
    CMPOOL_ASSERT(threads > 0);
    for (std::size_t member = 1; member < threads; ++member)
        helpers_.emplace_back([this, member] { help(member); });
}

Crew::~Crew() {
    over_ = true;
    rounds_.fetch_add(1, std::memory_order_release);
    rounds_.notify_all();
}

void Crew::help(std::size_t member) {
    for (std::uint64_t seen = 0;; ++seen) {
        wait_while(rounds_, seen);
        if (over_) return;
        work(member);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
}

void Crew::work(std::size_t member) {
    for (std::size_t index = 0; (index = next_.fetch_add(1, std::memory_order_relaxed)) < count_;)
        (*part_)(index, member);
}

// Each helper goes through each round, so none can still be in the last one when the next begins.
void Crew::run(std::size_t count, const std::function<void(std::size_t, std::size_t)>& part) {
    if (helpers_.empty() || count < 2) {
        for (std::size_t index = 0; index < count; ++index) part(index, 0);
        return;
    }
    part_ = &part;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(helpers_.size(), std::memory_order_relaxed);
    rounds_.fetch_add(1, std::memory_order_release);
    rounds_.notify_all();
    work(0);
    for (std::size_t busy = 0; (busy = busy_.load(std::memory_order_acquire)) > 0;) wait_while(busy_, busy);
}

void Crew::multiply(const Panels& w, Rows<const float> x, std::size_t rows, Rows<float> y) {
    const std::size_t each = ((w.count + size() - 1) / size() + kPanelsTogether - 1) / kPanelsTogether;
    const std::size_t step = each * kPanelsTogether;
    if (step >= w.count || w.count * kLanes * w.inputs * rows < kWorthIt)
        return kernels_.multiply(w, x, rows, y);
    run((w.count + step - 1) / step, [&](std::size_t index, std::size_t) {
        const std::size_t first = index * step;
        const Panels some{w.data + first * w.panel_stride, w.panel_stride, w.input_stride,
                          std::min(step, w.count - first), w.inputs};
        kernels_.multiply(some, x, rows, {y.data + first * kLanes, y.stride});
    });
}

}  // namespace cmpool::engine
