#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include <cmpool/loop/worker.h>

namespace cmpool::loop {

/// Computes prompts for decode workers, and moves their KV pages into the pages that those named, once,
/// by one-sided writes on a lane of its own. Pages here are kept until the last write has completed.
///
///   Limits  kSendingBytesMax of a hand-off are on their way at once
///   Source  hand-off: arXiv 2506.12708, sec. 4.3.3: complete, after prefill, not layer by layer
class PrefillWorker final : public Worker {
public:
    static constexpr std::uint64_t kSendingBytesMax = 16 * MiB;

    using Worker::Worker;

    /// Where decode workers on this host find lanes for KV bytes; empty: nowhere but here.
    void set_local_address(std::string address) { local_address_ = std::move(address); }

    void completed(LineId line, const transport::Completion& completion) override;
    void closed(LineId line, const std::string& why) override;
    Instant tend(Instant now) override;

private:
    struct Job {
        LineId control = 0;
        std::uint64_t remote_id = 0;
        std::uint64_t session = 0;
        std::vector<std::uint32_t> pages;   // there
        std::vector<std::uint32_t> blocks;  // here, once computed
        std::uint32_t first_token = 0;
        std::uint64_t reused = 0;
        Instant computed{};
        std::size_t posted = 0, landed = 0;
        bool sending = false, cancelled = false, failed = false;
    };
    struct Session {
        LineId control = 0, kv = 0;
        std::unique_ptr<transport::RemoteSegment> pages;
        std::uint64_t import_cookie = 0;
    };
    struct Command {
        enum class What : std::uint8_t { Submit, Drop, Release } what;
        engine::SequenceId id;
        std::vector<std::uint32_t> prompt;
    };
    struct Outcome {
        engine::SequenceId id = 0;
        std::optional<Error> error;
        std::uint32_t first_token = 0;
        std::uint64_t reused = 0;
        std::uint64_t pending = 0;
        std::vector<std::uint32_t> blocks;
        Instant computed{};
    };

    void obey() override;
    void report(const engine::Turn& turn) override;
    void append_statistics(std::vector<Statistic>& out) override;
    [[nodiscard]] Message hello() const override;
    void told(LineId line, Message message) override;
    void append_line_statistics(std::vector<Statistic>& out) override;
    void command(Command command);
    void outcome(Outcome outcome);

    void attach(LineId line, const Message& message);
    void take(LineId line, Message message);
    [[nodiscard]] Result<void> check(LineId line, const Message& message) const;
    void cancel(LineId line, std::uint64_t remote_id);
    void settle(Outcome& outcome);
    void refuse(const Job& job, const Error& error);
    void pump(engine::SequenceId id, Job& job);
    void end(engine::SequenceId id);

    std::string local_address_;
    std::map<engine::SequenceId, Job> jobs_;
    std::map<std::uint64_t, Session> sessions_;
    engine::SequenceId next_ = 1;
    std::uint64_t pending_ = 0;
    std::uint64_t handed_off_ = 0, handed_off_bytes_ = 0;
    Nanos handing_off_{};  // from the end of computing to the last byte's arrival
    SystemClock clock_;
    Channel<Command> commands_;
    Channel<Outcome> outcomes_;
    std::set<engine::SequenceId> computed_;  // the computing thread's: told, and not released yet
};

}  // namespace cmpool::loop
