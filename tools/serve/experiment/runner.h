#pragma once

#include "child.h"
#include "experiment.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/base/rng.h>
#include <cmpool/engine/model.h>

namespace cmpool::serve {

using Tokens = std::vector<std::uint32_t>;

/// One way to prefill.
///
///   Threads  one at a time
class Runner {
public:
    virtual ~Runner() = default;
    /// Returns the time from the prompt's arrival to its first token, whose `known` first tokens are cached.
    virtual Nanos prefill(const Tokens& prompt, std::size_t known) = 0;
    /// Of the last prompt, from the cache.
    [[nodiscard]] virtual std::size_t reused_tokens() const { return 0; }
    /// Until nothing goes on in the background.
    virtual void settle() {}
};

struct RunnerOptions {
    std::uint32_t prompt_tokens = 0, block_tokens = 0, step_tokens = 0, threads = 1;
    std::uint32_t prompts = 1;  ///< that are in its pages at once: stores borrow them
    bool patient = false;       ///< as in client::ContextCacheOptions, and so is the next
    std::optional<std::uint64_t> load_bytes_per_s = {};
};
[[nodiscard]] RunnerOptions runner_options(const ExperimentOptions& options);

/// The engine as it is, with the pool at `uri`, or "none". Errors: those of its parts.
[[nodiscard]] Result<std::unique_ptr<Runner>> open_engine_runner(const engine::Model& model,
                                                                 const std::string& uri,
                                                                 const RunnerOptions& options);
/// Whatever is reused is in its pages already: nothing can be faster with the same arithmetic. A prompt
/// writes behind its prefix only, so shorter prefixes follow longer ones.
[[nodiscard]] Result<std::unique_ptr<Runner>> open_oracle_runner(const engine::Model& model,
                                                                 const RunnerOptions& options);

/// A document that prompts begin with, and seeded tokens behind it.
class Prompts {
public:
    Prompts(std::uint32_t vocab, std::size_t tokens) : vocab_(vocab), document_(fresh(tokens)) {}

    [[nodiscard]] const Tokens& document() const noexcept { return document_; }
    [[nodiscard]] Tokens fresh(std::size_t count);
    /// As long as the document, of which it has the first `known` tokens.
    [[nodiscard]] Tokens with_prefix(std::size_t known);

private:
    Rng rng_{1};
    std::uint32_t vocab_;
    Tokens document_;
};

/// A cmpoold on a port of its own, and its folders, both gone afterwards.
class OwnPool {
public:
    /// Errors: those of Child.
    [[nodiscard]] static Result<std::unique_ptr<OwnPool>> start(std::uint64_t capacity_bytes);
    ~OwnPool();
    [[nodiscard]] const std::string& uri() const noexcept { return uri_; }

private:
    OwnPool(std::string folder, std::uint64_t capacity_bytes);
    std::string folder_, uri_;
    Child child_;
};

/// `uri` over one transport, and patient enough for a busy machine.
[[nodiscard]] std::string over(const std::string& uri, const char* transport);

[[nodiscard]] double median(std::vector<double> values);
[[nodiscard]] double milliseconds(Nanos time);

}  // namespace cmpool::serve
