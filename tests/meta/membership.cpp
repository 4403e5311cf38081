#include <cmpool/base/rng.h>
#include <cmpool/meta/controller.h>
#include <cmpool/meta/membership.h>
#include <cmpool/meta/memory_store.h>
#include <cmpool/meta/office.h>

using namespace cmpool;
using namespace std::chrono_literals;
using meta::Membership;
using meta::MemoryStore;
using model::Member;
using model::MemberState;

namespace {

constexpr std::uint64_t kSelf = 1;

Member member_of(std::uint64_t node_id, std::uint64_t incarnation = 1) {
    return {.node_id = node_id,
            .incarnation = incarnation,
            .name = "node-" + std::to_string(node_id),
            .address = "10.0.0." + std::to_string(node_id) + ":7411",
            .host = "host"};
}

struct World {
    World() { REQUIRE(members.join(member_of(kSelf), 0, now)); }

    const Member* find(std::uint64_t node_id) const {
        for (const auto& member : members.view()->members) {
            if (member.node_id == node_id) return &member;
        }
        return nullptr;
    }
    /// Time passes as it does for somebody who runs.
    void pass(std::chrono::milliseconds time) {
        for (; time > 0ms; time -= 50ms) {
            now = now + 50ms;
            REQUIRE(members.expire(now));
        }
    }

    MemoryStore store;
    Instant now{1'000'000'000};
    Membership members = Membership::open(store, now, kSelf).value();
};

}  // namespace

TEST_CASE("the epoch grows by one with each change, and with nothing else") {
    World world;
    CHECK(world.members.view()->epoch == 1);
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    CHECK(world.members.view()->epoch == 2);
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    REQUIRE(world.members.renew(2, 1, world.now));
    CHECK(world.members.view()->epoch == 2);
    REQUIRE(world.members.change("node-2", {.weight = 7}));
    CHECK(world.members.view()->epoch == 3);
    CHECK(world.find(2)->weight == 7);
    REQUIRE(world.members.leave(2, 1));
    CHECK(world.members.view()->epoch == 4);
    CHECK(world.find(2) == nullptr);
    REQUIRE(world.members.leave(2, 1));
    CHECK(world.members.view()->epoch == 4);
}

TEST_CASE("a member is down when its lease has ended, not before, and serves again when it joins") {
    World world;
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    world.pass(2900ms);
    CHECK(world.find(2)->state == MemberState::Serving);
    REQUIRE(world.members.renew(2, 1, world.now));
    world.pass(2900ms);
    CHECK(world.find(2)->state == MemberState::Serving);
    world.pass(200ms);
    CHECK(world.find(2)->state == MemberState::Down);
    CHECK(world.find(kSelf)->state == MemberState::Serving);  // it needs no lease
    CHECK(world.members.renew(2, 1, world.now).error().code == Errc::LeaseLost);

    REQUIRE(world.members.join(member_of(2, 9), 0, world.now));
    CHECK(world.find(2)->state == MemberState::Serving);
    CHECK(world.find(2)->incarnation == 9);
    CHECK(world.members.renew(2, 1, world.now).error().code == Errc::LeaseLost);
    CHECK(world.members.renew(2, 9, world.now));
}

TEST_CASE("a member whose connection broke is down soon, unless it comes again") {
    World world;
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    REQUIRE(world.members.join(member_of(3), 0, world.now));
    world.members.suspect(2, 1, world.now);
    world.members.suspect(3, 1, world.now);
    world.members.suspect(3, 99, world.now);
    world.pass(400ms);
    CHECK(world.find(2)->state == MemberState::Serving);
    REQUIRE(world.members.renew(3, 1, world.now));
    world.pass(200ms);
    CHECK(world.find(2)->state == MemberState::Down);
    CHECK(world.find(3)->state == MemberState::Serving);
}

TEST_CASE("after a restart, or a pause, of the one who judges everybody has a whole lease") {
    World world;
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    world.now = world.now + 10min;
    REQUIRE(world.members.expire(world.now));
    CHECK(world.find(2)->state == MemberState::Serving);
    world.pass(2900ms);
    CHECK(world.find(2)->state == MemberState::Serving);

    auto again = Membership::open(world.store, world.now, kSelf);
    REQUIRE(again);
    CHECK(*again->view() == *world.members.view());
    world.members = std::move(*again);
    world.pass(2900ms);
    CHECK(world.find(2)->state == MemberState::Serving);
    REQUIRE(world.members.renew(2, 1, world.now));  // it need not join anew
    world.pass(3100ms);
    CHECK(world.find(2)->state == MemberState::Down);
}

TEST_CASE("what people have set stays while a process runs; who takes an address ends who had it") {
    World world;
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    REQUIRE(world.members.change("10.0.0.2:7411", {.weight = 4, .state = MemberState::Draining}));
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    CHECK(world.find(2)->state == MemberState::Draining);
    CHECK(world.find(2)->weight == 4);
    world.pass(4000ms);
    REQUIRE(world.members.join(member_of(2, 5), 0, world.now));
    CHECK(world.find(2)->state == MemberState::Serving);
    CHECK(world.find(2)->weight == 1);
    auto heir = member_of(3);
    heir.address = member_of(2).address;
    REQUIRE(world.members.join(heir, 0, world.now));
    CHECK(world.find(2) == nullptr);
    CHECK(world.members.renew(2, 5, world.now).error().code == Errc::LeaseLost);
}

TEST_CASE("a change names one member, of a state that fits") {
    World world;
    auto twin = member_of(2);
    twin.name = "node-1";
    REQUIRE(world.members.join(twin, 0, world.now));
    const auto twice = world.members.change("node-1", {.weight = 3});
    REQUIRE_FALSE(twice);
    CHECK(twice.error().detail.find("10.0.0.2:7411") != std::string::npos);
    CHECK(world.members.change("nobody", {.weight = 3}).error().code == Errc::Invalid);
    CHECK(world.members.change("0000000000000002", {.weight = 3}));
    CHECK_FALSE(world.members.change("10.0.0.2:7411", {.forget = true}));
    CHECK_FALSE(world.members.change("10.0.0.2:7411", {.state = MemberState::Down}));
    world.pass(4000ms);
    CHECK_FALSE(world.members.change("10.0.0.2:7411", {.state = MemberState::Draining}));
    CHECK(world.members.change("10.0.0.2:7411", {.forget = true}));
    CHECK(world.members.view()->members.size() == 1);
}

TEST_CASE("meta that has forgotten everything goes on behind the epochs that members know") {
    World world;
    REQUIRE(world.members.join(member_of(2), 41, world.now));
    CHECK(world.members.view()->epoch == 42);
    CHECK(world.members.join(member_of(3), UINT64_MAX, world.now).error().code == Errc::Invalid);
    CHECK(world.members.view()->epoch == 42);
}

TEST_CASE("a change that the store does not take is no change") {
    World world;
    const auto before = *world.members.view();
    world.store.fail_after(0, MemoryStore::Failure::Lost);
    CHECK_FALSE(world.members.join(member_of(2), 0, world.now));
    CHECK_FALSE(world.members.change("node-1", {.weight = 9}));
    CHECK(*world.members.view() == before);
}

TEST_CASE("a namespace's settings are its tenant's; a removed one comes back as another") {
    MemoryStore store;
    SeededEntropy entropy{1};
    auto controller = meta::Controller::open(store, entropy).value();
    const model::NamespaceSpec spec{.tenant = "acme", .model = "m", .revision = "1", .dtype = "u8"};
    const model::Credential proof{.uid = {}, .tenant_key = "k"};
    const auto first = controller.open_namespace(spec, spec.fingerprint(), proof);
    REQUIRE(first);
    CHECK(controller.change(spec, {.uid = 3, .tenant_key = "wrong"}, {.replicas = 2}).error().code ==
          Errc::Denied);
    CHECK(controller.change(spec, proof, {.replicas = 9}).error().code == Errc::Invalid);
    REQUIRE(controller.change(spec, proof, {.replicas = 2}));
    CHECK(controller.open_namespace(spec, spec.fingerprint(), proof)->replicas == 2);
    CHECK(controller.namespaces_of("acme", {}, nullptr, 10).error().code == Errc::Denied);
    CHECK(controller.namespaces_of("acme", proof, nullptr, 10)->size() == 1);
    CHECK(controller.namespaces_of("acm", proof, nullptr, 10)->empty());

    REQUIRE(controller.change(spec, proof, {.remove = true}));
    CHECK(controller.namespaces_of("acme", proof, nullptr, 10)->empty());
    CHECK(controller.change(spec, proof, {.replicas = 2}).error().code == Errc::Invalid);
    const auto second = controller.open_namespace(spec, spec.fingerprint(), proof);
    REQUIRE(second);
    CHECK(second->namespace_id != first->namespace_id);
    CHECK(second->secret != first->secret);
}

TEST_CASE("who answers where its clients ask is late, not dead, until it has been late for too long") {
    World world;
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    CHECK(world.members.late(world.now).empty());
    for (int round = 0; round < 160; ++round) {
        world.pass(100ms);
        world.members.heard(2, 1, world.now);
        world.members.heard(2, 7, world.now);  // another run of it says nothing about this one
    }
    REQUIRE(world.members.late(world.now).size() == 1);
    CHECK(world.members.late(world.now)[0].node_id == 2);
    CHECK(world.find(2)->state == MemberState::Serving);
    for (int round = 0; round < 30; ++round) {
        world.pass(100ms);
        world.members.heard(2, 1, world.now);
    }
    CHECK(world.find(2)->state == MemberState::Down);  // a lease and LeaseTimes::busy
}

TEST_CASE("whose host says that it has ended is down at once, unless it is heard after that") {
    World world;
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    REQUIRE(world.members.join(member_of(3), 0, world.now));
    world.members.ended(2, 1, world.now);
    // A lease that somebody keeps for it cannot know better.
    REQUIRE(world.members.renew(2, 1, world.now));
    world.members.ended(3, 1, world.now);
    world.members.heard(3, 1, world.now);
    REQUIRE(world.members.renew(3, 1, world.now));
    world.pass(50ms);
    CHECK(world.find(2)->state == MemberState::Down);
    CHECK(world.find(3)->state == MemberState::Serving);
}

// Each knows of the other's change only by losing the race.
TEST_CASE("two that change one store's view at once both change it") {
    World world;
    auto other = Membership::open(world.store, world.now, 9).value();
    REQUIRE(world.members.join(member_of(2), 0, world.now));
    REQUIRE(other.join(member_of(9), 0, world.now));
    REQUIRE(world.members.change("node-2", {.weight = 5}));
    REQUIRE(other.leave(2, 1));
    REQUIRE(world.members.refresh(world.now));
    CHECK(world.find(9) != nullptr);
    CHECK(world.find(2) == nullptr);
    CHECK(world.members.view()->epoch == 5);
    CHECK(*other.view() == *world.members.view());
}
