// A client that asks for what no client asks.
#include "stage.h"
#include "whim.h"

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cmpool/wire/messages.h>

namespace cmpool::testing {
namespace {

using client::Outcome;
using namespace std::chrono_literals;
using namespace transport;

/// Greets and opens a namespace as a client does, more often than not, and then asks for anything. It does
/// not know the cluster's key: who does is a member, and is believed.
class Intruder final : public Receiver, Whim {
public:
    Intruder(Stage& stage, Rng& rng, bool mapped)
        : Whim(rng),
          stage_(stage),
          address_(mapped ? stage.server.socket() : stage.server.address()),
          fabric_(stage.world.open("intruder", mapped ? SimProfile::Mapped : SimProfile::Messages)),
          window_(fabric_->register_memory(MutableBytes(payload_), Access::Read).value()) {
        stage.world.on_wake("intruder", [this] { look(); });
        stage.server.processes().born(stage.world.pid("intruder"));
    }
    ~Intruder() override {
        stage_.world.on_wake("intruder", {});
        if (lane_) (void)lane_->quiesce(1s);
    }

    void ask() {
        forget();
        if (lane_ == nullptr) {
            auto lane = fabric_->connect(address_);
            if (!lane) return;
            lane_ = std::move(*lane);
            opened_ = false;
        }
        if (!opened_ && rng_.chance(0.8)) {
            opened_ = true;
            say(wire::Hello{.client = "intruder"}, {});
            if (lane_ != nullptr && rng_.chance(0.9)) say(open(), {});
        }
        if (lane_ == nullptr) return;
        wire::Body body = any();
        std::uint64_t wanted = 0;
        if (const auto* put = std::get_if<wire::Put>(&body); put != nullptr && put->window.empty()) {
            for (const auto& item : put->items) wanted += item.length;
        }
        // What is announced comes, more often than not.
        const std::uint64_t bytes = rng_.chance(0.8) ? wanted : rng_.below(payload_.size());
        say(std::move(body), Bytes(payload_).first(std::min<std::uint64_t>(bytes, payload_.size())));
    }
    void hang_up() { lane_.reset(); }

    std::uint64_t answers = 0;
    std::uint64_t stored = 0;

private:
    void place(Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(Lane&, Bytes head, std::uint64_t) override {
        const auto heard = decoder_.decode(head).value();
        ++answers;
        if (const auto* opened = std::get_if<wire::NamespaceOpened>(&heard.body))
            space_ = opened->namespace_id;
        if (const auto* matched = std::get_if<wire::Matched>(&heard.body)) lease_ = matched->lease_id;
        if (const auto* outcomes = std::get_if<wire::Outcomes>(&heard.body)) {
            for (const auto outcome : outcomes->outcomes) stored += outcome == wire::Outcome::Ok ? 1 : 0;
        }
    }
    void look() {
        if (lane_ != nullptr && !lane_->receive(*this)) lane_.reset();
        std::array<Completion, 64> done;
        while (lane_ != nullptr && lane_->poll(done) > 0) continue;
    }
    void say(wire::Body body, Bytes payload) {
        const Bytes head = encoder_.encode(
            {.request_id = rng_.chance(0.9) ? ++id_ : number(), .epoch = number(), .body = std::move(body)});
        const Op op{.kind = OpKind::Send,
                    .signal = false,
                    .gather = {&payload, payload.empty() ? 0u : 1u},
                    .head = head};
        if (const auto posted = lane_->post({&op, 1}); !posted && posted.error().code != Errc::Again)
            lane_.reset();
    }

    std::string word() { return one_of<std::string>({"", "one", "r1", "intruder", "pool:7411", "?"}); }
    std::uint32_t space() { return rng_.chance(0.8) ? space_ : small(); }
    std::uint64_t lease() { return rng_.chance(0.5) ? lease_ : number(); }
    // Few, so that they meet each other.
    model::Digest digest() {
        model::Digest made;
        made.bytes.fill(static_cast<std::byte>(rng_.below(24)));
        return made;
    }
    std::vector<model::Digest> digests() {
        std::vector<model::Digest> made(rng_.below(rng_.chance(0.9) ? 8 : 300));
        for (auto& each : made) each = digest();
        return made;
    }
    model::NamespaceSpec spec() {
        model::NamespaceSpec made{.model = "m", .revision = "r1", .dtype = "u8", .block_tokens = 4};
        if (rng_.chance(0.2)) made = stage_.space.spec;
        if (rng_.chance(0.1)) made.tenant = word();
        if (rng_.chance(0.1)) made.block_tokens = small();
        if (rng_.chance(0.1)) made.group_blocks = small();
        return made;
    }
    wire::OpenNamespace open() {
        const auto asked = spec();
        return {.spec = asked,
                .tenant_key = rng_.chance(0.9) ? "" : word(),
                .fingerprint = rng_.chance(0.9) ? asked.fingerprint() : digest()};
    }
    wire::Grant grant() {
        wire::Grant made{.bytes = payload_.size(),
                         .token = window_->token().value,
                         .descriptor = window_->descriptor().bytes};
        if (rng_.chance(0.3)) made.bytes = number();
        if (rng_.chance(0.2)) made.token = number();
        if (rng_.chance(0.2)) made.descriptor.resize(rng_.below(100));
        return made;
    }
    wire::Body put() {
        std::vector<wire::PutItem> items(rng_.below(6));
        const std::uint64_t zeros = model::checksum(Bytes(payload_).first(200));
        for (auto& item : items) {
            item = {.checksum = rng_.chance(0.8) ? zeros : number(),
                    .group = rng_.chance(0.5) ? 0 : number(),
                    .window_offset = rng_.chance(0.8) ? 0 : number(),
                    .length = rng_.chance(0.8) ? 200 : small(),
                    .position = rng_.chance(0.5) ? 0 : small(),
                    .cost_us = small(),
                    .digest = digest(),
                    .parent = rng_.chance(0.5) ? model::kNoParent : digest()};
        }
        wire::Put made{.namespace_id = space(),
                       .items = keep(std::move(items)),
                       .sums_follow = rng_.chance(0.2),
                       .near = rng_.chance(0.2)};
        if (rng_.chance(0.3)) made.window.push_back(grant());
        return made;
    }
    wire::Body get() {
        auto asked = digests();
        std::vector<std::uint32_t> rooms(asked.size());
        for (auto& room : rooms) room = rng_.chance(0.5) ? 4096 : small();
        std::vector<model::ByteRange> ranges(rng_.chance(0.3) ? asked.size() : 0);
        for (auto& range : ranges) range = {small(), small()};
        return wire::Get{space(), keep(std::move(asked)), keep(std::move(rooms)), rng_.chance(0.5),
                         keep(std::move(ranges))};
    }
    wire::Body any() {
        switch (rng_.below(26)) {
            case 0:
                return wire::Hello{.protocol = rng_.chance(0.9) ? wire::kProtocolVersion : small(),
                                   .client = word(),
                                   .shard = rng_.chance(0.5) ? 0 : small()};
            case 1:
                return open();
            case 2:
                return wire::Attach{space(), small()};
            case 3:
            case 4:
                return wire::Match{space(), keep(digests()), small(), rng_.chance(0.5)};
            case 5:
                return wire::Release{keep(std::vector<std::uint64_t>{lease(), lease()})};
            case 6:
                return wire::Exists{space(), keep(digests())};
            case 7:
            case 8:
                return get();
            case 9:
                return wire::Remove{space(), keep(digests())};
            case 10:
            case 11:
            case 12:
                return put();
            case 13:
                return wire::Sums{keep(std::vector<std::uint64_t>(rng_.below(6), number()))};
            case 14:
                return wire::StatsRequest{};
            case 15:
                return wire::List{space(), number(), small()};
            case 16:
                return wire::ViewRequest{};
            case 17:
                return wire::Join{
                    {.node_id = number(), .incarnation = number(), .name = word(), .address = word()},
                    "a guess",
                    number()};
            case 18:
                return wire::Renew{number(), number()};
            case 19:
                return wire::Leave{number(), number()};
            case 20:
                return wire::Resolve{open(), small(), "a guess"};
            case 21:
                return wire::ListNamespaces{word(), word(), word(), word()};
            case 22:
                return wire::ChangeNamespace{.tenant = word(),
                                             .tenant_key = word(),
                                             .model = word(),
                                             .revision = word(),
                                             .replicas = small(),
                                             .remove = rng_.chance(0.5)};
            case 23:
                return wire::ChangeMember{
                    .member = word(), .cluster_key = "a guess", .forget = rng_.chance(0.5)};
            case 24:
                return wire::BrokenSeals{small()};
            default:
                return wire::Welcome{.node = word()};
        }
    }

    Stage& stage_;
    std::string address_;
    std::vector<std::byte> payload_ = std::vector<std::byte>(20'000);
    std::unique_ptr<Fabric> fabric_;
    std::unique_ptr<Segment> window_;
    std::unique_ptr<Lane> lane_;
    wire::Encoder encoder_;
    wire::Decoder decoder_;
    std::uint64_t id_ = 0;
    std::uint32_t space_ = 1;
    std::uint64_t lease_ = 0;
    bool opened_ = false;
};

}  // namespace

TEST_CASE("whatever a client asks, the pool lives, and serves others as before") {
    const char* asked = std::getenv("CMPOOL_HOSTILE_SEEDS");
    const std::uint64_t seeds = asked == nullptr ? 100 : std::strtoull(asked, nullptr, 10);
    std::uint64_t answers = 0;
    std::uint64_t stored = 0;
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
        CAPTURE(seed);
        Stage stage({.cluster_key = "known to members", .capacity_bytes = 4 * MiB});
        Rng rng(seed);
        ClientHost& honest = stage.client("engine", rng.chance(0.5));
        const auto chain = stage.space.chains[0];
        stage.store(honest, chain);
        {
            Intruder intruder(stage, rng, rng.chance(0.5));
            for (int round = 0; round < 60; ++round) {
                for (std::uint64_t left = rng.below(8); left > 0; --left) intruder.ask();
                stage.run(Nanos(rng.below(2'000'000)));
                if (rng.chance(0.05)) intruder.hang_up();
                if (rng.chance(0.1)) {
                    CHECK(stage.get(honest, chain).count(Outcome::Hit) == chain.size());
                }
            }
            answers += intruder.answers;
            stored += intruder.stored;
        }
        stage.run(30s);  // longer than a lease can be, and a pull
        CHECK(stage.server.check_invariants() == "");
        CHECK(no_extents_left(stage.server));
        CHECK(stage.get(honest, chain).count(Outcome::Hit) == chain.size());
    }
    CHECK(answers > seeds * 20);
    CHECK(stored > seeds);
}

}  // namespace cmpool::testing
