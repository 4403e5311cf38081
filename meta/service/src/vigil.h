#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <cmpool/meta/membership.h>
#include <cmpool/transport/fabric.h>
#include <cmpool/transport/lane.h>
#include <cmpool/wire/messages.h>

namespace cmpool::meta {

/// Greets some members again and again where their clients do, on a thread of theirs that has nothing to do
/// with meta: who answers there lives, however late its lease is; who was there, and whose host now says that
/// nobody is, has ended.
///
///   Lifetime  clock and network outlive it
///   Threads   one
///   Limits    a lane for each that is watched; kFailuresMax before one counts as ended
class Vigil final : private transport::Receiver {
public:
    /// Members behind ours, in the order of their ids, that each node watches where all are equal.
    static constexpr std::size_t kNeighbours = 2;
    static constexpr std::chrono::milliseconds kRetry{100};
    /// A lane that breaks, and what comes after it.
    static constexpr std::uint32_t kFailuresMax = 3;

    Vigil(const Clock& clock, transport::Fabric& network, std::string name, std::chrono::milliseconds lease)
        : clock_(clock), network_(network), name_(std::move(name)), every_(lease / 4) {}
    ~Vigil() override;

    /// Watches these and nobody else.
    void watch(const std::vector<model::Member>& members);
    /// Goes on, and says what it has seen.
    void progress(Membership& members);
    [[nodiscard]] Instant next_deadline() const noexcept;
    void lanes(std::vector<transport::Lane*>& into) const;

private:
    struct Watched {
        model::Member member;
        std::unique_ptr<transport::Lane> lane;
        bool asked = false;     ///< its answer is on its way, or will never come
        bool answered = false;  ///< since progress() looked last
        bool was_there = false;
        std::uint32_t failures = 0;  ///< since it was heard
        Instant next{};              ///< greeting, or connecting
    };

    // transport::Receiver
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane& lane, Bytes head, std::uint64_t payload_bytes) override;

    void go_on(Watched& watched, Instant now);
    [[nodiscard]] Result<void> pump(Watched& watched);
    [[nodiscard]] Result<void> greet(Watched& watched);
    void failed(Watched& watched, Instant now);
    static void close(Watched& watched);

    const Clock& clock_;
    transport::Fabric& network_;
    std::string name_;
    Nanos every_;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
    std::map<std::uint64_t, Watched> watched_;
    Watched* receiving_ = nullptr;
};

/// The `count` members behind `self`, in the order of their ids, that are not down.
[[nodiscard]] std::vector<model::Member> neighbours_of(const model::View& view, std::uint64_t self,
                                                       std::size_t count);

}  // namespace cmpool::meta
