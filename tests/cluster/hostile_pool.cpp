// A pool that says what no pool says.
#include "client_host.h"
#include "whim.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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
          side_(world.open("pool", SimProfile::OneSided)),
          segment_(near_->allocate({.bytes = 1 * MiB, .access = Access::ReadWrite, .name = "data"}).value()),
          shown_(side_->register_memory(segment_->bytes(), Access::Read).value()) {
        listeners_.push_back(far_->listen("pool:7411").value());
        listeners_.push_back(near_->listen("pool:socket").value());
        listeners_.push_back(side_->listen("pool:plane").value());
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
    /// The same, and handed over.
    [[nodiscard]] wire::Grant granted(std::uint32_t index, bool one_sided) const {
        const Segment& segment = one_sided ? *shown_ : *segment_;
        return {.index = index,
                .bytes = 1 * MiB,
                .token = segment.token().value,
                .descriptor = segment.descriptor().bytes};
    }
    [[nodiscard]] MutableBytes memory() const { return segment_->bytes(); }
    std::function<Answers()> to_open = [] { return Answers{wire::NamespaceOpened{.namespace_id = 1}}; };
    std::function<Answers()> to_attach = [] { return Answers{wire::Failed{Errc::Unsupported, "not here"}}; };
    std::function<Answers()> to_all_else = [] { return Answers{}; };
    /// Instead of all these, where it is set.
    std::function<Answers(const wire::Body&)> to_anything;
    std::size_t payload_bytes = 0;  ///< behind each answer
    static constexpr std::size_t kPayloadMax = 20'000;
    int attaches = 0;

private:
    void place(Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(Lane& lane, Bytes head, std::uint64_t) override {
        const auto asked = decoder_.decode(head).value();
        attaches += std::holds_alternative<wire::Attach>(asked.body) ? 1 : 0;
        say(lane, asked.request_id, answers_to(asked.body));
    }
    Answers answers_to(const wire::Body& asked) const {
        if (to_anything) return to_anything(asked);
        if (std::holds_alternative<wire::Hello>(asked))
            return {wire::Welcome{.incarnation = 1, .node = "pool", .local_address = "pool:socket"}};
        if (std::holds_alternative<wire::OpenNamespace>(asked)) return to_open();
        return std::holds_alternative<wire::Attach>(asked) ? to_attach() : to_all_else();
    }
    void say(Lane& lane, std::uint64_t id, Answers answers) {
        for (auto& body : answers) {
            const Bytes head = encoder_.encode({.request_id = id, .epoch = 1, .body = std::move(body)});
            const Bytes behind = Bytes(payload_).first(payload_bytes);
            const Op op{.kind = OpKind::Send,
                        .signal = false,
                        .gather = {&behind, behind.empty() ? 0u : 1u},
                        .head = head};
            (void)lane.post({&op, 1});
        }
    }
    void serve() {
        for (const auto& listener : listeners_) {
            while (auto lane = listener->accept()) lanes_.push_back(std::move(*lane));
        }
        for (const auto& lane : lanes_) (void)lane->receive(*this);
    }

    SimWorld& world_;
    std::unique_ptr<Fabric> far_, near_, side_;
    std::unique_ptr<Segment> segment_, shown_;
    std::vector<std::unique_ptr<Listener>> listeners_;
    std::vector<std::unique_ptr<Lane>> lanes_;
    std::vector<std::byte> payload_ = std::vector<std::byte>(kPayloadMax);
    wire::Encoder encoder_;
    wire::Decoder decoder_;
};

/// Answers that may come to any question: each is a message as it should be, and none has to fit.
class AnyAnswer final : Whim {
public:
    AnyAnswer(Rng& rng, Impostor& pool) : Whim(rng), pool_(pool) {}

    Impostor::Answers operator()(const wire::Body& asked) {
        forget();
        one_sided_ = rng_.chance(0.5);
        Impostor::Answers answers;
        // As it should be more often than not, or nobody would come far.
        if (rng_.chance(0.7)) answers.push_back(fitting(asked));
        while (answers.empty() || rng_.chance(0.2)) answers.push_back(any());
        pool_.payload_bytes = rng_.chance(0.3) ? rng_.below(Impostor::kPayloadMax) : 0;
        return answers;
    }

private:
    std::string word() { return one_of<std::string>({"", "pool:7411", "pool:socket", "nowhere:1", "?"}); }
    wire::Grant grant() {
        auto made = rng_.chance(0.8) ? pool_.granted(0, one_sided_) : pool_.denied(0);
        made.index = rng_.chance(0.8) ? static_cast<std::uint32_t>(rng_.below(4)) : small();
        if (rng_.chance(0.2)) made.bytes = number();
        if (rng_.chance(0.1)) made.descriptor.resize(rng_.below(100));
        return made;
    }
    wire::Body welcome() {
        return wire::Welcome{.incarnation = rng_.chance(0.8) ? 1 : number(),
                             .node = word(),
                             .local_address = rng_.chance(0.8) ? "pool:socket" : word(),
                             .shards = rng_.chance(0.8) ? 1 : small(),
                             .node_id = rng_.chance(0.8) ? 1 : number(),
                             .planes = {word(), "sim://pool:plane"},
                             .keeps_near = rng_.chance(0.5)};
    }
    wire::Body opened() {
        return wire::NamespaceOpened{
            .namespace_id = 1, .lease_bytes_max = number(), .replicas = rng_.chance(0.7) ? 1 : small()};
    }
    // All of it leads to the same memory, which holds anything.
    wire::Body attached() {
        for (std::size_t at = 0; at < 64; ++at) {
            const std::uint64_t value = number();
            const std::size_t where = rng_.below(pool_.memory().size() / 8) * 8;
            std::memcpy(pool_.memory().data() + where, &value, sizeof value);
        }
        wire::Attached made{
            .bucket_bits = rng_.chance(0.8) ? 6 : small(),
            .segment_bytes = rng_.chance(0.8) ? 1 * MiB : number(),
            .index = grant(),
            .control = grant(),
        };
        for (std::uint64_t left = rng_.below(4); left > 0; --left) made.segments.push_back(grant());
        return made;
    }
    wire::Body outcomes(std::size_t count) {
        std::vector<wire::Outcome> outcomes(count);
        std::vector<std::uint32_t> lengths(count);
        std::vector<std::uint64_t> checksums(count);
        for (auto& outcome : outcomes) outcome = static_cast<wire::Outcome>(rng_.below(9));
        for (auto& length : lengths) length = rng_.chance(0.5) ? 64 : small();
        for (auto& checksum : checksums) checksum = number();
        const bool bare = rng_.chance(0.1);
        return wire::Outcomes{keep(std::move(outcomes)),
                              keep(bare ? std::vector<std::uint32_t>{} : std::move(lengths)),
                              keep(bare ? std::vector<std::uint64_t>{} : std::move(checksums))};
    }
    wire::Body matched(std::size_t most) {
        const auto blocks = static_cast<std::uint32_t>(rng_.below(most + 2));
        std::vector<wire::Place> places(rng_.chance(0.5) ? blocks : 0);
        for (auto& place : places) place = {number(), number(), small(), small()};
        return wire::Matched{blocks, number(), small(), keep(std::move(places))};
    }
    wire::Body members() {
        model::View view{.epoch = number(), .members = {}};
        for (std::uint64_t left = rng_.below(4); left > 0; --left)
            view.members.push_back({.node_id = number(),
                                    .incarnation = number(),
                                    .name = word(),
                                    .address = word(),
                                    .host = word(),
                                    .weight = small(),
                                    .state = static_cast<model::MemberState>(rng_.below(3))});
        return wire::Members{view};
    }
    wire::Body fitting(const wire::Body& asked) {
        if (std::holds_alternative<wire::Hello>(asked)) return welcome();
        if (std::holds_alternative<wire::OpenNamespace>(asked)) return opened();
        if (std::holds_alternative<wire::Attach>(asked)) return attached();
        if (const auto* match = std::get_if<wire::Match>(&asked)) return matched(match->chain.size());
        if (const auto* get = std::get_if<wire::Get>(&asked)) return outcomes(get->digests.size());
        if (const auto* put = std::get_if<wire::Put>(&asked)) return outcomes(put->items.size());
        if (const auto* exists = std::get_if<wire::Exists>(&asked)) return outcomes(exists->digests.size());
        if (const auto* remove = std::get_if<wire::Remove>(&asked)) return outcomes(remove->digests.size());
        return any();
    }
    wire::Body any() {
        switch (rng_.below(11)) {
            case 0:
                return welcome();
            case 1:
                return opened();
            case 2:
                return attached();
            case 3:
                return outcomes(rng_.below(40));
            case 4:
                return matched(rng_.below(40));
            case 5:
                return members();
            case 6:
                return wire::Failed{static_cast<Errc>(1 + rng_.below(12)), word()};
            case 7:
                return wire::Stats{{{word(), number()}}};
            case 8:
                return wire::Listed{{}, number()};
            case 9:
                return wire::Namespaces{};
            default:
                return wire::Lease{small()};
        }
    }

    Impostor& pool_;
    bool one_sided_ = false;
};

/// A client of the impostor, until the world has been still for a while.
client::Status meet(SimWorld& world, const std::function<void(client::PoolClient&)>& then = {},
                    bool mapped = true, bool sealed = false) {
    client::Environment environment;
    environment.clock = std::shared_ptr<const Clock>(std::shared_ptr<void>{}, &world.clock());
    environment.entropy = std::make_shared<SeededEntropy>(1);
    environment.network = world.open("engine", SimProfile::Messages);
    if (mapped) environment.local = world.open("engine", SimProfile::Mapped);
    environment.planes = std::make_shared<SimPlanes>(world, "engine");
    client::PoolUri uri;
    uri.address = "pool:7411";
    uri.deadline = 200ms;
    if (sealed) uri.seal_key.emplace().fill(std::byte{42});
    const client::NamespaceSpec spec{.model = "m", .dtype = "u8", .block_tokens = 4, .sealed = sealed};
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

// One of its deadlines is what a call may cost, whoever answers.
TEST_CASE("whatever a pool answers, its client lives, and its calls end") {
    const char* asked = std::getenv("CMPOOL_HOSTILE_SEEDS");
    const std::uint64_t seeds = asked == nullptr ? 300 : std::strtoull(asked, nullptr, 10);
    std::uint64_t ready = 0;
    std::uint64_t hits = 0;
    std::uint64_t one_sided = 0;
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
        CAPTURE(seed);
        SimWorld world(seed, {.delay_min = 10us, .delay_max = 30us});
        Rng rng(seed);
        Impostor pool(world);
        AnyAnswer answer(rng, pool);
        pool.to_anything = [&](const wire::Body& question) { return answer(question); };
        std::vector<std::byte> room(20 * 256);
        std::vector<MutableBytes> into;
        std::vector<Bytes> from;
        std::vector<client::Digest> keys(20);
        std::vector<client::GetItem> gets;
        std::vector<client::PutItem> puts;
        for (std::size_t at = 0; at < keys.size(); ++at) {
            keys[at].bytes.fill(static_cast<std::byte>(rng.below(256)));
            into.push_back(MutableBytes(room).subspan(at * 256, 256));
            from.emplace_back(into.back());
        }
        for (std::size_t at = 0; at < keys.size(); ++at) {
            gets.push_back({keys[at], {&into[at], 1}});
            puts.push_back({.key = keys[at], .from = {&from[at], 1}});
        }
        const auto use = [&](client::PoolClient& client) {
            for (int round = 0; round < 6; ++round) {
                auto match = client.start_match(keys, 100);
                auto get = client.start_get(gets);
                auto put = client.start_put(puts);
                auto exists = client.start_exists(keys);
                for (int step = 0; step < 12; ++step) {
                    world.run_until(world.clock().now() + 20ms);
                    client.progress();
                }
                REQUIRE((match.done() && get.done() && put.done() && exists.done()));
                const auto found = match.take();
                for (std::size_t at = 0; at < found.blocks(); ++at) (void)found.view(at);
                hits += get.take().count(client::Outcome::Hit);
            }
        };
        const auto status = meet(world, use, rng.chance(0.5), rng.chance(0.2));
        ready += status.ready ? 1 : 0;
        one_sided += status.kv == "sim" ? 1 : 0;
    }
    CHECK(ready > seeds / 20);
    CHECK(one_sided > seeds / 100);
    CHECK(hits > seeds / 4);
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
