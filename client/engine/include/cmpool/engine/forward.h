#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <cmpool/engine/model.h>
#include <cmpool/engine/paged_kv.h>

namespace cmpool::engine {

/// Tokens of one sequence that are computed together. Everything before `start` is in its blocks.
struct Slice {
    std::span<const std::uint32_t> tokens;
    std::size_t start;                      ///< position of the first of them
    std::span<const std::uint32_t> blocks;  ///< of the whole sequence, this slice included
};

/// Sees the layers of a step go by, so that cached blocks can come and new ones go while it computes.
/// Per layer, in order: on_written() then on_reading(), each once for the whole batch.
///
///   Threads  called by step(), on the thread that called it
class LayerHooks {
public:
    virtual ~LayerHooks() = default;

    /// The KV of layer `layer` of the batch's own tokens is now in their blocks, and stays as it is.
    virtual void on_written(std::size_t /*layer*/, std::span<const Slice> /*batch*/) {}
    /// Layer `layer` is about to read the KV of every position before each slice's `start`; of what
    /// was loaded, it must be there when this returns. False gives the step up: what should have come
    /// will not, or not in time.
    [[nodiscard]] virtual bool on_reading(std::size_t /*layer*/, std::span<const Slice> /*batch*/) {
        return true;
    }
};

/// The forward pass: writes the keys and values of tokens into their blocks, and gives logits.
/// A token's KV bytes and logits depend on the tokens before it and on nothing else: not on how a
/// prompt was cut into slices, on what else was in the batch, on the block size, or on the CPU.
///
///   Lifetime  refers to the PagedKv, shares the model's weights
///   Threads   one at a time; the others that compute are its own
///   Limits    rows_max tokens a step; memory is that of rows_max rows and one layer's attention
class Forward {
public:
    static constexpr std::size_t kRowsMax = 4096;
    static constexpr std::size_t kThreadsMax = 256;

    /// `rows_max` is between 1 and kRowsMax; the PagedKv's shape fits the model. `threads` compute a step
    /// together, the caller's among them; how many there are changes no byte.
    Forward(const Model& model, PagedKv& kv, std::size_t rows_max = 128, std::size_t threads = 1);
    ~Forward();

    [[nodiscard]] std::size_t rows_max() const noexcept;
    /// Computes a batch of slices, none of them empty, at most rows_max() tokens together.
    void step(std::span<const Slice> batch);
    /// The same with hooks. False when a hook gave up: there are no logits, and the blocks hold the KV
    /// of the batch's tokens for the layers that on_written() named. The step, or one of some of its
    /// slices, can be repeated: it writes the same bytes.
    [[nodiscard]] bool step(std::span<const Slice> batch, LayerHooks& hooks);
    /// Of slice `index` of the last step: one logit per piece of the vocabulary for what follows its
    /// last token. Valid until the next step.
    [[nodiscard]] std::span<const float> logits(std::size_t index) const noexcept;

private:
    class State;
    std::unique_ptr<State> state_;
};

/// The largest logit's id; of equal ones the lowest.
[[nodiscard]] std::uint32_t argmax(std::span<const float> logits) noexcept;

}  // namespace cmpool::engine
