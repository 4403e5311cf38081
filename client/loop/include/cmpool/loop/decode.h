#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <cmpool/loop/worker.h>
#include <cmpool/transport/fabric.h>

namespace cmpool::loop {

struct DecodeOptions {
    std::vector<std::string> prefills;  ///< HOST:PORT of each
    bool local_lanes = true;            ///< KV bytes come over `local` where the host is the same
    Nanos prefill_limit = std::chrono::seconds(120);    ///< from pages to the first token
    Nanos no_prefill_limit = std::chrono::seconds(10);  ///< a prompt waits so long for a prefill worker
};

/// Pages of this process that prefill workers write to, over either fabric.
struct LandingPages {
    transport::Fabric* network = nullptr;  ///< where prefill workers' addresses lead
    transport::Fabric* local = nullptr;    ///< may be null
    transport::Segment* network_pages = nullptr;
    transport::Segment* local_pages = nullptr;
};

/// Decodes what prefill workers computed. A request gets its pages first; then the least loaded prefill
/// worker is asked, whose writes land in these pages; then it decodes with the others.
///
/// Always: a page that was named to a prefill worker is used again only after that worker's last word on it
/// (Prefilled, Failed), or after its lane for KV bytes has ended.
///
///   Limits  kTries prefill workers are asked, one after the other, when they die
class DecodeWorker final : public Worker {
public:
    static constexpr int kTries = 3;

    DecodeWorker(engine::PagedKv& kv, engine::Engine& engine, engine::Wake& wake, std::string model_identity,
                 std::uint32_t vocab, std::uint32_t context, LandingPages pages, DecodeOptions options,
                 Entropy& entropy);

    void closed(LineId line, const std::string& why) override;
    Instant tend(Instant now) override;

private:
    /// A prefill worker. Usable once both lanes are up.
    struct Peer {
        std::string address;
        LineId control = 0, kv = 0;
        std::uint64_t session = 0;
        bool local = false, local_failed = false, attached = false, refused = false;
        Instant retry_at{};
        Nanos backoff{};
        std::uint64_t ours = 0;    // prompt tokens that it computes for us
        std::uint64_t others = 0;  // and for others, when it last spoke
    };
    struct Job {
        enum class State : std::uint8_t { Waiting, Placed, Assigned, Decoding };
        LineId router = 0;
        std::uint64_t remote_id = 0;
        State state = State::Waiting;
        std::vector<std::uint32_t> prompt, pages;
        std::size_t peer = 0;
        int tries = 0;
        Instant until = Instant::never();
        std::uint64_t reused = 0;
        bool gone = false;  // nobody waits for it; its pages still may be written
    };
    struct Command {
        enum class What : std::uint8_t { Submit, Landed, Stop, Release } what;
        engine::SequenceId id;
        engine::Request request;
        std::uint32_t token = 0;
    };
    struct Outcome {
        enum class What : std::uint8_t { Admitted, Given, Refused } what;
        engine::SequenceId id = 0;
        std::vector<std::uint32_t> pages;
        engine::Emission emission;
        Error error;
    };

    void obey() override;
    void report(const engine::Turn& turn) override;
    void told(LineId line, Message message) override;
    void append_line_statistics(std::vector<Statistic>& out) override;
    void command(Command command);
    void outcome(Outcome outcome);
    void give(const engine::Emission& emission);

    void keep_connected(Peer& peer, Instant now);
    void greeted(Peer& peer, const Message& message);
    void lost(Peer& peer, LineId line, const std::string& why);
    [[nodiscard]] Peer* peer_of(LineId line);
    void generate(LineId line, Message message);
    void settle(Outcome& outcome);
    void assign(Instant now);
    [[nodiscard]] Peer* least_loaded();
    void landed(Peer& peer, const Message& message);
    void failed(Peer& peer, const Message& message);
    void cancel(engine::SequenceId id, Job& job);
    void refuse(Job& job, const Error& error);
    void unassign(Job& job);
    void release(engine::SequenceId id);
    [[nodiscard]] Instant expire(Instant now);

    LandingPages pages_;
    DecodeOptions options_;
    Entropy& entropy_;
    std::vector<Peer> peers_;
    std::map<engine::SequenceId, Job> jobs_;
    std::deque<engine::SequenceId> placed_;  // have pages, want a prefill worker
    engine::SequenceId next_ = 1;
    Channel<Command> commands_;
    Channel<Outcome> outcomes_;
};

}  // namespace cmpool::loop
