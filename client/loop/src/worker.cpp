#include <cmpool/loop/worker.h>

namespace cmpool::loop {

namespace {

// Nothing depends on it: whatever happens rings.
constexpr Nanos kLongestSleep = std::chrono::seconds(1);
constexpr Nanos kClosingLook = std::chrono::milliseconds(5);

}  // namespace

Worker::Worker(engine::PagedKv& kv, engine::Engine& engine, engine::Wake& wake, std::string model_identity,
               std::uint32_t vocab, std::uint32_t context)
    : kv_(kv),
      engine_(engine),
      wake_(wake),
      courier_(*this),
      identity_(std::move(model_identity)),
      vocab_(vocab),
      context_(context) {}

void Worker::run(int stop_fd) {
    std::atomic<bool> over{false};
    std::jthread courier([&] {
        courier_.run(stop_fd);
        over.store(true);
        wake_.notify();
    });
    note();
    while (!over.load()) {
        obey();
        const engine::Turn turn = engine_.turn();
        steps_ += turn.computed ? 1 : 0;
        report(turn);
        note();
        if (turn.computed || !turn.admitted.empty()) continue;
        const Nanos longest = engine_.closing() > 0 ? kClosingLook : kLongestSleep;
        wake_.wait(std::min(turn.look_again.value_or(longest), longest));
    }
}

void Worker::note() {
    const auto& scheduler = engine_.scheduler();
    std::vector<Statistic> now{{"pages", kv_.capacity_blocks()},
                               {"pages_free", kv_.free_blocks()},
                               {"sequences_running", scheduler.running()},
                               {"sequences_waiting", scheduler.waiting()},
                               {"pending_tokens", scheduler.pending_tokens()},
                               {"steps_total", steps_},
                               {"reused_tokens_total", reused_tokens_}};
    append_statistics(now);
    const std::scoped_lock lock(mutex_);
    seen_ = std::move(now);
}

Message Worker::hello() const {
    const engine::BlockShape& shape = kv_.shape();
    return {.kind = Kind::Hello,
            .id = kProtocol,
            .text = identity_,
            .names = {"vocab", "context", "block_tokens", "block_bytes", "pages"},
            .values = {vocab_, context_, shape.tokens, shape.bytes(), kv_.capacity_blocks()}};
}

void Worker::message(LineId line, Message message) {
    if (message.kind != Kind::StatsAsk) return told(line, std::move(message));
    std::vector<Statistic> all;
    {
        const std::scoped_lock lock(mutex_);
        all = seen_;
    }
    append_line_statistics(all);
    Message out{.kind = Kind::Stats, .id = message.id};
    for (Statistic& one : all) {
        out.names.push_back(std::move(one.name));
        out.values.push_back(one.value);
    }
    courier_.send(line, out);
}

Message Worker::failure(Kind kind, std::uint64_t id, const Error& error) {
    return {.kind = kind, .id = id, .code = static_cast<std::uint16_t>(error.code), .text = error.detail};
}

}  // namespace cmpool::loop
