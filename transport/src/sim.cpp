#include "frame.h"
#include "owned_memory.h"
#include "sim_core.h"
#include "sim_lane.h"

#include <deque>

#include <cmpool/transport/sim.h>

namespace cmpool::transport {

namespace {

constexpr Nanos kConnectTimeout = std::chrono::seconds(1);

Caps caps_of(SimProfile profile, const SimPlan& plan) {
    const bool mapped = profile == SimProfile::Mapped;
    const bool messages = profile == SimProfile::Messages;
    return {.one_sided = !messages,
            .hard_revoke = !mapped,
            .pull = mapped,
            .ordered = plan.reorder_message == 0,
            .exposes_pool = !messages,
            .map = mapped ? MapKind::Coherent : MapKind::None,
            .atomics = profile == SimProfile::OneSided ? Atomics::Device : Atomics::Cpu,
            .lane_depth = kLaneDepth,
            .op_bytes_max = kOpBytesMax,
            .head_bytes_max = kHeadBytesMax,
            .payload_bytes_max = kPayloadBytesMax};
}

class SimSegment final : public Segment {
public:
    SimSegment(SimCore& core, std::shared_ptr<SimMemory> memory, bool mapped)
        : core_(core),
          memory_(std::move(memory)),
          mapped_(mapped),
          descriptor_(describe({.kind = SegmentKind::Sim,
                                .access = memory_->access,
                                .segment = memory_->id,
                                .length = memory_->bytes.size()})) {
        core_.memories[memory_->id] = memory_;
    }
    ~SimSegment() override {
        core_.memories.erase(memory_->id);
        memory_->destroyed = true;  // who has mapped it keeps what is there
    }
    [[nodiscard]] MutableBytes bytes() noexcept override { return memory_->bytes; }
    [[nodiscard]] const Descriptor& descriptor() const noexcept override { return descriptor_; }
    [[nodiscard]] Token token() const noexcept override { return memory_->token; }
    [[nodiscard]] Revocation revoke() override {
        memory_->revoked = true;
        return mapped_ ? Revocation::Pending : Revocation::Hard;
    }
    void punch() noexcept override {
        memory_->revoked = true;
        std::fill(memory_->storage.begin(), memory_->storage.end(), 0);
    }

private:
    SimCore& core_;
    std::shared_ptr<SimMemory> memory_;
    bool mapped_;
    Descriptor descriptor_;
};

}  // namespace

/// Where simulated lanes come in.
class SimListener final : public Listener {
public:
    SimListener(SimCore& core, std::string host, std::string address, SimProfile profile, const Caps& caps)
        : core_(core), host_(std::move(host)), address_(std::move(address)), profile_(profile), caps_(caps) {
        core_.listeners[address_] = this;
    }
    ~SimListener() override {
        const auto found = core_.listeners.find(address_);
        if (found != core_.listeners.end() && found->second == this) core_.listeners.erase(found);
    }
    [[nodiscard]] Result<std::unique_ptr<Lane>> accept() override {
        if (waiting_.empty()) return fail(Errc::Again, "nobody is waiting on {}", address_);
        auto lane = std::move(waiting_.front());
        waiting_.pop_front();
        return lane;
    }
    [[nodiscard]] int event_fd() const noexcept override { return -1; }
    [[nodiscard]] const std::string& address() const noexcept override { return address_; }
    [[nodiscard]] const std::string& host() const noexcept { return host_; }

    void welcome(const std::shared_ptr<SimWire>& wire) {
        waiting_.push_back(std::make_unique<SimLane>(core_, wire, 1, caps_, profile_, wire->hosts[0]));
        core_.wake(host_);
    }

private:
    SimCore& core_;
    std::string host_;
    std::string address_;
    SimProfile profile_;
    const Caps& caps_;
    std::deque<std::unique_ptr<SimLane>> waiting_;
};

namespace {

class SimFabric final : public Fabric {
public:
    SimFabric(SimCore& core, std::string host, SimProfile profile)
        : core_(core), host_(std::move(host)), profile_(profile), caps_(caps_of(profile, core.plan)) {
        SimCore::Host& home = core_.host(host_);
        if (home.crashed) ++home.incarnation;
        home.crashed = false;
    }

    [[nodiscard]] const Caps& caps() const noexcept override { return caps_; }

    [[nodiscard]] Result<std::unique_ptr<Segment>> allocate(const SegmentSpec& spec) override {
        auto bytes = whole_pages(spec.bytes);
        if (!bytes) return fail(bytes.error());
        auto memory = draw(spec.access);
        memory->storage.resize(*bytes / sizeof(std::uint64_t));
        memory->bytes = std::as_writable_bytes(std::span(memory->storage));
        return std::make_unique<SimSegment>(core_, std::move(memory), caps_.map != MapKind::None);
    }

    [[nodiscard]] Result<std::unique_ptr<Segment>> register_memory(MutableBytes bytes,
                                                                   Access access) override {
        if (caps_.pull && access != Access::Read) {
            return fail(Errc::Unsupported, "a window into a process can only be read");
        }
        auto memory = draw(access);
        memory->bytes = bytes;
        memory->window = caps_.pull;
        return std::make_unique<SimSegment>(core_, std::move(memory), caps_.map != MapKind::None);
    }

    [[nodiscard]] Result<std::unique_ptr<Listener>> listen(std::string_view address) override {
        std::string name(address);
        if (name.empty()) return fail(Errc::Invalid, "an empty address");
        if (core_.listeners.contains(name)) {
            return fail(Errc::PeerDown, "cannot listen on {}: address in use", name);
        }
        return std::make_unique<SimListener>(core_, host_, std::move(name), profile_, caps_);
    }

    [[nodiscard]] Result<std::unique_ptr<Lane>> connect(std::string_view address) override {
        std::string name(address);
        auto wire = std::make_shared<SimWire>();
        const auto found = core_.listeners.find(name);
        const bool there = found != core_.listeners.end();
        wire->hosts = {host_, there ? found->second->host() : name};
        auto lane = std::make_unique<SimLane>(core_, wire, 0, caps_, profile_, name);
        const Instant arrives = core_.now() + core_.draw_delay();
        wire->arrived = {core_.now(), arrives};
        core_.at(arrives, [&core = core_, wire, name] { arrive(core, wire, name); });
        return lane;
    }

private:
    static void arrive(SimCore& core, const std::shared_ptr<SimWire>& wire, const std::string& name) {
        SimLane* client = wire->ends[0];
        if (client == nullptr) return;
        const auto found = core.listeners.find(name);
        const bool silent = !core.reachable(wire->hosts[0], wire->hosts[1]);
        if (!silent && found != core.listeners.end() && found->second->host() == wire->hosts[1]) {
            return found->second->welcome(wire);
        }
        const Nanos wait = silent ? kConnectTimeout : core.draw_delay();
        core.at(core.now() + wait, [wire] {
            if (SimLane* refused = wire->ends[0]; refused != nullptr) refused->end("nobody listens there");
        });
    }

    std::shared_ptr<SimMemory> draw(Access access) {
        auto memory = std::make_shared<SimMemory>();
        memory->id = core_.rng.next();
        memory->token = Token{core_.rng.next()};
        memory->access = access;
        memory->host = host_;
        memory->incarnation = core_.host(host_).incarnation;
        return memory;
    }

    SimCore& core_;
    std::string host_;
    SimProfile profile_;
    Caps caps_;
};

}  // namespace

struct SimWorld::State {
    SimCore core;
};

SimWorld::SimWorld(std::uint64_t seed, SimPlan plan) : state_(new State{SimCore{seed, plan}}) {}
SimWorld::~SimWorld() = default;

const Clock& SimWorld::clock() const noexcept { return state_->core.clock(); }
Rng& SimWorld::rng() noexcept { return state_->core.rng; }
SimPlan& SimWorld::plan() noexcept { return state_->core.plan; }

std::unique_ptr<Fabric> SimWorld::open(std::string host, SimProfile profile) {
    return std::make_unique<SimFabric>(state_->core, std::move(host), profile);
}

void SimWorld::on_wake(const std::string& host, std::function<void()> wake) {
    state_->core.host(host).wake = std::move(wake);
}
void SimWorld::at(Instant when, std::function<void()> action) { state_->core.at(when, std::move(action)); }
std::int32_t SimWorld::pid(const std::string& host) { return state_->core.pid(host); }
bool SimWorld::step() { return state_->core.step(); }
void SimWorld::run_until(Instant when) { state_->core.run_until(when); }

void SimWorld::crash(const std::string& host) {
    SimCore& core = state_->core;
    core.host(host).crashed = true;
    std::erase_if(core.listeners, [&](const auto& each) { return each.second->host() == host; });
    std::vector<SimLane*> gone;
    for (const auto& [number, lane] : core.lanes) {
        if (lane->host() == host) gone.push_back(lane);
    }
    for (SimLane* lane : gone) {
        lane->tell_peer("the peer's host crashed");
        lane->end("this host has crashed");
    }
}

void SimWorld::freeze(const std::string& host, bool frozen) { state_->core.freeze(host, frozen); }
void SimWorld::partition(const std::string& one, const std::string& other, bool cut) {
    state_->core.cut(one, other, cut);
}
void SimWorld::jump(Nanos forward) { state_->core.jump(forward); }

}  // namespace cmpool::transport
