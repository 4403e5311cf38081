#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include <cmpool/base/result.h>
#include <cmpool/engine/forward.h>
#include <cmpool/engine/paged_kv.h>

namespace cmpool::engine {

/// Names a sequence; its owner picks it, and never twice.
using SequenceId = std::uint64_t;

struct SchedulerOptions {
    std::size_t step_tokens = 128;   ///< rows a step, decoding and prefill together
    std::size_t running_max = 64;    ///< sequences that have pages and want rows
    std::size_t waiting_max = 1024;  ///< sequences that wait for pages
    std::uint32_t context = 0;       ///< the most tokens of a sequence
};

struct Request {
    SequenceId id = 0;
    std::vector<std::uint32_t> prompt;
    std::size_t output_max = 1;              ///< tokens to generate; cut where the context is full
    std::vector<std::uint32_t> stop_tokens;  ///< generation ends before the first of these
};

enum class Finish : std::uint8_t { None, Stop, Length };

/// What a step gave one sequence.
struct Emission {
    SequenceId id = 0;
    std::uint32_t token = 0;
    bool has_token = false;  ///< false: it ended at a stop token, which is not given
    Finish finish = Finish::None;
};

/// Rows of one sequence in a step.
struct Row {
    SequenceId id = 0;
    Slice slice;
    bool wants_token = false;  ///< its logits choose a token
};

/// Continuous batching: which rows the next step computes. It knows pages and tokens, and neither time
/// nor arithmetic.
///
/// A sequence waits, is admitted when all pages that it can come to need are free (so that none ever
/// stops for lack of pages), is computed from where begin() says, and then decodes. Decoding rows come
/// first, one each; what is left of the step's tokens goes to prompts, oldest first, cut where it ends.
///
///   Lifetime  refers to the PagedKv; a Row's spans live until the next call that is not const
///   Threads   one at a time, that of the PagedKv
///   Limits    see SchedulerOptions; running_max is at most step_tokens
///   Errors    submit(): Invalid for a prompt that can never run, NoCapacity when waiting_max wait
class Scheduler {
public:
    Scheduler(PagedKv& kv, SchedulerOptions options);
    ~Scheduler();

    [[nodiscard]] Result<void> submit(Request request);
    /// Gives pages to those who waited longest, and names them. Each rests until begin() or landed().
    [[nodiscard]] std::vector<SequenceId> admit();
    /// The first `from` tokens of an admitted prompt are in its pages, and those before `until` may be
    /// computed. Called again when more is known; `from` only grows.
    void begin(SequenceId id, std::size_t from, std::size_t until);
    /// What was said to be in an admitted prompt's pages is not, from token `from` on; begin() follows.
    void back(SequenceId id, std::size_t from);
    /// The whole prompt is in its pages, and this is the first token: given by somebody else.
    [[nodiscard]] Emission landed(SequenceId id, std::uint32_t first_token);

    /// The next step's rows; none: nobody can go on now.
    [[nodiscard]] std::vector<Row> plan();
    /// The step is computed; `tokens` are what was chosen for the rows that want one, in order.
    [[nodiscard]] std::vector<Emission> computed(std::span<const Row> rows,
                                                 std::span<const std::uint32_t> tokens);

    /// No rows any more. Its pages stay its own until release().
    void stop(SequenceId id);
    void release(SequenceId id);

    [[nodiscard]] bool knows(SequenceId id) const { return sequences_.contains(id); }
    [[nodiscard]] std::span<const std::uint32_t> blocks(SequenceId id) const;
    [[nodiscard]] std::span<const std::uint32_t> prompt(SequenceId id) const;
    [[nodiscard]] std::size_t computed_tokens(SequenceId id) const;
    [[nodiscard]] std::size_t waiting() const noexcept { return waiting_.size(); }
    [[nodiscard]] std::size_t running() const noexcept { return running_; }
    /// Somebody could run but for pages that others hold.
    [[nodiscard]] bool short_of_pages() const;
    /// Prompt tokens that wait or are not computed yet.
    [[nodiscard]] std::size_t pending_tokens() const;

private:
    struct Sequence;
    [[nodiscard]] Sequence& at(SequenceId id);
    [[nodiscard]] const Sequence& at(SequenceId id) const;
    [[nodiscard]] Result<void> check(const Request& request) const;
    [[nodiscard]] std::size_t tokens_max(const Request& request) const;
    [[nodiscard]] std::size_t blocks_max(const Request& request) const;
    Emission give(Sequence& sequence, std::uint32_t token);
    void finish(Sequence& sequence);

    PagedKv& kv_;
    SchedulerOptions options_;
    std::map<SequenceId, std::unique_ptr<Sequence>> sequences_;
    std::deque<SequenceId> waiting_;
    std::vector<SequenceId> order_;  // admitted and not finished, oldest first
    std::size_t running_ = 0;
};

}  // namespace cmpool::engine
