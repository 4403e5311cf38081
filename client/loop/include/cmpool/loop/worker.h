#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <cmpool/engine/engine.h>
#include <cmpool/engine/wake.h>
#include <cmpool/loop/channel.h>
#include <cmpool/loop/courier.h>

namespace cmpool::loop {

/// What a worker says of itself to whoever asks.
struct Statistic {
    std::string name;
    std::uint64_t value = 0;
};

/// The two threads of a worker: the caller's, which computes, and a courier's, which drives all lanes.
/// They hand each other commands and outcomes, and neither waits for the other.
///
///   Lifetime  refers to all that it is given
///   Threads   run() returns when the courier has ended
class Worker : public Desk {
public:
    Worker(engine::PagedKv& kv, engine::Engine& engine, engine::Wake& wake, std::string model_identity,
           std::uint32_t vocab, std::uint32_t context);

    [[nodiscard]] Courier& courier() noexcept { return courier_; }
    /// Until the courier is told to stop, or `stop_fd` is readable.
    void run(int stop_fd);

    void accepted(LineId line) final { courier_.send(line, hello()); }
    void message(LineId line, Message message) final;

protected:
    /// On the courier's thread: a message that is no question for statistics.
    virtual void told(LineId line, Message message) = 0;
    /// On the courier's thread, to what the other thread last said.
    virtual void append_line_statistics(std::vector<Statistic>& out) = 0;
    /// On the computing thread: takes the desk's commands.
    virtual void obey() = 0;
    /// On the computing thread: what a turn brought.
    virtual void report(const engine::Turn& turn) = 0;
    virtual void append_statistics(std::vector<Statistic>& /*out*/) {}

    /// What it says of itself to whoever connects.
    [[nodiscard]] virtual Message hello() const;
    [[nodiscard]] static Message failure(Kind kind, std::uint64_t id, const Error& error);

    engine::PagedKv& kv_;
    engine::Engine& engine_;
    engine::Wake& wake_;
    Courier courier_;
    std::string identity_;

private:
    void note();

    std::uint32_t vocab_, context_;
    std::mutex mutex_;
    std::vector<Statistic> seen_;  // of the computing thread's, for the other

protected:
    std::uint64_t reused_tokens_ = 0, steps_ = 0;
};

}  // namespace cmpool::loop
