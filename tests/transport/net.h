#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>
#include <cmpool/transport/fabric.h>
#include <cmpool/transport/sim.h>

#include <doctest/doctest.h>

namespace cmpool::testing {

using namespace transport;

/// A message as it arrived.
struct Message {
    std::string head;
    std::vector<std::byte> payload;
};

/// One end of a lane under test: keeps what arrives and what completes.
class End : public Receiver {
public:
    explicit End(std::unique_ptr<Lane> lane) : lane_(std::move(lane)) {}
    ~End() override {
        if (lane_) (void)lane_->quiesce(std::chrono::seconds(5));
    }

    void place(Lane& lane, Bytes head, std::uint64_t bytes, std::vector<MutableBytes>& into) override {
        landing_.assign(bytes, std::byte{0});
        if (on_place) return on_place(lane, head, bytes, into);
        into.emplace_back(landing_);
    }
    void message(Lane& lane, Bytes head, std::uint64_t) override {
        messages.push_back({std::string(as_text(head)), landing_});
        if (on_message) on_message(lane, head);
    }

    /// Lets the lane work once. Completions are collected; the lane's end is remembered.
    void pump() {
        if (!down) {
            auto got = lane_->receive(*this);
            if (!got) down = got.error();
        }
        collect();
    }
    void collect() {
        std::array<Completion, 64> some;
        while (const auto count = lane_->poll(some)) {
            for (std::size_t at = 0; at < count; ++at) completions.push_back(some[at]);
        }
    }
    [[nodiscard]] const Completion* completion(std::uint64_t cookie) const {
        for (const auto& each : completions) {
            if (each.cookie == cookie) return &each;
        }
        return nullptr;
    }
    [[nodiscard]] Lane& lane() { return *lane_; }
    void drop() { lane_.reset(); }

    std::vector<Message> messages;
    std::vector<Completion> completions;
    std::optional<Error> down;
    std::function<void(Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&)> on_place;
    std::function<void(Lane&, Bytes)> on_message;

private:
    std::unique_ptr<Lane> lane_;
    std::vector<std::byte> landing_;
};

/// Two fabrics of one back end that can reach each other, and the means to let time pass.
class Net {
public:
    virtual ~Net() = default;
    [[nodiscard]] virtual Fabric& server() = 0;
    [[nodiscard]] virtual Fabric& client() = 0;
    /// An address that server() can listen on.
    [[nodiscard]] virtual std::string address() = 0;
    /// Whether messages come as bytes of a stream.
    [[nodiscard]] virtual bool streams() const { return false; }
    /// Waits a little for one of the ends (or the listener) to have something to do; false when
    /// nothing can happen any more.
    virtual bool idle(std::initializer_list<End*> ends, Listener* listener) = 0;
    /// The server's host dies.
    virtual void kill_server(End& server) { (void)server.lane().quiesce(std::chrono::seconds(0)); }

    /// Pumps the ends until `done`, at most ten seconds; the last word is done()'s.
    bool until(std::initializer_list<End*> ends, const std::function<bool()>& done);

    struct Pair {
        std::unique_ptr<Listener> listener;
        std::unique_ptr<End> client, server;
    };
    [[nodiscard]] Pair pair();
};

/// Every back end under test, by name.
struct BackEnd {
    std::string name;
    std::function<std::unique_ptr<Net>()> make;
};
[[nodiscard]] const std::vector<BackEnd>& back_ends();

/// Runs one behaviour on every back end.
template <class Body>
void on_each(Body body) {
    for (const auto& back_end : back_ends()) {
        INFO("back end " << back_end.name);
        auto net = back_end.make();
        body(*net);
    }
}

[[nodiscard]] std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed = 7);

/// Posts one operation, waiting for a free slot where the back end is busy or unkind.
[[nodiscard]] Result<void> post(Net& net, End& end, End& other, const Op& op);
/// Posts one operation and waits for its completion.
[[nodiscard]] Result<Completion> run(Net& net, End& end, End& other, Op op);
/// Imports a segment of `other`'s side.
[[nodiscard]] Result<std::unique_ptr<RemoteSegment>> import(Net& net, End& end, End& other,
                                                            const Descriptor& descriptor, Token token);

}  // namespace cmpool::testing
