#include "sim_cluster.h"

#include <algorithm>

#include <doctest/doctest.h>

namespace cmpool::testing {

using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kInvariantsEvery = 16;
constexpr std::uint64_t kLeaseMsMax = 300;
/// Time for the last leases to end, and for the slowest retry of a client.
constexpr Nanos kCalm = 3s;
constexpr std::uint64_t kStepsMax = 400'000;

Rng scene_rng(std::uint64_t seed) { return Rng(seed * 2 + 1); }

}  // namespace

Scene Scene::kind(std::uint64_t seed) {
    Rng rng = scene_rng(seed);
    Scene scene;
    scene.expectations.no_faults = true;
    scene.clients = 2 + rng.below(3);
    scene.server.slow_directory = 0.5;
    scene.server.directory_delay = 5ms;
    if (rng.chance(0.5)) {
        // Room for everything that anybody could put.
        scene.expectations.ample = true;
        scene.removes = false;
        scene.universe.block_bytes_max = 24 * KiB;
        scene.universe.chains = 4;
        scene.server.capacity_bytes = 8 * MiB;
    } else {
        // Each of the two tenants can have a segment.
        scene.server.capacity_bytes = (2 + rng.below(3)) * MiB;
    }
    return scene;
}

Scene Scene::draw(std::uint64_t seed) {
    Scene scene = kind(seed);
    Rng rng = scene_rng(~seed);
    scene.universe.sealed = seed % 3 == 0;
    if (rng.chance(0.4)) {
        scene.members = 2 + rng.below(3);
        scene.replicas = 1 + static_cast<std::uint32_t>(rng.below(2));
        scene.server.times = {.lease = 200ms, .grace = 40ms};
        // So many that each is read from where it lies, and so few that they make way for each other.
        scene.spread = seed / 4 % 4 > 0;
        scene.server.near_bytes = (seed / 4 % 4) * 192 * KiB;
    }
    if (rng.chance(0.3)) scene.server.shards = 2 + static_cast<std::uint32_t>(rng.below(2));
    if (rng.chance(0.25)) return scene;
    scene.expectations = {};
    scene.removes = rng.chance(0.5);
    const auto sometimes = [&](double most) {
        return rng.chance(0.5) ? most * static_cast<double>(rng.below(1000)) / 1000 : 0;
    };
    scene.plan.lose_message = sometimes(0.02);
    scene.plan.reorder_message = sometimes(0.3);
    scene.plan.delay_long = sometimes(0.05);
    scene.plan.break_lane = sometimes(0.01);
    if (rng.chance(0.3)) scene.plan.delay_max = 500us;
    scene.faults = rng.below(5);
    return scene;
}

struct SimCluster::Engine {
    Engine(SimWorld& world, ServerHost& server, const std::string& name, Space& its_space,
           const ClientHost::Options& options)
        : space(its_space), client(world, server, name, its_space.spec, options) {}
    Space& space;
    ClientHost client;
};

SimCluster::SimCluster(std::uint64_t seed, Scene scene)
    : seed_(seed),
      scene_(std::move(scene)),
      rng_(seed ^ 0x5eed),
      world_(seed, scene_.plan),
      history_(world_, scene_.expectations) {
    auto options = scene_.server;
    options.processes = std::make_shared<SimProcesses>(options.lies_about_deaths);
    for (std::size_t number = 0; number < scene_.members; ++number) {
        if (number > 0) {
            options.host = fmt::format("{}-{}", kPoolHost, number);
            options.meta = kPoolHost;
        }
        servers_.push_back(std::make_unique<ServerHost>(world_, options, seed + 1 + number * 1000));
    }
    for (std::size_t number = 0; number < scene_.spaces; ++number) {
        spaces_.push_back(draw_space(server().controller(), rng_, number < 2 ? "one" : "two",
                                     "r" + std::to_string(number), scene_.universe));
        const Space& space = spaces_.back();
        const model::Credential proof{.uid = {}, .tenant_key = space.tenant_key};
        REQUIRE(server().controller().change(space.spec, proof, {.replicas = scene_.replicas}));
    }
}

SimCluster::~SimCluster() = default;

// ---- running ----

bool SimCluster::step() {
    if (!history_.wrong().empty() || !world_.step()) return false;
    ++steps_;
    history_.check();
    for (const auto& each : servers_) {
        if (steps_ % kInvariantsEvery != 0 || !each->running()) continue;
        if (auto broken = each->check_invariants(); !broken.empty()) history_.blame(broken);
    }
    if (steps_ == kStepsMax) history_.blame("the world does not come to rest");
    return history_.wrong().empty();
}

bool SimCluster::run_until(Instant when) {
    bool reached = false;
    world_.at(when, [&reached] { reached = true; });
    while (!reached) {
        if (!step()) return false;
    }
    return true;
}

std::string SimCluster::run() {
    gather();
    for (std::size_t number = 0; number < scene_.clients; ++number) hire();
    plan_faults();
    if (run_until(world_.clock().now() + scene_.length)) settle();
    if (history_.wrong().empty()) return {};
    return fmt::format("step {}, at {} us: {}", steps_, world_.clock().now().ns / 1000, history_.wrong());
}

// Everybody is there before anybody begins: what joins later takes blocks from the others.
void SimCluster::gather() {
    const Instant limit = world_.clock().now() + kCalm;
    const auto complete = [&](const auto& each) { return each->view().members.size() == scene_.members; };
    while (!std::all_of(servers_.begin(), servers_.end(), complete) && world_.clock().now() < limit &&
           step()) {
    }
}

// Some time after the last fault all know of the same cluster, and everybody serves in it.
void SimCluster::check_agreement() {
    for (const auto& each : servers_) {
        const auto& view = each->view();
        if (view != server().view())
            return history_.blame(fmt::format("{} knows epoch {}, {} knows {}", each->host(), view.epoch,
                                              server().host(), server().view().epoch));
        const auto serving = std::count_if(view.members.begin(), view.members.end(),
                                           [](const auto& member) { return member.owns(); });
        if (static_cast<std::size_t>(serving) != scene_.members)
            return history_.blame(
                fmt::format("{} of {} members serve after all faults", serving, scene_.members));
    }
}

// Faults have stopped: all calls end, all leases end, and everybody who lives can work again.
void SimCluster::settle() {
    over_ = true;
    heal();
    const Instant now = world_.clock().now();
    if (!run_until(now + 1s)) return;
    if (!history_.idle()) return history_.blame("calls are under way long after their deadlines");
    history_.release_all();
    if (!run_until(now + kCalm)) return;
    check_agreement();
    prove_life();
    if (history_.wrong().empty() && run_until(world_.clock().now() + 500ms)) check_left_over();
}

// One after the other: under pressure one's put may cost another's block.
void SimCluster::prove_life() {
    for (const auto& engine : engines_) {
        if (!engine->client.alive()) continue;
        if (!engine->client.ready()) {
            const auto status = engine->client.pool().status();
            return history_.blame(fmt::format("{} is not ready again: {}", engine->client.name(),
                                              status.trouble ? status.trouble->detail : "no reason"));
        }
        history_.expect_stored(engine->client, engine->space, engine->space.opaque.front());
        if (!run_until(world_.clock().now() + 30ms)) return;
    }
}

void SimCluster::check_left_over() {
    std::uint64_t pages_seen = 0;
    for (const auto& each : servers_) {
        if (auto broken = each->check_invariants(); !broken.empty()) return history_.blame(broken);
        for (const char* name : {"leases", "leased_bytes", "doomed_bytes", "writing_bytes"}) {
            if (const auto left = each->stat(name); left != 0)
                history_.blame(fmt::format("{} {} are left over at {}", left, name, each->host()));
        }
        pages_seen += each->stat("client_pages");
    }
    std::uint64_t pages = 0;
    for (const auto& engine : engines_) {
        if (engine->client.alive()) pages += engine->client.pool().status().shards_mapped;
    }
    if (pages_seen != pages)
        history_.blame(fmt::format("{} pages for {} shards that clients map", pages_seen, pages));
}

// ---- what clients do ----

SimCluster::Engine& SimCluster::hire() {
    const std::size_t number = engines_.size();
    ClientHost::Options options{.mapped = rng_.chance(0.6)};
    ServerHost& nearest = scene_.spread ? any_server() : server();
    options.one_host = options.mapped && scene_.spread;
    if (&nearest != &server()) options.others = {server().address()};
    options.one_sided = !options.mapped && (seed_ + number) % 2 == 0;
    Space& space = spaces_[rng_.below(spaces_.size())];
    options.tenant_key = space.tenant_key;
    engines_.push_back(
        std::make_unique<Engine>(world_, nearest, "engine-" + std::to_string(number), space, options));
    after(draw(2ms), [this, number] { act(number); });
    return *engines_.back();
}

void SimCluster::act(std::size_t number) {
    Engine& engine = *engines_[number];
    if (over_ || !engine.client.alive()) return;
    if (!engine.client.frozen()) call(engine);
    after(draw(rng_.chance(0.3) ? 50us : 12ms), [this, number] { act(number); });
}

std::vector<std::size_t> SimCluster::draw_blocks(const Space& space) {
    if (rng_.chance(0.7)) return space.chains[rng_.below(space.chains.size())];
    std::vector<std::size_t> blocks;
    for (const std::size_t block : space.opaque) {
        if (rng_.chance(0.25)) blocks.push_back(block);
    }
    return blocks;
}

void SimCluster::call(Engine& engine) {
    Space& own = engine.space;
    // Now and then, keys of somebody who shares no memory with us.
    Space* named = &own;
    if (rng_.chance(0.05)) {
        Space& other = spaces_[rng_.below(spaces_.size())];
        if (other.spec.tenant != own.spec.tenant) named = &other;
    }
    auto blocks = draw_blocks(*named);
    const std::uint64_t what = rng_.below(100);
    const auto lease_ms = static_cast<std::uint32_t>(1 + rng_.below(kLeaseMsMax));
    const Nanos keep = rng_.chance(0.2) ? Nanos(500ms) : draw(40ms);
    if (what < 35) {
        history_.put(engine.client, own, named == &own ? std::move(blocks) : draw_blocks(own),
                     rng_.chance(0.2));
    } else if (what < 60) {
        history_.match(engine.client, own, *named, blocks, rng_.chance(0.1) ? 0 : lease_ms, keep);
        if (rng_.chance(0.5)) history_.get(engine.client, own, *named, std::move(blocks), false, 1);
    } else if (what < 90) {
        history_.get(engine.client, own, *named, std::move(blocks), rng_.chance(0.2), 1 + rng_.below(3),
                     rng_.chance(0.05) ? 1 + rng_.below(100) : 0,
                     rng_.chance(0.3) ? 1 + rng_.below(1'000'000) : 0);
    } else if (what < 96 || !scene_.removes) {
        history_.exists(engine.client, own, *named, std::move(blocks));
    } else {
        history_.remove(engine.client, own, draw_blocks(own));
    }
}

// ---- what befalls them ----

void SimCluster::after(Nanos delay, std::function<void()> action) {
    world_.at(world_.clock().now() + delay, std::move(action));
}

Nanos SimCluster::draw(Nanos most) {
    return Nanos(static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(most.count()) + 1)));
}

// Long enough, now and then, for a lease to end.
Nanos SimCluster::long_or(Nanos lasts) {
    return scene_.members > 1 && rng_.chance(0.5) ? lasts + scene_.server.times.lease : lasts;
}

void SimCluster::plan_faults() {
    for (std::size_t number = 0; number < scene_.faults; ++number)
        after(draw(scene_.length), [this] { fault(); });
}

SimCluster::Engine* SimCluster::somebody() {
    std::vector<Engine*> there;
    for (const auto& engine : engines_) {
        if (engine->client.acts()) there.push_back(engine.get());
    }
    return there.empty() ? nullptr : there[rng_.below(there.size())];
}

void SimCluster::fault() {
    if (over_) return;
    const Nanos lasts = draw(rng_.chance(0.5) ? 15ms : 250ms);
    Engine* victim = somebody();
    switch (rng_.below(scene_.members > 1 ? 7 : 6)) {
        case 0:  // a death, and somebody new
            if (victim == nullptr) return;
            victim->client.crash();
            hire();
            return;
        case 1:
            if (victim == nullptr) return;
            victim->client.freeze(true);
            return after(lasts, [victim] { victim->client.freeze(false); });
        case 2: {
            ServerHost& server = any_server();
            server.freeze(true);
            return after(long_or(lasts), [&server] { server.freeze(false); });
        }
        case 3: {
            ServerHost& server = any_server();
            server.crash();
            return after(long_or(lasts), [&server] { server.restart(); });
        }
        case 4: {
            // No wire lies between a process and the memory of its own host.
            const std::string one = any_server().host();
            std::string other = any_server().host();
            if (one == other || rng_.chance(0.5)) {
                if (victim == nullptr || victim->client.mapped()) return;
                other = victim->client.name();
            }
            world_.partition(other, one, true);
            return after(long_or(lasts), [this, one, other] { world_.partition(other, one, false); });
        }
        case 6: {
            const std::string host = any_server().host();
            set_state(host, model::MemberState::Draining);
            return after(long_or(lasts), [this, host] { set_state(host, model::MemberState::Serving); });
        }
        default:
            for (const auto& engine : engines_) engine->client.excuse(lasts);
            return world_.jump(lasts);
    }
}

// Of one that meta knows, if meta is there.
void SimCluster::set_state(const std::string& host, model::MemberState state) {
    if (!server().running() || server().frozen()) return;
    server().office().ask(wire::ChangeMember{.member = host, .state = state}, {},
                          [](const Result<wire::Body>&) {});
}

void SimCluster::heal() {
    auto& plan = world_.plan();
    plan.lose_message = plan.reorder_message = plan.delay_long = plan.break_lane = 0;
    for (const auto& each : servers_) {
        each->freeze(false);
        each->restart();
        for (const auto& other : servers_) world_.partition(each->host(), other->host(), false);
    }
    for (const auto& each : servers_) set_state(each->host(), model::MemberState::Serving);
    for (const auto& engine : engines_) {
        if (!engine->client.alive()) continue;
        engine->client.freeze(false);
        for (const auto& each : servers_) world_.partition(engine->client.name(), each->host(), false);
    }
}

}  // namespace cmpool::testing
