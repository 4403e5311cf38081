#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <cmpool/engine/scheduler.h>
#include <cmpool/loop/channel.h>
#include <cmpool/loop/courier.h>

namespace cmpool::loop {

struct RouterOptions {
    std::vector<std::string> decodes;                  ///< HOST:PORT of each; any request may go to any
    std::vector<std::string> prefills;                 ///< asked for their statistics, nothing else
    Nanos no_decode_limit = std::chrono::seconds(10);  ///< a request waits so long for a decode worker
};

/// What comes back for one request, in order.
struct Piece {
    std::vector<std::uint32_t> tokens;
    engine::Finish finish = engine::Finish::None;
    std::uint64_t reused = 0;
    std::optional<Error> error;  ///< ends it

    [[nodiscard]] bool last() const noexcept { return error || finish != engine::Finish::None; }
};

/// A request on its way through the workers.
///
///   Threads  next() belongs to whoever asked
class Answer {
public:
    /// Nothing when `limit` passes first.
    [[nodiscard]] std::optional<Piece> next(Nanos limit);

private:
    friend class Router;
    std::uint64_t id_ = 0;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Piece> pieces_;
    void add(Piece piece);
};

/// What a worker looks like from here.
struct WorkerReport {
    std::string role, address;
    bool up = false;
    std::vector<std::pair<std::string, std::uint64_t>> statistics;
};

/// Hands requests to decode workers, to the one with the fewest; it keeps nothing that a request needs
/// elsewhere. A request whose worker died goes to another, behind the tokens that it has given already:
/// greedy decoding goes on as if nothing had happened.
///
///   Threads  ask(), cancel(), ready() and look() from any
///   Limits   kTries workers for a request
class Router final : public Desk {
public:
    static constexpr int kTries = 3;

    Router(RouterOptions options, transport::Fabric& network);
    ~Router() override;

    [[nodiscard]] std::shared_ptr<Answer> ask(std::vector<std::uint32_t> prompt, std::size_t output_max,
                                              std::vector<std::uint32_t> stop_tokens);
    /// Nobody waits for it any more. Nothing happens when it has ended.
    void cancel(const Answer& answer);
    /// What the decode workers said of themselves (vocab, context); nothing while there is none.
    [[nodiscard]] std::optional<std::map<std::string, std::uint64_t>> facts() const;
    /// Asks all workers, and gives what has come by `limit`.
    [[nodiscard]] std::vector<WorkerReport> look(Nanos limit);

    void message(LineId line, Message message) override;
    void closed(LineId line, const std::string& why) override;
    Instant tend(Instant now) override;

private:
    struct Peer {
        std::string role, address;
        LineId line = 0;
        bool ready = false;
        Instant retry_at{};
        Nanos backoff{};
        std::size_t requests = 0;
        std::map<std::string, std::uint64_t> facts;
    };
    struct Job {
        std::shared_ptr<Answer> answer;
        std::vector<std::uint32_t> tokens;  // the prompt, and what was given since
        std::size_t left = 0;               // tokens to give
        std::vector<std::uint32_t> stop_tokens;
        std::optional<std::size_t> peer;
        std::uint64_t reused = 0;
        int tries = 0;
        Instant until = Instant::never();  // while nobody is there to take it
    };
    struct Asked {
        std::shared_ptr<Answer> answer;  // null: a cancel
        std::uint64_t id = 0;
        Job job;
    };
    struct Looked {
        std::mutex mutex;
        std::condition_variable changed;
        std::vector<WorkerReport> reports;
        std::size_t missing = 0;
    };

    void take(Asked asked, Instant now);
    void assign(std::uint64_t id, Job& job);
    void given(Message message);
    void end(std::uint64_t id, const Error& error);
    [[nodiscard]] Peer* peer_of(LineId line);
    void answer_look(const Peer& peer, const Message* message);

    RouterOptions options_;
    transport::Fabric& network_;
    Courier courier_;
    std::vector<Peer> peers_;
    std::map<std::uint64_t, Job> jobs_;
    std::atomic<std::uint64_t> next_{1};
    Channel<Asked> asked_;
    Channel<std::shared_ptr<Looked>> look_asked_;
    std::vector<std::pair<LineId, std::shared_ptr<Looked>>> looks_;
    mutable std::mutex facts_mutex_;
    std::optional<std::map<std::string, std::uint64_t>> facts_;
    std::jthread thread_;  // last: it ends before what it uses
};

}  // namespace cmpool::loop
