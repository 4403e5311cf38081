#include "server_host.h"

#include <algorithm>

#include <doctest/doctest.h>

namespace cmpool::testing {

namespace {

// A block a tick: what is checked after each step sees more than the scrubber ever would.
constexpr std::uint64_t kScrubRate = 16 * KiB;

class SimProcess final : public pool::ProcessWatch::Handle {
public:
    SimProcess(std::shared_ptr<const std::set<std::int32_t>> running, std::int32_t pid)
        : running_(std::move(running)), pid_(pid) {}
    [[nodiscard]] bool alive() const noexcept override { return running_->contains(pid_); }

private:
    std::shared_ptr<const std::set<std::int32_t>> running_;
    std::int32_t pid_;
};

class DeadProcess final : public pool::ProcessWatch::Handle {
public:
    [[nodiscard]] bool alive() const noexcept override { return false; }
};

}  // namespace

std::unique_ptr<pool::ProcessWatch::Handle> SimProcesses::watch(std::int32_t pid) {
    if (lies_) return std::make_unique<DeadProcess>();
    if (!alive_->contains(pid)) return nullptr;
    return std::make_unique<SimProcess>(alive_, pid);
}

/// The controller, which sometimes takes its time. Its answers to a server that has crashed are lost.
class ServerHost::Directory final : public pool::Directory {
public:
    explicit Directory(ServerHost& host) : host_(host) {}

    void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                        const pool::Credential& credential, OpenDone done) override {
        host_.office_->open_namespace(spec, fingerprint, credential,
                                      [this, done = std::move(done)](Result<model::NamespaceRecord> record) {
                                          slowly(std::move(record), done);
                                      });
    }
    void ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) override {
        host_.office_->ask(std::move(question), uid, std::move(done));
    }
    void lane_lost(std::uint64_t node_id, std::uint64_t incarnation) override {
        if (host_.office_) host_.office_->lane_lost(node_id, incarnation);
    }
    void behind(std::uint64_t epoch) override { host_.office_->behind(epoch); }

private:
    void slowly(Result<model::NamespaceRecord> record, const OpenDone& done) {
        if (record && host_.options_.one_domain_for_all) record->domain_id = 1;
        Rng& rng = host_.world_.rng();
        if (!rng.chance(host_.options_.slow_directory)) return done(std::move(record));
        const auto most = static_cast<std::uint64_t>(host_.options_.directory_delay.count());
        const Nanos delay{static_cast<std::int64_t>(rng.below(most + 1))};
        host_.world_.at(host_.world_.clock().now() + delay,
                        [&host = host_, run = host_.run_, record = std::move(record), done]() mutable {
                            host.answered(run, done, std::move(record));
                        });
    }

    ServerHost& host_;
};

ServerHost::ServerHost(SimWorld& world, ServerOptions options, std::uint64_t seed)
    : world_(world), options_(std::move(options)), entropy_(seed) {
    if (!options_.processes) options_.processes = std::make_shared<SimProcesses>(options_.lies_about_deaths);
    auto controller = meta::Controller::open(store_, entropy_);
    REQUIRE(controller);
    controller_ = std::make_unique<meta::Controller>(*controller);
    directory_ = std::make_unique<Directory>(*this);
    world_.on_wake(options_.host, [this] { wake(); });
    start();
}

ServerHost::~ServerHost() {
    world_.on_wake(options_.host, {});
    shards_.clear();
    office_.reset();
}

void ServerHost::start() {
    auto memory = world_.open(options_.host, transport::SimProfile::Mapped);
    memory_ = options_.wrap_memory ? options_.wrap_memory(std::move(memory)) : std::move(memory);
    network_ = world_.open(options_.host, transport::SimProfile::Messages);
    one_sided_ = world_.open(options_.host, transport::SimProfile::OneSided);
    for (const auto& [fabric, address] :
         {std::pair(memory_.get(), socket()), std::pair(network_.get(), this->address()),
          std::pair(one_sided_.get(), plane_address())}) {
        auto listener = fabric->listen(address);
        REQUIRE(listener);
        listeners_.push_back(std::move(*listener));
    }
    const meta::OfficeConfig config{.self = {.incarnation = entropy_.next_u64() | 1,
                                             .name = options_.host,
                                             .address = this->address(),
                                             .host = options_.host,
                                             .zone = options_.zone},
                                    .cluster_key = options_.cluster_key,
                                    .admin_uid = {},
                                    .times = options_.times,
                                    .network = network_.get()};
    const auto open = [&] {
        if (options_.shared != nullptr) {
            shared_ = options_.shared->connect();
            *controller_ = meta::Controller::share(*shared_, entropy_, controller_->node_id());
            return meta::open_peer_office(store_, *shared_, world_.clock(), entropy_, config);
        }
        if (options_.meta.empty()) return meta::open_head_office(store_, world_.clock(), entropy_, config);
        return meta::open_branch(store_, world_.clock(), entropy_, *network_, address_of(options_.meta),
                                 config);
    };
    auto office = open();
    REQUIRE(office);
    office_ = std::move(*office);
    told_ = std::make_shared<const model::View>();
    for (std::uint32_t shard = 0; shard < options_.shards; ++shard) {
        auto server =
            pool::Server::create({.capacity_bytes = options_.capacity_bytes,
                                  .segment_bytes = 1 * MiB,
                                  .prefault = false,
                                  .near_bytes = options_.near_bytes,
                                  .node_id = office_->node_id(),
                                  .local_address = socket(),
                                  .shard = shard,
                                  .shards = options_.shards,
                                  .planes = {"sim://" + plane_address()},
                                  .one_sided = one_sided_.get(),
                                  .network = network_.get(),
                                  .repair_bytes_per_second = options_.repair_bytes_per_second,
                                  .scrub_bytes_per_second = kScrubRate},
                                 world_.clock(), entropy_, *memory_, *directory_, *options_.processes);
        REQUIRE(server);
        shards_.push_back({std::move(*server), {}});
    }
    tick(run_);
}

void ServerHost::crash() {
    if (!running()) return;
    ++run_;
    world_.crash(options_.host);
    shards_.clear();
    office_.reset();
    listeners_.clear();
    memory_.reset();
    network_.reset();
    one_sided_.reset();
}

void ServerHost::stop() {
    if (!running()) return;
    office_->leave();
    const Instant limit = world_.clock().now() + std::chrono::milliseconds(300);
    while (!office_->gone() && world_.clock().now() < limit && world_.step()) office_->progress();
    crash();
}

void ServerHost::publish() {
    for (const auto& info : office_->take_changes()) {
        for (const auto& shard : shards_) shard.server->namespace_changed(info);
    }
    if (office_->view() == told_) return;
    told_ = office_->view();
    for (const auto& shard : shards_) shard.server->set_view(told_);
}

void ServerHost::restart() {
    if (!running()) start();
}

void ServerHost::restart(std::uint32_t shards) {
    options_.shards = shards;
    restart();
}

void ServerHost::freeze(bool frozen) {
    frozen_ = frozen;
    world_.freeze(options_.host, frozen);
}

void ServerHost::wake() {
    if (!running() || frozen_) return;
    if (!meta_starves_) office_->progress();
    publish();
    for (const auto& listener : listeners_) {
        while (auto lane = listener->accept()) {
            shards_[0].peers.push_back(shards_[0].server->add(std::move(*lane)));
        }
    }
    for (bool busy = true; busy;) {
        busy = false;
        for (auto& shard : shards_) busy = serve(shard) || busy;
        publish();
    }
}

bool ServerHost::serve(Shard& shard) {
    bool busy = false;
    for (const auto id : shard.server->opened()) shard.peers.push_back(id);
    std::erase_if(shard.peers, [&](const auto id) {
        const auto served = shard.server->serve(id, wait_);
        busy = busy || served.busy;
        if (!served.moves_to) return !served.alive;
        Shard& other = shards_[*served.moves_to];
        other.peers.push_back(other.server->welcome(shard.server->give_away(id)));
        busy = true;
        return true;
    });
    return busy;
}

void ServerHost::tick(std::uint64_t run) {
    if (run != run_ || !running()) return;
    if (!frozen_) {
        for (const auto& shard : shards_) shard.server->tick();
        wake();
    }
    world_.at(world_.clock().now() + pool::kTickInterval, [this, run] { tick(run); });
}

void ServerHost::answered(std::uint64_t run, const pool::Directory::OpenDone& done,
                          Result<model::NamespaceRecord> record) {
    if (run != run_) return;
    done(std::move(record));
    wake();
}

std::string ServerHost::check_invariants() const {
    for (const auto& shard : shards_) {
        if (auto broken = shard.server->check_invariants(); !broken.empty()) return broken;
    }
    return {};
}

bool ServerHost::holds(const model::Digest& block) const {
    return std::any_of(shards_.begin(), shards_.end(),
                       [&](const Shard& shard) { return shard.server->holds(block); });
}

std::uint64_t ServerHost::stat(std::string_view name) const {
    std::uint64_t sum = 0;
    std::size_t known = 0;
    for (const auto& shard : shards_) {
        for (const auto& stat : shard.server->stats()) {
            if (stat.name != name) continue;
            ++known;
            sum += stat.value;
        }
    }
    REQUIRE_MESSAGE(known == shards_.size(), "no such statistic: ", std::string(name));
    return sum;
}

}  // namespace cmpool::testing
