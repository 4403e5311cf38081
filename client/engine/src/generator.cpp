#include <utility>

#include <cmpool/engine/generator.h>

namespace cmpool::engine {

Generator::Generator(const Model& model, PagedKv& kv, client::ContextCache* cache, const Clock& clock,
                     GeneratorOptions options)
    : clock_(clock),
      options_(std::move(options)),
      wake_(options_.wake != nullptr ? *options_.wake : own_wake_),
      engine_(model, kv, cache, clock,
              {.scheduler = {.step_tokens = options_.chunk_tokens,
                             .running_max = 1,
                             .waiting_max = 1,
                             .context = model.config().context},
               .threads = options_.threads}) {}

Result<Generation> Generator::generate(std::span<const std::uint32_t> prompt, std::size_t max_tokens) {
    const SequenceId id = next_++;
    const Instant begun = clock_.now();
    auto taken =
        engine_.submit({id, {prompt.begin(), prompt.end()}, max_tokens, options_.stop_tokens}, Start::Here);
    if (!taken) return fail(taken.error());

    Generation out{.prompt_tokens = prompt.size()};
    for (Finish finish = Finish::None; finish == Finish::None;) {
        const Turn turn = engine_.turn();
        for (const Emission& emission : turn.emissions) {
            if (emission.has_token) out.tokens.push_back(emission.token);
            finish = emission.finish;
        }
        if (!turn.computed && turn.look_again) wake_.wait(*turn.look_again);
    }
    const Instant ended = clock_.now();
    const Progress& progress = engine_.progress(id);
    out.reused_tokens = progress.reused_tokens;
    out.load = progress.load;
    out.first_token = *progress.first_token - begun;
    out.prefill = out.first_token - out.load;
    out.decode = ended - *progress.first_token;
    engine_.release(id);
    settle();
    return out;
}

// The next prompt may need all pages.
void Generator::settle() {
    constexpr Nanos kLook = std::chrono::milliseconds(5);  // a store that is dropped rings nobody
    const Instant until = clock_.now() + options_.store_limit;
    while (engine_.closing() > 0) {
        if (clock_.now() >= until) engine_.drop_stores();
        (void)engine_.turn();
        if (engine_.closing() > 0) wake_.wait(kLook);
    }
}

}  // namespace cmpool::engine
