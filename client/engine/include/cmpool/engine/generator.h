#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/engine/forward.h>
#include <cmpool/engine/prefix_store.h>

namespace cmpool::engine {

struct GeneratorOptions {
    std::size_t chunk_tokens = 128;               ///< prefill takes so many tokens a step
    std::vector<std::uint32_t> stop_tokens;       ///< generation ends before the first of these
    Nanos store_limit = std::chrono::seconds(2);  ///< how long generate() waits at its end for stores
};

/// What one prompt gave, and what it cost.
struct Generation {
    std::vector<std::uint32_t> tokens;  ///< what was generated, without the prompt
    std::size_t prompt_tokens = 0;
    std::size_t reused_tokens = 0;  ///< of the prompt, from the store
    Nanos load{};                   ///< asking the store
    Nanos prefill{};                ///< computing the rest of the prompt
    Nanos first_token{};            ///< both, and choosing the first token
    Nanos decode{};                 ///< all further tokens
};

/// Prompt in, tokens out, greedily: asks the store for the longest cached prefix, computes the rest,
/// hands the prompt's new full blocks to the store, decodes meanwhile.
/// The prompt's last token is always computed, since logits come from it: a prompt of n tokens reuses
/// at most (n - 1) / block_tokens blocks, and cached blocks are never written.
///
///   Lifetime  refers to the PagedKv, the store (nullptr is none) and the clock; shares the model's weights
///   Threads   one at a time
///   Limits    prompt and output together at most the model's context + 1 tokens
class Generator {
public:
    Generator(const Model& model, PagedKv& kv, PrefixStore* store, const Clock& clock,
              GeneratorOptions options = {});

    /// Ends after max_tokens tokens, at a stop token or where the context is full.
    /// Errors: Invalid for an empty prompt, one beyond the context, or a token beyond the vocabulary;
    /// NoCapacity when the PagedKv has too few free blocks.
    [[nodiscard]] Result<Generation> generate(std::span<const std::uint32_t> prompt, std::size_t max_tokens);

private:
    [[nodiscard]] Result<void> check(std::span<const std::uint32_t> prompt) const;
    std::size_t load(std::span<const std::uint32_t> prompt, std::span<const std::uint32_t> blocks);
    void prefill(std::span<const std::uint32_t> prompt, std::size_t start,
                 std::span<const std::uint32_t> blocks);
    void store(std::span<const std::uint32_t> prompt, std::size_t first,
               std::span<const std::uint32_t> blocks);
    void decode(std::vector<std::uint32_t>& tokens, std::size_t count, std::size_t position,
                std::span<const std::uint32_t> blocks);
    [[nodiscard]] bool stops(std::uint32_t token) const noexcept;

    ModelConfig config_;
    PagedKv& kv_;
    PrefixStore* store_;
    const Clock& clock_;
    GeneratorOptions options_;
    Forward forward_;
};

}  // namespace cmpool::engine
