// What is sent where when blocks lie where they do not belong: a mover between real stores, and members that
// the test plays.
#include "mover.h"

#include "fakes.h"

#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include <cmpool/base/units.h>
#include <cmpool/model/placement.h>

using namespace cmpool;
using namespace cmpool::pool;
using namespace cmpool::testing;
using namespace std::chrono_literals;
using wire::Outcome;

namespace {

constexpr std::uint32_t kSpace = 3;
constexpr std::uint32_t kGroupBlocks = 4;
constexpr std::uint64_t kBlockBytes = 1000;

/// Members as the mover sees them: what they hold, and what has been asked of them.
class FakeMembers final : public MoverLinks {
public:
    struct Asked {
        std::uint64_t id;
        std::uint64_t node;
        bool put;
        std::vector<wire::PutItem> items;
        std::vector<model::Digest> digests;
        std::uint64_t bytes = 0;
    };
    Way way(const model::Member& to, std::uint64_t, const model::NamespaceRecord&) override {
        return shut.contains(to.node_id) ? Way::Shut : Way::Open;
    }
    bool ask(const model::Member& to, std::uint64_t, std::uint64_t id, wire::Body question,
             std::span<const Bytes> payload) override {
        Asked asked{.id = id, .node = to.node_id, .put = std::holds_alternative<wire::Put>(question)};
        if (const auto* put = std::get_if<wire::Put>(&question)) {
            asked.items.assign(put->items.begin(), put->items.end());
            for (const auto& piece : payload) asked.bytes += piece.size();
            REQUIRE(payload.size() == put->items.size());
        } else {
            const auto& digests = std::get<wire::Exists>(question).digests;
            asked.digests.assign(digests.begin(), digests.end());
        }
        open.push_back(std::move(asked));
        return true;
    }
    /// Answers what is open, as members do that hold `held`.
    void answer(Mover& mover) {
        for (const auto& asked : std::exchange(open, {})) {
            std::vector<Outcome> outcomes;
            auto& there = held[asked.node];
            for (const auto& digest : asked.digests)
                outcomes.push_back(there.contains(digest) ? Outcome::Ok : Outcome::Miss);
            for (const auto& item : asked.items) {
                const bool in_group =
                    item.position > 0 && model::group_start(item.position, kGroupBlocks) != item.position;
                if (full.contains(asked.node)) {
                    outcomes.push_back(Outcome::Refused);
                } else if (in_group && !there.contains(item.parent)) {
                    outcomes.push_back(Outcome::Orphan);
                } else {
                    outcomes.push_back(there.insert(item.digest).second ? Outcome::Ok : Outcome::Present);
                }
            }
            bytes += asked.bytes;
            questions += asked.put ? 0 : 1;
            mover.answered(asked.id, wire::Outcomes{.outcomes = outcomes});
        }
    }

    std::map<std::uint64_t, std::unordered_set<model::Digest>> held;
    std::set<std::uint64_t> shut, full;
    std::vector<Asked> open;
    std::uint64_t bytes = 0, questions = 0;
};

struct Scene {
    explicit Scene(std::uint32_t replicas = 2, std::uint64_t rate = 1 * GiB)
        : store(std::make_unique<HeapSegment>(IndexWriter::table_bytes(8)), 8, 1 * MiB, 0x77, clock, quotas,
                1),
          mover(1, rate, members) {
        store.add_segment(std::make_unique<HeapSegment>(1 * MiB));
        model::NamespaceRecord space{.namespace_id = kSpace, .domain_id = 1, .replicas = replicas};
        space.spec.group_blocks = kGroupBlocks;
        mover.know(space, store);
    }
    /// A chain whose blocks are numbered from `first` on.
    void put_chain(std::uint64_t first, std::uint32_t blocks) {
        for (std::uint32_t at = 0; at < blocks; ++at) put(first + at, at, first);
    }
    void put(std::uint64_t number, std::uint32_t position, std::uint64_t first) {
        const std::uint32_t start = model::group_start(position, kGroupBlocks);
        const auto begun = store.begin({.namespace_id = kSpace,
                                        .digest = digest_of(number),
                                        .parent = position == 0 ? model::kNoParent : digest_of(number - 1),
                                        .position = position,
                                        .length = kBlockBytes,
                                        .begins_group = start == position,
                                        .group = digest_of(first + start).prefix()});
        REQUIRE_FALSE(begun.refused);
        std::ranges::fill(begun.payload, static_cast<std::byte>(number));
        REQUIRE(store.commit(begun.extent, model::checksum(begun.payload)) == Outcome::Ok);
        numbers.push_back(number);
    }
    /// A copy of a block that belongs to another.
    void put_copy(std::uint64_t number, std::uint64_t group) {
        const auto begun = store.begin({.namespace_id = kSpace,
                                        .digest = digest_of(number),
                                        .length = kBlockBytes,
                                        .group = digest_of(group).prefix(),
                                        .near = true});
        REQUIRE_FALSE(begun.refused);
        std::ranges::fill(begun.payload, static_cast<std::byte>(number));
        REQUIRE(store.commit(begun.extent, model::checksum(begun.payload)) == Outcome::Ok);
    }
    void set_view(const std::vector<std::uint64_t>& nodes,
                  std::map<std::uint64_t, model::MemberState> states = {}) {
        auto view = std::make_shared<model::View>();
        view->epoch = ++epoch;
        for (const auto node : nodes) {
            view->members.push_back(
                {.node_id = node,
                 .incarnation = incarnations.contains(node) ? incarnations[node] : 1,
                 .name = std::to_string(node),
                 .address = std::to_string(node),
                 .host = std::to_string(node),
                 .state = states.contains(node) ? states[node] : model::MemberState::Serving});
        }
        places = model::Placement(static_cast<std::uint32_t>(places.replicas()));
        places.follow(*view);
        mover.set_view(view);
    }
    void step(Nanos by = 20ms) {
        clock.advance(by);
        mover.step(clock.now());
        members.answer(mover);
    }
    void run(int steps = 200) {
        for (int left = steps; left > 0 && !mover.idle(); --left) step();
    }
    [[nodiscard]] std::vector<std::uint64_t> owners(std::uint64_t number, std::uint32_t position,
                                                    std::uint64_t first) {
        std::vector<std::uint64_t> nodes;
        const auto group = digest_of(first + model::group_start(position, kGroupBlocks)).prefix();
        (void)number;
        for (const auto seat : places.owners(group)) {
            if (seat != model::Placement::kNobody) nodes.push_back(places.member(seat).node_id);
        }
        return nodes;
    }

    TestClock clock;
    FakeMembers members;
    Quotas quotas;
    DomainStore store;
    Mover mover;
    model::Placement places{2};
    std::uint64_t epoch = 0;
    std::vector<std::uint64_t> numbers;
    std::map<std::uint64_t, std::uint64_t> incarnations;
};

TEST_CASE("each owner is sent what it lacks, parents first, and nothing else") {
    Scene scene;
    scene.put_chain(100, 30);
    scene.put_chain(200, 7);
    scene.set_view({1, 2, 3});
    CHECK(scene.mover.pending() > 0);
    scene.run();
    CHECK(scene.mover.idle());
    std::uint64_t expected = 0;
    for (const auto& [first, blocks] : {std::pair(100, 30), std::pair(200, 7)}) {
        for (std::uint32_t at = 0; at < static_cast<std::uint32_t>(blocks); ++at) {
            const auto number = static_cast<std::uint64_t>(first) + at;
            for (const auto node : scene.owners(number, at, static_cast<std::uint64_t>(first))) {
                if (node == 1) continue;
                ++expected;
                CHECK(scene.members.held[node].contains(digest_of(number)));
            }
        }
    }
    CHECK(scene.mover.counts().blocks == expected);
    CHECK(scene.members.held[2].size() + scene.members.held[3].size() == expected);
    CHECK(scene.mover.counts().bytes == expected * kBlockBytes);
    CHECK(scene.mover.holds() == 0);
}

TEST_CASE("what better-placed owners hold is theirs to send") {
    Scene scene;
    scene.put_chain(100, 40);
    scene.set_view({1, 2, 3});
    // Everybody has everything, but for one whose copies others have to bring.
    for (std::uint32_t at = 0; at < 40; ++at) scene.members.held[2].insert(digest_of(100 + at));
    scene.run();
    for (std::uint32_t at = 0; at < 40; ++at) {
        const auto owners = scene.owners(100 + at, at, 100);
        REQUIRE(owners.size() == 2);
        const bool there = scene.members.held[3].contains(digest_of(100 + at));
        const bool asked = std::ranges::find(owners, 3U) != owners.end();
        // Node 2 sends where it owns and is placed better than we are, or where we own nothing.
        const bool theirs = owners[0] == 2 || (owners[1] == 2 && owners[0] != 1);
        CAPTURE(at);
        CHECK(there == (asked && !theirs));
    }
    CHECK(scene.mover.idle());
}

TEST_CASE("a copy of what belongs to others is nobody's to send, until its owners are gone") {
    Scene scene(1);
    scene.set_view({1, 2, 3});
    scene.run();
    std::vector<std::uint64_t> twos;
    std::vector<std::uint64_t> threes;
    for (std::uint64_t number = 100; number < 140; ++number) {
        const auto owner = scene.owners(number, 0, number).front();
        if (owner == 1) continue;
        (owner == 2 ? twos : threes).push_back(number);
        scene.members.held[owner].insert(digest_of(number));
        scene.put_copy(number, number);
    }
    REQUIRE_FALSE(twos.empty());
    CHECK(scene.mover.idle());  // nobody has looked at them, nor need he

    // Somebody joins, takes some of it, and is given that by its owners.
    scene.set_view({1, 2, 3, 4});
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.members.questions == 0);
    CHECK(scene.members.bytes == 0);
    scene.set_view({1, 2, 3, 4}, {{1, model::MemberState::Draining}});
    scene.run();
    CHECK(scene.members.bytes == 0);
    scene.set_view({1, 2, 3});
    scene.run();
    const auto asked = scene.members.questions;

    // Node 2 dies: what it had goes to whoever has its place, once, and what is ours now stays.
    scene.members.held[3].insert(digest_of(twos.front()));
    scene.set_view({1, 3});
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.members.questions > asked);
    std::uint64_t kept = 0;
    for (const std::uint64_t number : twos) {
        const bool ours = scene.owners(number, 0, number).front() == 1;
        kept += ours ? 1 : 0;
        CAPTURE(number);
        CHECK(scene.members.held[3].contains(digest_of(number)) == (!ours || number == twos.front()));
        CHECK(scene.store.near(scene.store.find(digest_of(number))) == !ours);
    }
    CHECK(scene.store.counts().near_kept_blocks >= kept);
    for (const std::uint64_t number : threes) {
        if (scene.owners(number, 0, number).front() == 3)
            CHECK(scene.store.near(scene.store.find(digest_of(number))));
    }
}

TEST_CASE("who drains sends everything that any owner lacks") {
    Scene scene;
    scene.put_chain(100, 40);
    for (std::uint32_t at = 0; at < 40; ++at) scene.members.held[2].insert(digest_of(100 + at));
    scene.set_view({1, 2, 3}, {{1, model::MemberState::Draining}});
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.members.held[3].size() == 40);
    CHECK(scene.mover.drains());
}

TEST_CASE("without others, or as one that has retired, it rests") {
    Scene scene;
    scene.put_chain(100, 8);
    scene.set_view({1});
    CHECK(scene.mover.idle());
    scene.set_view({1, 2}, {{1, model::MemberState::Retired}});
    CHECK(scene.mover.idle());
    scene.set_view({2, 3});
    CHECK(scene.mover.idle());
    Scene still(2, 0);
    still.put_chain(100, 8);
    still.set_view({1, 2});
    CHECK(still.mover.idle());
}

TEST_CASE("what is used most comes first") {
    Scene scene(1);
    for (std::uint64_t chain = 0; chain < 30; ++chain) scene.put(1000 + chain * 10, 0, 1000 + chain * 10);
    for (const std::uint64_t chain : {7, 3, 21})
        scene.store.touch(scene.store.find(digest_of(1000 + chain * 10)));
    scene.set_view({1, 2}, {{1, model::MemberState::Draining}});
    scene.clock.advance(1ms);
    scene.mover.step(scene.clock.now());
    REQUIRE(scene.members.open.size() == kGroupsInHand);
    CHECK(scene.members.open[0].digests.front() == digest_of(1210));
    CHECK(scene.members.open[1].digests.front() == digest_of(1030));
    CHECK(scene.members.open[2].digests.front() == digest_of(1070));
}

TEST_CASE("it keeps to its rate, whatever the size of blocks") {
    Scene scene(2, 10'000);
    scene.put_chain(100, 100);
    scene.set_view({1, 2});
    const std::uint64_t all = 100 * kBlockBytes;
    double seconds = 0;
    while (!scene.mover.idle()) {
        scene.step(20ms);
        seconds += 0.02;
        // A tenth of a second ahead, and what was sent by the last message.
        CHECK(static_cast<double>(scene.members.bytes) <=
              10'000 * (seconds + 0.1) + kGroupBlocks * kBlockBytes);
        REQUIRE(seconds < 60);
    }
    CHECK(scene.members.bytes == all);
    CHECK(seconds > 8);
}

TEST_CASE("an owner that cannot be reached is tried again, and holds up nobody else") {
    Scene scene;
    scene.put_chain(100, 40);
    scene.set_view({1, 2, 3});
    scene.members.shut.insert(2);
    for (int step = 0; step < 30; ++step) scene.step();
    CHECK(scene.mover.pending() > 0);
    CHECK(scene.mover.counts().failures > 0);
    const auto others = scene.members.held[3].size();
    CHECK(others > 0);
    scene.members.shut.clear();
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.members.held[2].size() > 0);
    CHECK(scene.members.held[3].size() == others);
}

TEST_CASE("who has no room is not asked for ever") {
    Scene scene(1);
    scene.put_chain(100, 20);
    scene.members.full.insert(2);
    scene.set_view({1, 2}, {{1, model::MemberState::Draining}});
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.mover.counts().refused_blocks > 0);
    CHECK(scene.mover.counts().blocks == 0);
}

TEST_CASE("a lost answer frees what was on its way, and a view that comes meanwhile begins anew") {
    Scene scene;
    scene.put_chain(100, 20);
    scene.set_view({1, 2});
    scene.step();
    scene.clock.advance(20ms);
    scene.mover.step(scene.clock.now());
    CHECK(scene.mover.holds() > 0);
    for (const auto& asked : std::exchange(scene.members.open, {})) scene.mover.lost(asked.id);
    CHECK(scene.mover.holds() == 0);
    CHECK(scene.store.holds() == 0);
    scene.set_view({1, 2, 3});
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.store.holds() == 0);
}

TEST_CASE("blocks that come into a group in hand are not forgotten") {
    Scene scene(1);
    scene.put_chain(100, 3);
    scene.set_view({1, 2}, {{1, model::MemberState::Draining}});
    scene.clock.advance(20ms);
    scene.mover.step(scene.clock.now());  // asks for three blocks
    scene.put(103, 3, 100);
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.members.held[2].size() == 4);
}

// The parent is known by few bits of its digest: brothers at one position are told apart.
TEST_CASE("chains that part inside a group keep their parents") {
    Scene scene(2);
    scene.put(100, 0, 100);
    scene.put(101, 1, 100);
    const auto put_child = [&](std::uint64_t number, std::uint64_t parent, std::uint32_t position) {
        const auto begun = scene.store.begin({.namespace_id = kSpace,
                                              .digest = digest_of(number),
                                              .parent = digest_of(parent),
                                              .position = position,
                                              .length = kBlockBytes,
                                              .begins_group = false,
                                              .group = digest_of(101).prefix()});
        REQUIRE_FALSE(begun.refused);
        REQUIRE(scene.store.commit(begun.extent, model::checksum(begun.payload)) == Outcome::Ok);
    };
    for (std::uint64_t brother = 0; brother < 20; ++brother) put_child(200 + brother, 101, 2);
    for (std::uint64_t brother = 0; brother < 20; ++brother) put_child(300 + brother, 200 + brother, 3);
    scene.set_view({1, 2});
    std::unordered_map<model::Digest, model::Digest> parents;
    for (int step = 0; step < 50 && !scene.mover.idle(); ++step) {
        scene.clock.advance(20ms);
        scene.mover.step(scene.clock.now());
        for (const auto& asked : scene.members.open) {
            for (const auto& item : asked.items) parents[item.digest] = item.parent;
        }
        scene.members.answer(scene.mover);
    }
    for (std::uint64_t brother = 0; brother < 20; ++brother)
        CHECK(parents.at(digest_of(300 + brother)) == digest_of(200 + brother));
    CHECK(scene.members.held[2].size() == 42);
}

TEST_CASE("a view change asks only about groups whose owners change") {
    Scene scene;
    constexpr std::uint32_t kBlocks = 200;
    scene.put_chain(1000, kBlocks);
    scene.set_view({1, 2, 3, 4, 5});
    scene.run();
    REQUIRE(scene.mover.idle());
    const auto owners = [&] {
        std::vector<std::vector<std::uint64_t>> all;
        for (std::uint32_t at = 0; at < kBlocks; ++at)
            if (model::group_start(at, kGroupBlocks) == at) all.push_back(scene.owners(1000 + at, at, 1000));
        return all;
    };
    const auto others_of = [](const std::vector<std::uint64_t>& group) {
        return static_cast<std::uint64_t>(std::ranges::count_if(group, [](auto node) { return node != 1; }));
    };
    const auto before = owners();
    scene.members.questions = 0;
    scene.set_view({1, 2, 3, 4, 5, 6});
    scene.run();
    REQUIRE(scene.mover.idle());
    const auto after = owners();
    std::uint64_t changed = 0, expected = 0;
    for (std::size_t group = 0; group < after.size(); ++group) {
        if (before[group] == after[group]) continue;
        ++changed;
        expected += others_of(after[group]);
    }
    CHECK(changed > 0);
    CHECK(changed < after.size() / 2);
    CHECK(scene.members.questions == expected);
    // What we are the best-placed owner of is ours to send.
    std::uint64_t sent = 0;
    for (std::uint32_t at = 0; at < kBlocks; ++at) {
        const auto now = scene.owners(1000 + at, at, 1000);
        if (now[0] != 1) continue;
        CHECK(scene.members.held[now[1]].contains(digest_of(1000 + at)));
        sent += now[1] == 6 ? 1 : 0;
    }
    CHECK(sent > 0);
}

// Its memory is empty, though its name and its share are what they were.
TEST_CASE("who comes back in another run is asked about all that it owns") {
    Scene scene;
    scene.put_chain(100, 40);
    scene.set_view({1, 2, 3});
    scene.run();
    scene.members.held[2].clear();
    scene.incarnations[2] = 2;
    scene.set_view({1, 2, 3});
    scene.run();
    CHECK(scene.mover.idle());
    std::uint64_t brought = 0;
    for (std::uint32_t at = 0; at < 40; ++at) {
        const auto owners = scene.owners(100 + at, at, 100);
        if (owners[0] != 1 || owners[1] != 2) continue;
        CHECK(scene.members.held[2].contains(digest_of(100 + at)));
        ++brought;
    }
    CHECK(brought > 0);
}

TEST_CASE("what had not been seen to when a view came is asked about in the next one") {
    Scene scene;
    scene.put_chain(100, 40);
    scene.members.shut = {2, 3};
    scene.set_view({1, 2, 3});
    scene.run(5);
    CHECK(scene.mover.pending() > 0);
    scene.set_view({1, 2, 3});
    scene.members.shut.clear();
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.members.held[2].size() + scene.members.held[3].size() > 0);
    CHECK(scene.members.questions > 0);
}

TEST_CASE("another number of replicas starts a repair of that namespace, and asks about no other") {
    Scene scene(1);
    scene.put_chain(100, 40);
    scene.set_view({1, 2});
    scene.run();
    REQUIRE(scene.mover.idle());
    const auto had = scene.members.held[2].size();
    CHECK(had < 40);
    scene.mover.set_replicas(kSpace + 1, 2);
    CHECK(scene.mover.idle());
    scene.mover.set_replicas(kSpace, 2);
    CHECK(scene.mover.pending() > 0);
    scene.run();
    CHECK(scene.mover.idle());
    CHECK(scene.members.held[2].size() == 40);
}

}  // namespace
