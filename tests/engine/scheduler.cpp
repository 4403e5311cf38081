// Which rows a step computes, against a model that is too simple to be wrong.
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include <cmpool/base/rng.h>
#include <cmpool/engine/rank_map.h>
#include <cmpool/engine/scheduler.h>

#include <doctest/doctest.h>

using namespace cmpool;
using namespace cmpool::engine;

namespace {

constexpr std::uint32_t kBlockTokens = 4;
constexpr std::uint32_t kContext = 64;

PagedKv pages(std::uint32_t blocks) { return PagedKv::create({1, kBlockTokens, 1, 2, 4}, blocks).value(); }

Request request(SequenceId id, std::size_t prompt, std::size_t output = 1,
                std::vector<std::uint32_t> stops = {}) {
    return {id, std::vector<std::uint32_t>(prompt, 1), output, std::move(stops)};
}

std::vector<SequenceId> ids(const std::vector<Row>& rows) {
    std::vector<SequenceId> out;
    for (const Row& row : rows) out.push_back(row.id);
    return out;
}

/// What the test knows of one sequence without having looked.
struct Expected {
    std::size_t prompt, output, blocks;
    std::size_t computed = 0, given = 0;
    bool admitted = false, begun = false, ended = false;
};

/// Everything that must hold, step by step, whatever the order of calls.
class Story {
public:
    explicit Story(std::uint64_t seed)
        : rng_(seed),
          kv_(pages(static_cast<std::uint32_t>(16 + rng_.below(64)))),
          step_tokens_(8 + rng_.below(40)),
          running_max_(1 + rng_.below(8)),
          scheduler_(kv_, {.step_tokens = step_tokens_,
                           .running_max = running_max_,
                           .waiting_max = 16,
                           .context = kContext}) {}

    void run(int steps) {
        for (int step = 0; step < steps; ++step) act(rng_.below(10));
        // Everybody who is left gets through.
        for (int step = 0; step < 20'000 && !known_.empty(); ++step) {
            begin_all();
            compute();
            release_ended();
        }
        CHECK(known_.empty());
        CHECK(kv_.free_blocks() == kv_.capacity_blocks());
        CHECK(scheduler_.running() == 0);
        CHECK(scheduler_.waiting() == 0);
    }

private:
    void act(std::uint64_t what) {
        if (what < 3) submit();
        if (what == 3) begin_all();
        if (what == 4) drop_one();
        if (what == 5) release_ended();
        if (what > 5) {
            begin_all();
            compute();
        }
        check();
    }
    void submit() {
        const SequenceId id = next_++;
        const std::size_t prompt = 1 + rng_.below(kContext);
        const std::size_t output = 1 + rng_.below(20);
        const std::size_t tokens = std::min<std::size_t>(prompt + output - 1, kContext);
        const std::size_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
        const bool fits = blocks <= kv_.capacity_blocks() && scheduler_.waiting() < 16;
        CHECK(scheduler_.submit(request(id, prompt, output)).has_value() == fits);
        if (!fits) return;
        known_[id] = {prompt, std::min(output, kContext - prompt + 1), blocks};
        queue_.push_back(id);
    }
    void begin_all() {
        for (const SequenceId id : scheduler_.admit()) {
            REQUIRE_FALSE(queue_.empty());
            CHECK(id == queue_.front());  // in the order of coming
            queue_.erase(queue_.begin());
            known_.at(id).admitted = true;
            // Part of the prompt came from elsewhere, all of it, or none.
            Expected& one = known_.at(id);
            const std::size_t from = rng_.below(one.prompt);
            one.computed = from;
            scheduler_.begin(id, from,
                             rng_.chance(0.5) ? one.prompt : from + rng_.below(one.prompt - from + 1));
        }
        // Whoever waits only for tokens that arrive may go on now.
        for (auto& [id, one] : known_) {
            if (one.admitted && !one.ended && one.computed < one.prompt)
                scheduler_.begin(id, one.computed, one.prompt);
        }
    }
    void compute() {
        const auto rows = scheduler_.plan();
        std::size_t tokens = 0;
        bool prefill = false;
        std::set<SequenceId> seen;
        std::vector<std::uint32_t> chosen;
        for (const Row& row : rows) {
            Expected& one = known_.at(row.id);
            CHECK(seen.insert(row.id).second);
            CHECK(row.slice.start == one.computed);
            const bool decodes = one.computed >= one.prompt;
            CHECK_FALSE((decodes && prefill));  // decoding rows come first
            prefill = prefill || !decodes;
            CHECK((!decodes || row.slice.tokens.size() == 1));
            one.computed += row.slice.tokens.size();
            CHECK(one.computed <= row.slice.blocks.size() * kBlockTokens);
            CHECK(row.wants_token == (one.computed >= one.prompt));
            if (row.wants_token) chosen.push_back(5);
            tokens += row.slice.tokens.size();
        }
        CHECK(tokens <= step_tokens_);
        for (const Emission& emission : scheduler_.computed(rows, chosen)) {
            Expected& one = known_.at(emission.id);
            ++one.given;
            CHECK((emission.finish == Finish::Length) == (one.given == one.output));
            one.ended = emission.finish != Finish::None;
        }
    }
    void drop_one() {
        if (known_.empty()) return;
        auto at = known_.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(rng_.below(known_.size())));
        std::erase(queue_, at->first);
        scheduler_.stop(at->first);
        at->second.ended = true;
    }
    void release_ended() {
        std::erase_if(known_, [this](const auto& entry) {
            if (entry.second.ended) scheduler_.release(entry.first);
            return entry.second.ended;
        });
    }
    void check() const {
        std::set<std::uint32_t> held;
        std::size_t blocks = 0, running = 0;
        for (const auto& [id, one] : known_) {
            for (const std::uint32_t block : scheduler_.blocks(id)) CHECK(held.insert(block).second);
            if (one.admitted) blocks += one.blocks;
            running += one.admitted && !one.ended ? 1 : 0;
        }
        CHECK(held.size() == blocks);  // all that it can come to need, and nothing else
        CHECK(kv_.free_blocks() + blocks == kv_.capacity_blocks());
        CHECK(scheduler_.running() == running);
        CHECK(running <= running_max_);
    }

    Rng rng_;
    PagedKv kv_;
    std::size_t step_tokens_, running_max_;
    Scheduler scheduler_;
    std::map<SequenceId, Expected> known_;
    std::vector<SequenceId> queue_;
    SequenceId next_ = 1;
};

}  // namespace

TEST_CASE("any order of calls keeps pages, budget and order") {
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        CAPTURE(seed);
        Story(seed).run(120);
    }
}

// A long prompt must not make those wait who have their first token already.
TEST_CASE("decoding rows come first, and a prompt takes what is left of a step") {
    auto kv = pages(64);
    Scheduler scheduler(kv, {.step_tokens = 8, .running_max = 4, .context = kContext});
    REQUIRE(scheduler.submit(request(1, 3, 10)));
    REQUIRE(scheduler.submit(request(2, 20, 10)));
    CHECK(scheduler.admit() == std::vector<SequenceId>{1, 2});
    scheduler.begin(1, 0, 3);
    scheduler.begin(2, 0, 20);
    auto rows = scheduler.plan();
    CHECK(ids(rows) == std::vector<SequenceId>{1, 2});
    CHECK(rows[1].slice.tokens.size() == 5);
    const std::uint32_t token = 7;
    CHECK(scheduler.computed(rows, {&token, 1}).size() == 1);
    rows = scheduler.plan();
    CHECK(ids(rows) == std::vector<SequenceId>{1, 2});
    CHECK(rows[0].slice.start == 3);
    CHECK(rows[0].slice.tokens[0] == 7);
    CHECK(rows[1].slice.start == 5);
    CHECK(rows[1].slice.tokens.size() == 7);
}

TEST_CASE("who waits for pages gets them in the order of coming, however small the others are") {
    auto kv = pages(8);
    Scheduler scheduler(kv, {.step_tokens = 8, .running_max = 4, .context = kContext});
    REQUIRE(scheduler.submit(request(1, 20)));
    REQUIRE(scheduler.submit(request(2, 32)));
    REQUIRE(scheduler.submit(request(3, 1)));
    CHECK(scheduler.admit() == std::vector<SequenceId>{1});
    CHECK(scheduler.admit().empty());
    CHECK(scheduler.short_of_pages());
    scheduler.release(1);
    CHECK_FALSE(scheduler.short_of_pages());
    CHECK(scheduler.admit() == std::vector<SequenceId>{2});
    scheduler.stop(2);
    CHECK(scheduler.admit().empty());  // stopped, it holds its pages still
    scheduler.release(2);
    CHECK(scheduler.admit() == std::vector<SequenceId>{3});
}

TEST_CASE("a prompt that was computed elsewhere decodes at once, and ends as any other") {
    auto kv = pages(8);
    Scheduler scheduler(kv, {.step_tokens = 8, .running_max = 4, .context = kContext});
    REQUIRE(scheduler.submit(request(1, 6, 2)));
    REQUIRE(scheduler.submit(request(2, 6, 1)));
    REQUIRE(scheduler.submit(request(3, 6, 5, {9})));
    CHECK(scheduler.admit().size() == 3);
    CHECK(scheduler.plan().empty());
    CHECK(scheduler.landed(1, 4).finish == Finish::None);
    CHECK(scheduler.landed(2, 4).finish == Finish::Length);
    const auto stopped = scheduler.landed(3, 9);
    CHECK(stopped.finish == Finish::Stop);
    CHECK_FALSE(stopped.has_token);
    const auto rows = scheduler.plan();
    REQUIRE(ids(rows) == std::vector<SequenceId>{1});
    const std::uint32_t token = 5;
    CHECK(scheduler.computed(rows, {&token, 1})[0].finish == Finish::Length);
    CHECK(scheduler.plan().empty());
}

TEST_CASE("what can never run is refused at once") {
    auto kv = pages(4);
    Scheduler scheduler(kv, {.step_tokens = 8, .running_max = 4, .waiting_max = 1, .context = kContext});
    CHECK(scheduler.submit(request(1, 0)).error().code == Errc::Invalid);
    CHECK(scheduler.submit(request(1, kContext + 1)).error().code == Errc::Invalid);
    CHECK(scheduler.submit(request(1, 1, 0)).error().code == Errc::Invalid);
    CHECK(scheduler.submit(request(1, 16, 2)).error().code == Errc::Invalid);
    CHECK(scheduler.submit(request(1, 16, 1)));
    CHECK(scheduler.submit(request(1, 1)).error().code == Errc::Invalid);
    CHECK(scheduler.submit(request(2, 1)).error().code == Errc::NoCapacity);
}

// Every reader has one sender, and no sender has more readers than another.
TEST_CASE("the rank map spreads decode ranks evenly over prefill ranks") {
    const RankMap maps[] = {{32, 1, 320}, {4, 2, 8}, {8, 8, 3}, {16, 4, 4}, {1, 1, 1}};
    for (const RankMap& map : maps) {
        CAPTURE(map.prefill_tp);
        REQUIRE(map.check());
        std::map<std::uint32_t, std::uint32_t> readers;
        for (std::uint32_t dp = 0; dp < map.decode_dp; ++dp) {
            for (std::uint32_t tp = 0; tp < map.decode_tp; ++tp) {
                ++readers[map.sender(dp, tp)];
                CHECK(map.sender(dp, tp) % map.decode_tp == tp);  // the same part of the heads
            }
        }
        CHECK(readers.size() == map.prefill_tp);
        for (const auto& [sender, count] : readers) {
            CHECK(sender < map.prefill_tp);
            CHECK(count == map.group_size());
        }
    }
    CHECK(RankMap{0, 1, 1}.check().error().code == Errc::Invalid);
    CHECK(RankMap{3, 2, 4}.check().error().code == Errc::Invalid);
    CHECK(RankMap{32, 1, 33}.check().error().code == Errc::Invalid);
    CHECK(RankMap{2, 4, 4}.check().error().code == Errc::Invalid);
}
