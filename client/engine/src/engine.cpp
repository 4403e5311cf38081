#include <algorithm>
#include <utility>

#include <cmpool/base/assert.h>
#include <cmpool/engine/engine.h>

namespace cmpool::engine {

namespace {

constexpr Nanos kStorePatience = std::chrono::milliseconds(50);

}  // namespace

struct Engine::Work {
    Start start = Start::Here;
    std::unique_ptr<client::Load> load;
    std::vector<client::Store> stores;
    bool by_layers = false;        // of what is loaded, layers are coming, and what is behind it may begin
    std::size_t hit_blocks = 0;    // that load() brings, or the computing side meets
    std::size_t known_blocks = 0;  // from the front: the cache has them, or was given them
    std::vector<std::uint32_t> output;
    std::optional<Instant> waits_since;
    Instant closing_since{};
    Progress progress;

    [[nodiscard]] bool stored() const {
        return std::ranges::all_of(stores, [](const client::Store& store) { return store.done(); });
    }
};

/// Holds a step up where a layer of somebody's hit is still on its way.
class Engine::Layers final : public LayerHooks {
public:
    Layers(Engine& engine, std::span<const Row> rows) : clock_(engine.clock_) {
        for (const Row& row : rows) {
            Work& work = engine.at(row.id);
            if (work.by_layers) waiting_.emplace_back(row.id, &work);
        }
    }

    bool on_reading(std::size_t layer, std::span<const Slice>) override {
        for (const auto& [id, work] : waiting_) {
            const Instant begun = clock_.now();
            const bool here = work->load->wait_for(layer);
            work->progress.load += clock_.now() - begun;
            waited_ += clock_.now() - begun;
            if (here) continue;
            failed_ = id;
            return false;
        }
        return true;
    }

    [[nodiscard]] const auto& waiting() const noexcept { return waiting_; }
    [[nodiscard]] Nanos waited() const noexcept { return waited_; }
    [[nodiscard]] SequenceId failed() const noexcept { return failed_; }

private:
    const Clock& clock_;
    std::vector<std::pair<SequenceId, Work*>> waiting_;
    Nanos waited_{};
    SequenceId failed_ = 0;
};

Engine::Engine(const Model& model, PagedKv& kv, client::ContextCache* cache, const Clock& clock,
               EngineOptions options)
    : config_(model.config()),
      kv_(kv),
      cache_(cache),
      clock_(clock),
      options_(options),
      scheduler_(kv, options.scheduler),
      forward_(model, kv, options.scheduler.step_tokens, options.threads) {}

Engine::~Engine() {
    drop_stores();
    // A put ends by its deadline; until then the cache reads the pages.
    for (auto& [id, work] : works_) std::ranges::for_each(work->stores, &client::Store::wait);
}

Engine::Work& Engine::at(SequenceId id) {
    const auto found = works_.find(id);
    CMPOOL_ASSERT(found != works_.end());
    return *found->second;
}

const Progress& Engine::progress(SequenceId id) const {
    const auto found = works_.find(id);
    CMPOOL_ASSERT(found != works_.end());
    return found->second->progress;
}

Result<void> Engine::submit(Request request, Start start) {
    if (!request.prompt.empty()) {
        const std::uint32_t largest = std::ranges::max(request.prompt);
        if (largest >= config_.vocab)
            return fail(Errc::Invalid, "expected token ids below {}, saw {}", config_.vocab, largest);
    }
    const SequenceId id = request.id;
    if (auto taken = scheduler_.submit(std::move(request)); !taken) return taken;
    auto work = std::make_unique<Work>();
    work->start = start;
    works_.emplace(id, std::move(work));
    return {};
}

Emission Engine::landed(SequenceId id, std::uint32_t first_token) {
    const Emission emission = scheduler_.landed(id, first_token);
    at(id).known_blocks =
        scheduler_.prompt(id).size() / kv_.shape().tokens;  // whoever computed them stores them
    note(emission);
    return emission;
}

Turn Engine::turn() {
    Turn turn;
    close();
    for (const SequenceId id : scheduler_.admit()) {
        Work& work = at(id);
        work.progress.admitted = clock_.now();
        if (work.start == Start::Elsewhere) {
            turn.admitted.push_back(id);
        } else {
            start(id);
        }
    }
    for (auto& [id, work] : works_) {
        if (!work->load) continue;
        const auto wait = go_on_loading(id, *work);
        if (wait) turn.look_again = std::min(*wait, turn.look_again.value_or(*wait));
    }
    const auto rows = scheduler_.plan();
    if (!rows.empty()) compute(rows, turn);
    return turn;
}

void Engine::start(SequenceId id) {
    Work& work = at(id);
    const auto prompt = scheduler_.prompt(id);
    const std::size_t block_tokens = kv_.shape().tokens;
    // The last token is always computed, since logits come from it.
    const std::size_t most = (prompt.size() - 1) / block_tokens;
    if (cache_ != nullptr && most > 0) {
        const Instant begun = clock_.now();
        auto prefix = cache_->match(prompt.first(most * block_tokens));
        work.hit_blocks = std::min(prefix.blocks, most);
        work.known_blocks = prefix.present;
        if (work.hit_blocks > 0) {
            const std::size_t behind = prompt.size() - work.hit_blocks * block_tokens;
            work.load = cache_->load(std::move(prefix), scheduler_.blocks(id).first(most),
                                     std::min(behind, options_.scheduler.step_tokens));
        }
        work.progress.load = clock_.now() - begun;
    }
    scheduler_.begin(id, 0, work.load ? 0 : prompt.size());
}

// Computing from the front, loading from the back. Returns how long there is nothing to do, if so.
std::optional<Nanos> Engine::go_on_loading(SequenceId id, Work& work) {
    if (work.by_layers) return std::nullopt;  // the step says how that ends
    const std::size_t block_tokens = kv_.shape().tokens;
    const std::size_t computed = scheduler_.computed_tokens(id);
    const std::size_t claimed = work.load->claim(0) * block_tokens;
    if (computed < claimed) return std::nullopt;  // rows are waiting for their turn
    if (work.waits_since) work.progress.load += clock_.now() - *std::exchange(work.waits_since, std::nullopt);
    if (work.load->ready()) {
        const std::size_t prompt_tokens = scheduler_.prompt(id).size();
        scheduler_.begin(id, std::max(computed, work.hit_blocks * block_tokens), prompt_tokens);
        work.by_layers = !work.load->met();
        if (!work.by_layers) loaded(work);
        return std::nullopt;
    }
    const client::Advice advice = work.load->advise();
    if (advice.compute_blocks > 0) {
        // Full steps only, where it is more than one: the rest is decided when they are done.
        std::size_t blocks = advice.compute_blocks;
        const std::size_t step_blocks =
            std::max<std::size_t>(options_.scheduler.step_tokens / block_tokens, 1);
        if (blocks > step_blocks) blocks -= blocks % step_blocks;
        std::size_t until = work.load->claim(blocks) * block_tokens;
        if (work.load->met() && work.load->loaded_blocks() == 0) {
            work.load.reset();  // nothing came: all that is left is one run
            until = scheduler_.prompt(id).size();
        }
        scheduler_.begin(id, computed, until);
        return std::nullopt;
    }
    work.waits_since = clock_.now();
    return advice.look_again;
}

void Engine::compute(std::span<const Row> rows, Turn& turn) {
    std::vector<Slice> slices;
    std::size_t prompt_rows = 0;
    std::size_t all_rows = 0;
    for (const Row& row : rows) {
        slices.push_back(row.slice);
        all_rows += row.slice.tokens.size();
        if (row.slice.start < scheduler_.prompt(row.id).size()) prompt_rows += row.slice.tokens.size();
    }
    const Instant begun = clock_.now();
    Layers layers(*this, rows);
    if (!forward_.step(slices, layers)) {
        // The next turn's step computes everybody else's rows again, which writes the same bytes.
        Work& work = at(layers.failed());
        work.by_layers = false;
        scheduler_.back(layers.failed(), work.load->claim(0) * kv_.shape().tokens);
        turn.look_again = Nanos{0};
        return;
    }
    for (const auto& [id, work] : layers.waiting()) loaded(*work);
    std::vector<std::uint32_t> tokens;
    for (std::size_t index = 0; index < rows.size(); ++index) {
        if (rows[index].wants_token) tokens.push_back(argmax(forward_.logits(index)));
    }
    if (cache_ != nullptr && prompt_rows > 0)
        cache_->computed(all_rows, clock_.now() - begun - layers.waited());
    turn.computed = true;
    turn.emissions = scheduler_.computed(rows, tokens);
    for (const Emission& emission : turn.emissions) note(emission);
}

void Engine::loaded(Work& work) const {
    work.progress.reused_tokens = work.load->loaded_blocks() * kv_.shape().tokens;
    work.progress.by_layers = work.by_layers;
    work.load.reset();
    work.by_layers = false;
}

void Engine::note(const Emission& emission) {
    Work& work = at(emission.id);
    const auto prompt = scheduler_.prompt(emission.id);
    if (!work.progress.first_token) {
        work.progress.first_token = clock_.now();
        if (options_.store_prompt && work.start == Start::Here) store(emission.id, work, prompt);
    }
    if (!options_.store_output) return;
    if (emission.has_token) work.output.push_back(emission.token);
    if (emission.finish == Finish::None) return;
    std::vector<std::uint32_t> all(prompt.begin(), prompt.end());
    all.insert(all.end(), work.output.begin(), work.output.end());
    all.resize(std::min(all.size(), scheduler_.computed_tokens(emission.id)));
    store(emission.id, work, all);
}

void Engine::store(SequenceId id, Work& work, std::span<const std::uint32_t> tokens) {
    const std::size_t full = tokens.size() / kv_.shape().tokens;
    if (cache_ == nullptr || full <= work.known_blocks) return;
    work.stores.push_back(cache_->store(tokens.first(full * kv_.shape().tokens), work.known_blocks,
                                        scheduler_.blocks(id).first(full)));
    work.known_blocks = full;
}

void Engine::stop(SequenceId id) {
    at(id).load.reset();
    at(id).by_layers = false;
    scheduler_.stop(id);
}

void Engine::release(SequenceId id) {
    if (std::ranges::find(closing_, id) != closing_.end()) return;
    stop(id);
    at(id).closing_since = clock_.now();
    closing_.push_back(id);
    close();
}

void Engine::close() {
    std::erase_if(closing_, [this](SequenceId id) {
        Work& work = at(id);
        // Whoever waits for pages goes before what is only worth keeping, if that takes long.
        if (scheduler_.short_of_pages() && clock_.now() - work.closing_since > kStorePatience)
            std::ranges::for_each(work.stores, &client::Store::drop);
        if (!work.stored()) return false;
        works_.erase(id);
        scheduler_.release(id);
        return true;
    });
}

void Engine::drop_stores() {
    for (auto& [id, work] : works_) std::ranges::for_each(work->stores, &client::Store::drop);
}

}  // namespace cmpool::engine
