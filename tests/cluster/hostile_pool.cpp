// A pool that says what no pool says.
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <cmpool/base/units.h>
#include <cmpool/client/environment.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/client/pool_uri.h>
#include <cmpool/transport/sim.h>
#include <cmpool/wire/messages.h>

#include <doctest/doctest.h>

namespace cmpool::testing {
namespace {

using namespace std::chrono_literals;
using namespace transport;

/// Greets like a pool, and then answers as it is told.
class Impostor final : public Receiver {
public:
    using Answers = std::vector<wire::Body>;

    explicit Impostor(SimWorld& world)
        : world_(world),
          far_(world.open("pool", SimProfile::Messages)),
          near_(world.open("pool", SimProfile::Mapped)),
          segment_(near_->allocate({.bytes = 1 * MiB, .access = Access::Read, .name = "data"}).value()) {
        listeners_.push_back(far_->listen("pool:7411").value());
        listeners_.push_back(near_->listen("pool:socket").value());
        world.on_wake("pool", [this] { serve(); });
    }
    ~Impostor() override { world_.on_wake("pool", {}); }

    /// A segment that exists, and is not handed over.
    [[nodiscard]] wire::Grant denied(std::uint32_t index) const {
        return {.index = index,
                .bytes = 1 * MiB,
                .token = segment_->token().value + 1,
                .descriptor = segment_->descriptor().bytes};
    }
    std::function<Answers()> to_open = [] { return Answers{wire::NamespaceOpened{.namespace_id = 1}}; };
    std::function<Answers()> to_attach = [] { return Answers{wire::Failed{Errc::Unsupported, "not here"}}; };
    std::function<Answers()> to_all_else = [] { return Answers{}; };
    int attaches = 0;

private:
    void place(Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(Lane& lane, Bytes head, std::uint64_t) override {
        const auto asked = decoder_.decode(head).value();
        attaches += std::holds_alternative<wire::Attach>(asked.body) ? 1 : 0;
        say(lane, asked.request_id, answers_to(asked.body));
    }
    Answers answers_to(const wire::Body& asked) const {
        if (std::holds_alternative<wire::Hello>(asked))
            return {wire::Welcome{.incarnation = 1, .node = "pool", .local_address = "pool:socket"}};
        if (std::holds_alternative<wire::OpenNamespace>(asked)) return to_open();
        return std::holds_alternative<wire::Attach>(asked) ? to_attach() : to_all_else();
    }
    void say(Lane& lane, std::uint64_t id, Answers answers) {
        for (auto& body : answers) {
            const Bytes head = encoder_.encode({.request_id = id, .epoch = 1, .body = std::move(body)});
            const Op op{.kind = OpKind::Send, .signal = false, .head = head};
            REQUIRE(lane.post({&op, 1}));
        }
    }
    void serve() {
        for (const auto& listener : listeners_) {
            while (auto lane = listener->accept()) lanes_.push_back(std::move(*lane));
        }
        for (const auto& lane : lanes_) (void)lane->receive(*this);
    }

    SimWorld& world_;
    std::unique_ptr<Fabric> far_, near_;
    std::unique_ptr<Segment> segment_;
    std::vector<std::unique_ptr<Listener>> listeners_;
    std::vector<std::unique_ptr<Lane>> lanes_;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
};

/// A client of the impostor, until the world has been still for a while.
client::Status meet(SimWorld& world, const std::function<void(client::PoolClient&)>& then = {}) {
    client::Environment environment;
    environment.clock = std::shared_ptr<const Clock>(std::shared_ptr<void>{}, &world.clock());
    environment.entropy = std::make_shared<SeededEntropy>(1);
    environment.network = world.open("engine", SimProfile::Messages);
    environment.local = world.open("engine", SimProfile::Mapped);
    client::PoolUri uri;
    uri.address = "pool:7411";
    uri.deadline = 200ms;
    const client::NamespaceSpec spec{.model = "m", .dtype = "u8", .block_tokens = 4};
    const auto pool = client::PoolClient::open_in(environment, uri, spec).value();
    world.on_wake("engine", [&] { pool->progress(); });
    pool->progress();
    world.run_until(world.clock().now() + 100ms);
    if (then) then(*pool);
    world.on_wake("engine", {});
    return pool->status();
}

}  // namespace

TEST_CASE("memory that a pool grants a second time, unasked, is not listened to") {
    SimWorld world(1, {.delay_min = 10us, .delay_max = 10us});
    Impostor pool(world);
    const auto many = [&] {
        wire::Attached granted{.segment_bytes = 1 * MiB, .index = pool.denied(0), .control = pool.denied(0)};
        for (std::uint32_t index = 0; index < 50; ++index) granted.segments.push_back(pool.denied(index));
        return granted;
    };
    const auto few = [&] {
        auto granted = many();
        granted.segments.clear();
        return granted;
    };
    // What the first answer has begun would end among what the second one has.
    pool.to_attach = [&] { return Impostor::Answers{many(), few()}; };
    const auto status = meet(world);
    CHECK(pool.attaches > 0);
    CHECK(status.plane.find("did not hand over") != std::string::npos);
}

TEST_CASE("a segment with a number beyond every pool's costs the connection, and no memory") {
    SimWorld world(1, {.delay_min = 10us, .delay_max = 10us});
    Impostor pool(world);
    pool.to_attach = [&] {
        return Impostor::Answers{wire::Attached{.segment_bytes = 1 * MiB,
                                                .index = pool.denied(0),
                                                .control = pool.denied(0),
                                                .segments = {pool.denied(UINT32_MAX)}}};
    };
    const auto status = meet(world);
    CHECK(pool.attaches > 0);
    CHECK_FALSE(status.ready);
    REQUIRE(status.trouble);
    CHECK(status.trouble->code == Errc::Corrupt);
}

TEST_CASE("memory instead of a block is a miss") {
    SimWorld world(1, {.delay_min = 10us, .delay_max = 10us});
    Impostor pool(world);
    pool.to_all_else = [&] {
        return Impostor::Answers{
            wire::Attached{.segment_bytes = 1 * MiB, .index = pool.denied(0), .control = pool.denied(0)}};
    };
    const auto status = meet(world, [&](client::PoolClient& client) {
        std::vector<std::byte> room(64);
        const MutableBytes piece(room);
        std::vector<client::GetItem> items(model::kBatchMax, {model::Digest{}, {&piece, 1}});
        for (std::size_t at = 0; at < items.size(); ++at) items[at].key.bytes[0] = static_cast<std::byte>(at);
        auto call = client.start_get(items);
        auto match = client.start_match({&items[0].key, 1});
        world.run_until(world.clock().now() + 100ms);
        REQUIRE(call.done());
        REQUIRE(match.done());
        const auto report = call.take();
        CHECK(report.count(client::Outcome::Miss) == items.size());
        REQUIRE(report.trouble);
        CHECK(report.trouble->code == Errc::Corrupt);
        CHECK(match.take().blocks() == 0);
    });
    CHECK(status.ready);
}

TEST_CASE("memory instead of a namespace costs the connection") {
    SimWorld world(1, {.delay_min = 10us, .delay_max = 10us});
    Impostor pool(world);
    pool.to_open = [&] {
        return Impostor::Answers{
            wire::Attached{.segment_bytes = 1 * MiB, .index = pool.denied(0), .control = pool.denied(0)}};
    };
    const auto status = meet(world);
    CHECK(pool.attaches == 0);
    CHECK_FALSE(status.ready);
    REQUIRE(status.trouble);
    CHECK(status.trouble->code == Errc::Corrupt);
}

}  // namespace cmpool::testing
