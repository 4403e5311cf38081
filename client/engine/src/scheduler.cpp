#include <algorithm>
#include <utility>

#include <cmpool/base/assert.h>
#include <cmpool/engine/scheduler.h>

namespace cmpool::engine {

struct Scheduler::Sequence {
    Sequence(Request wanted, PagedKv& kv) : request(std::move(wanted)), table(kv) {}

    enum class State : std::uint8_t { Waiting, Admitted, Decoding, Finished };

    Request request;
    BlockTable table;
    State state = State::Waiting;
    std::size_t computed = 0;  // tokens whose keys and values are in the pages
    std::size_t until = 0;     // of the prompt, what may be computed
    std::size_t given = 0;     // tokens generated
    std::uint32_t last = 0;    // the latest of them, whose keys and values are not computed yet

    [[nodiscard]] std::size_t prompt_tokens() const noexcept { return request.prompt.size(); }
};

Scheduler::Scheduler(PagedKv& kv, SchedulerOptions options) : kv_(kv), options_(options) {
    CMPOOL_ASSERT(options_.running_max > 0 && options_.running_max <= options_.step_tokens);
    CMPOOL_ASSERT(options_.context > 0);
}

Scheduler::~Scheduler() = default;

Scheduler::Sequence& Scheduler::at(SequenceId id) {
    const auto found = sequences_.find(id);
    CMPOOL_ASSERT(found != sequences_.end());
    return *found->second;
}

const Scheduler::Sequence& Scheduler::at(SequenceId id) const {
    const auto found = sequences_.find(id);
    CMPOOL_ASSERT(found != sequences_.end());
    return *found->second;
}

// The last token is chosen but not computed, so it needs no room.
std::size_t Scheduler::tokens_max(const Request& request) const {
    return std::min<std::size_t>(request.prompt.size() + request.output_max - 1, options_.context);
}

std::size_t Scheduler::blocks_max(const Request& request) const {
    return (tokens_max(request) + kv_.shape().tokens - 1) / kv_.shape().tokens;
}

bool Scheduler::short_of_pages() const {
    return !waiting_.empty() && running_ < options_.running_max &&
           blocks_max(at(waiting_.front()).request) > kv_.free_blocks();
}

Result<void> Scheduler::check(const Request& request) const {
    const std::size_t tokens = request.prompt.size();
    if (tokens == 0 || tokens > options_.context) {
        return fail(Errc::Invalid, "expected a prompt of 1 to {} tokens, the model's context, saw {}",
                    options_.context, tokens);
    }
    if (request.output_max == 0) return fail(Errc::Invalid, "expected 1 token or more to generate, saw 0");
    if (sequences_.contains(request.id))
        return fail(Errc::Invalid, "sequence {} is here already", request.id);
    const std::size_t room = std::size_t{kv_.capacity_blocks()} * kv_.shape().tokens;
    if (tokens_max(request) > room) {
        return fail(Errc::Invalid, "expected prompt and output of at most {} tokens, all KV memory, saw {}",
                    room, tokens_max(request));
    }
    if (waiting_.size() >= options_.waiting_max)
        return fail(Errc::NoCapacity, "{} sequences wait already: try again later", waiting_.size());
    return {};
}

Result<void> Scheduler::submit(Request request) {
    if (auto sound = check(request); !sound) return sound;
    const SequenceId id = request.id;
    sequences_.emplace(id, std::make_unique<Sequence>(std::move(request), kv_));
    waiting_.push_back(id);
    return {};
}

std::vector<SequenceId> Scheduler::admit() {
    std::vector<SequenceId> admitted;
    while (!waiting_.empty() && running_ < options_.running_max) {
        Sequence& sequence = at(waiting_.front());
        if (blocks_max(sequence.request) > kv_.free_blocks()) break;  // who comes first is served first
        CMPOOL_ASSERT(sequence.table.reserve(tokens_max(sequence.request)));
        sequence.state = Sequence::State::Admitted;
        order_.push_back(waiting_.front());
        ++running_;
        admitted.push_back(waiting_.front());
        waiting_.pop_front();
    }
    return admitted;
}

void Scheduler::begin(SequenceId id, std::size_t from, std::size_t until) {
    Sequence& sequence = at(id);
    if (sequence.state != Sequence::State::Admitted) return;
    CMPOOL_ASSERT(from >= sequence.computed && from < sequence.prompt_tokens());
    sequence.computed = from;
    sequence.until = std::min(until, sequence.prompt_tokens());
}

void Scheduler::back(SequenceId id, std::size_t from) {
    Sequence& sequence = at(id);
    CMPOOL_ASSERT(sequence.state == Sequence::State::Admitted && from <= sequence.computed);
    sequence.computed = sequence.until = from;
}

Emission Scheduler::landed(SequenceId id, std::uint32_t first_token) {
    Sequence& sequence = at(id);
    CMPOOL_ASSERT(sequence.state == Sequence::State::Admitted);
    sequence.computed = sequence.prompt_tokens();
    return give(sequence, first_token);
}

std::vector<Row> Scheduler::plan() {
    std::vector<Row> rows;
    std::size_t left = options_.step_tokens;
    for (const SequenceId id : order_) {
        Sequence& sequence = at(id);
        if (sequence.state != Sequence::State::Decoding) continue;
        rows.push_back(
            {id, {std::span(&sequence.last, 1), sequence.computed, sequence.table.blocks()}, true});
        --left;
    }
    for (const SequenceId id : order_) {
        const Sequence& sequence = at(id);
        if (left == 0) break;
        if (sequence.state != Sequence::State::Admitted || sequence.until <= sequence.computed) continue;
        const std::size_t count = std::min(left, sequence.until - sequence.computed);
        const auto tokens = std::span(sequence.request.prompt).subspan(sequence.computed, count);
        rows.push_back({id,
                        {tokens, sequence.computed, sequence.table.blocks()},
                        sequence.computed + count == sequence.prompt_tokens()});
        left -= count;
    }
    return rows;
}

std::vector<Emission> Scheduler::computed(std::span<const Row> rows, std::span<const std::uint32_t> tokens) {
    std::vector<Emission> emissions;
    std::size_t next = 0;
    for (const Row& row : rows) {
        Sequence& sequence = at(row.id);
        CMPOOL_ASSERT(sequence.computed == row.slice.start);
        sequence.computed += row.slice.tokens.size();
        if (!row.wants_token) continue;
        CMPOOL_ASSERT(next < tokens.size());
        emissions.push_back(give(sequence, tokens[next++]));
    }
    std::erase_if(order_, [this](SequenceId id) { return at(id).state == Sequence::State::Finished; });
    return emissions;
}

Emission Scheduler::give(Sequence& sequence, std::uint32_t token) {
    Emission out{.id = sequence.request.id, .token = token, .has_token = true};
    sequence.state = Sequence::State::Decoding;
    sequence.last = token;
    if (std::ranges::find(sequence.request.stop_tokens, token) != sequence.request.stop_tokens.end()) {
        out.has_token = false;
        out.finish = Finish::Stop;
    } else if (++sequence.given == sequence.request.output_max || sequence.computed >= options_.context) {
        out.finish = Finish::Length;
    }
    if (out.finish != Finish::None) finish(sequence);
    return out;
}

void Scheduler::finish(Sequence& sequence) {
    using State = Sequence::State;
    if (sequence.state == State::Admitted || sequence.state == State::Decoding) --running_;
    sequence.state = State::Finished;
}

void Scheduler::stop(SequenceId id) {
    std::erase(waiting_, id);
    std::erase(order_, id);
    finish(at(id));
}

void Scheduler::release(SequenceId id) {
    stop(id);
    sequences_.erase(id);
}

std::span<const std::uint32_t> Scheduler::blocks(SequenceId id) const { return at(id).table.blocks(); }
std::span<const std::uint32_t> Scheduler::prompt(SequenceId id) const { return at(id).request.prompt; }
std::size_t Scheduler::computed_tokens(SequenceId id) const { return at(id).computed; }

std::size_t Scheduler::pending_tokens() const {
    std::size_t tokens = 0;
    for (const auto& [id, sequence] : sequences_) {
        if (sequence->state > Sequence::State::Admitted) continue;
        tokens += sequence->prompt_tokens() - sequence->computed;
    }
    return tokens;
}

}  // namespace cmpool::engine
