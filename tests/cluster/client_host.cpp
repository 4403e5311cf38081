#include "client_host.h"

#include <doctest/doctest.h>

namespace cmpool::testing {

namespace {

constexpr std::chrono::milliseconds kExcuse{1};

// The world's clock, for an interface that shares ownership.
std::shared_ptr<const Clock> borrow(const Clock& clock) { return {std::shared_ptr<void>(), &clock}; }

/// Lanes to one server only: the others are on other hosts.
class OneHost final : public transport::Fabric {
public:
    OneHost(std::unique_ptr<transport::Fabric> all, std::string socket)
        : all_(std::move(all)), socket_(std::move(socket)) {}
    [[nodiscard]] const transport::Caps& caps() const noexcept override { return all_->caps(); }
    Result<std::unique_ptr<transport::Segment>> allocate(const transport::SegmentSpec& spec) override {
        return all_->allocate(spec);
    }
    Result<std::unique_ptr<transport::Segment>> register_memory(MutableBytes memory,
                                                                transport::Access access) override {
        return all_->register_memory(memory, access);
    }
    Result<std::unique_ptr<transport::Listener>> listen(std::string_view address) override {
        return all_->listen(address);
    }
    Result<std::unique_ptr<transport::Lane>> connect(std::string_view address) override {
        if (address != socket_) return fail(Errc::PeerDown, "{} is on another host", address);
        return all_->connect(address);
    }

private:
    std::unique_ptr<transport::Fabric> all_;
    std::string socket_;
};

}  // namespace

ClientHost::ClientHost(SimWorld& world, ServerHost& server, std::string name,
                       const model::NamespaceSpec& spec, const Options& options)
    : world_(world),
      server_(server),
      name_(std::move(name)),
      mapped_(options.mapped),
      deadline_(options.deadline) {
    server_.processes().born(world_.pid(name_));
    client::Environment environment;
    environment.clock = borrow(world_.clock());
    environment.entropy = std::make_shared<SeededEntropy>(world_.rng().next());
    environment.network = world_.open(name_, transport::SimProfile::Messages);
    if (mapped_) environment.local = world_.open(name_, transport::SimProfile::Mapped);
    if (mapped_ && options.one_host) {
        environment.local =
            std::make_shared<OneHost>(world_.open(name_, transport::SimProfile::Mapped), server_.socket());
    }
    if (options.one_sided) environment.planes = std::make_shared<SimPlanes>(world_, name_);
    client::PoolUri uri;
    uri.address = server_.address();
    uri.others = options.others;
    uri.deadline = options.deadline;
    uri.tenant_key = options.tenant_key;
    if (spec.sealed) uri.seal_key.emplace().fill(std::byte{42});
    auto opened = client::PoolClient::open_in(environment, uri, spec);
    REQUIRE(opened);
    client_ = std::move(*opened);
    world_.on_wake(name_, [this] { progress(); });
    arm();
}

ClientHost::~ClientHost() {
    *here_ = false;
    world_.on_wake(name_, {});
}

void ClientHost::progress() {
    if (!acts()) return;
    client_->progress();
    arm();
}

void ClientHost::arm() {
    const Instant next = client_->next_deadline();
    const Instant now = world_.clock().now();
    if (next == Instant::never() || (armed_ <= next && armed_ > now)) return;
    armed_ = std::max(next, now);
    world_.at(armed_, [this, here = here_, when = armed_] {
        if (!*here || armed_ != when) return;
        armed_ = Instant::never();
        progress();
    });
}

void ClientHost::excuse(Nanos leap) { excused_until_ = world_.clock().now() + leap + kExcuse; }

void ClientHost::crash() {
    if (!alive_) return;
    alive_ = false;
    server_.processes().died(world_.pid(name_));
    world_.crash(name_);
}

void ClientHost::freeze(bool frozen) {
    if (!alive_) return;
    frozen_ = frozen;
    world_.freeze(name_, frozen);
    if (frozen) return;
    excuse();
    world_.at(world_.clock().now(), [this, here = here_] {
        if (*here) progress();
    });
}

}  // namespace cmpool::testing
