#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/engine/engine.h>
#include <cmpool/engine/wake.h>

namespace cmpool::engine {

struct GeneratorOptions {
    std::size_t chunk_tokens = 128;               ///< prefill takes so many tokens a step
    std::size_t threads = 1;                      ///< compute a step together
    std::vector<std::uint32_t> stop_tokens;       ///< generation ends before the first of these
    Nanos store_limit = std::chrono::seconds(2);  ///< how long generate() waits at its end for stores
    Wake* wake = nullptr;                         ///< rung by the cache; none: it is looked at now and then
};

/// What one prompt gave, and what it cost.
struct Generation {
    std::vector<std::uint32_t> tokens;  ///< what was generated, without the prompt
    std::size_t prompt_tokens = 0;
    std::size_t reused_tokens = 0;  ///< of the prompt, from the cache
    Nanos load{};                   ///< asking the cache, and waiting for it
    Nanos prefill{};                ///< computing the rest of the prompt
    Nanos first_token{};            ///< both, and choosing the first token
    Nanos decode{};                 ///< all further tokens
};

/// Prompt in, tokens out, greedily: an Engine that runs one prompt at a time.
///
///   Lifetime  as the Engine
///   Threads   one at a time
///   Limits    prompt and output together at most the model's context + 1 tokens
class Generator {
public:
    Generator(const Model& model, PagedKv& kv, client::ContextCache* cache, const Clock& clock,
              GeneratorOptions options = {});

    /// Ends after max_tokens tokens, at a stop token or where the context is full; then waits for what is
    /// being stored, so that all pages are free again.
    /// Errors: those of Engine::submit().
    [[nodiscard]] Result<Generation> generate(std::span<const std::uint32_t> prompt, std::size_t max_tokens);

private:
    void settle();

    const Clock& clock_;
    GeneratorOptions options_;
    Wake own_wake_;
    Wake& wake_;
    Engine engine_;
    SequenceId next_ = 1;
};

}  // namespace cmpool::engine
