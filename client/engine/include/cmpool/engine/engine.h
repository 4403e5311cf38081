#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/client/context_cache.h>
#include <cmpool/engine/forward.h>
#include <cmpool/engine/scheduler.h>

namespace cmpool::engine {

/// Who fills the pages of a prompt: this engine, with the cache's help, or somebody else, whose word is
/// landed().
enum class Start : std::uint8_t { Here, Elsewhere };

struct EngineOptions {
    SchedulerOptions scheduler;
    bool store_prompt = true;   ///< prompts' new full blocks go to the cache
    bool store_output = false;  ///< what was generated does too, when a sequence ends
    std::size_t threads = 1;    ///< compute a step together, the caller's among them
};

/// What one prompt took so far.
struct Progress {
    std::size_t reused_tokens = 0;  ///< of the prompt, from the cache
    Nanos load{};                   ///< asking the cache, and waiting for it with nothing to compute
    bool by_layers = false;         ///< some of it came while the step behind it was computed
    std::optional<Instant> admitted, first_token;
};

/// What one turn brought.
struct Turn {
    bool computed = false;             ///< false: nobody could go on
    std::vector<SequenceId> admitted;  ///< of those that start elsewhere: their pages are theirs now
    std::vector<Emission> emissions;   ///< tokens, in no order across sequences
    std::optional<Nanos> look_again;   ///< when nothing was computed: turn again after so long at the latest
};

/// The loop itself: scheduler, forward pass and context cache, one step a turn.
///
///   Lifetime  refers to the PagedKv, the cache (nullptr is none) and the clock; shares the model's weights
///   Threads   one at a time
///   Limits    those of the scheduler
class Engine {
public:
    Engine(const Model& model, PagedKv& kv, client::ContextCache* cache, const Clock& clock,
           EngineOptions options);
    ~Engine();

    /// Errors: those of Scheduler::submit(); Invalid for a token beyond the vocabulary.
    [[nodiscard]] Result<void> submit(Request request, Start start);
    /// The prompt's pages were filled elsewhere, and this is the first token.
    [[nodiscard]] Emission landed(SequenceId id, std::uint32_t first_token);
    [[nodiscard]] Turn turn();

    /// It gets no rows any more; its pages stay its own until release().
    void stop(SequenceId id);
    /// Its pages are free as soon as nothing reads or writes them any more.
    void release(SequenceId id);

    [[nodiscard]] bool knows(SequenceId id) const { return works_.contains(id); }
    [[nodiscard]] std::span<const std::uint32_t> blocks(SequenceId id) const { return scheduler_.blocks(id); }
    [[nodiscard]] std::span<const std::uint32_t> prompt(SequenceId id) const { return scheduler_.prompt(id); }
    [[nodiscard]] const Progress& progress(SequenceId id) const;
    [[nodiscard]] const Scheduler& scheduler() const noexcept { return scheduler_; }
    /// Sequences that were released, and whose pages are still being stored.
    [[nodiscard]] std::size_t closing() const noexcept { return closing_.size(); }
    /// Gives up the stores that are under way; the pages follow within one batch's deadline.
    void drop_stores();

private:
    struct Work;
    class Layers;
    [[nodiscard]] Work& at(SequenceId id);
    void start(SequenceId id);
    std::optional<Nanos> go_on_loading(SequenceId id, Work& work);
    void compute(std::span<const Row> rows, Turn& turn);
    void loaded(Work& work) const;
    void note(const Emission& emission);
    void store(SequenceId id, Work& work, std::span<const std::uint32_t> tokens);
    void close();

    ModelConfig config_;
    PagedKv& kv_;
    client::ContextCache* cache_;
    const Clock& clock_;
    EngineOptions options_;
    Scheduler scheduler_;
    Forward forward_;
    std::map<SequenceId, std::unique_ptr<Work>> works_;
    std::vector<SequenceId> closing_;
};

}  // namespace cmpool::engine
