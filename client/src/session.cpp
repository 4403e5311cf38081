#include "session.h"

#include "seal.h"

#include <algorithm>

namespace cmpool::client {
namespace {

/// Import cookies carry this bit, so that no send has the same.
constexpr std::uint64_t kImportBit = std::uint64_t{1} << 63;
/// Lanes that only send and receive are quiet at once; this bounds what must not happen.
constexpr std::chrono::milliseconds kQuiesceLimit{10};

NamespaceSpec for_tenant(NamespaceSpec spec, const std::string& tenant) {
    if (!tenant.empty()) spec.tenant = tenant;
    return spec;
}

bool permanent(Errc code) { return code == Errc::Denied || code == Errc::Mismatch || code == Errc::Invalid; }

}  // namespace

Session::Session(Environment environment, PoolUri uri, NamespaceSpec spec, std::uint32_t shard,
                 std::shared_ptr<ViewBook> book)
    : environment_(std::move(environment)),
      uri_(std::move(uri)),
      spec_(for_tenant(std::move(spec), uri_.tenant)),
      shard_(shard),
      book_(std::move(book)),
      reader_(environment_, uri_, spec_, shard_) {}

Session::~Session() {
    if (lane_) (void)lane_->quiesce(kQuiesceLimit);
    if (local_) (void)local_->quiesce(kQuiesceLimit);
}

void Session::add_lanes(std::vector<transport::Lane*>& lanes) const {
    if (lane_) lanes.push_back(lane_.get());
    if (local_) lanes.push_back(local_.get());
    reader_.add_lanes(lanes);
}

void Session::close() {
    down({{Errc::PeerDown, fmt::format("{} has no shard {} any more", uri_.address, shard_)}, true});
}

// ---- going on ----

void Session::progress() {
    const Instant now = environment_.clock->now();
    pump(lane_);
    pump(local_);
    if (local_failure_) give_up_local(*std::exchange(local_failure_, std::nullopt));
    if (state_ != State::Down && state_ != State::Ready && now >= attempt_ends_) {
        fail_lane({Errc::Deadline, fmt::format("{} accepts connections but does not answer", uri_.address)});
    }
    settle_failure();
    if (state_ == State::Down && !refused_ && (!breaker_.open() || breaker_.due(now))) connect();
    if (state_ == State::Ready && breaker_.due(now)) probe();
    if (imports_started_ < imports_.size()) start_imports();
    tell_given_back();
    flush();
    reader_.progress();
}

Instant Session::next_deadline() const noexcept {
    // Nobody has looked at it yet: it has still to connect.
    if (state_ == State::Down && !refused_ && !breaker_.open()) return Instant{};
    if (!given_back_.empty()) return Instant{};
    if (state_ == State::Down || state_ == State::Ready)
        return refused_ ? Instant::never() : std::min(breaker_.retry_at(), reader_.next_deadline());
    return attempt_ends_;
}

void Session::pump(std::unique_ptr<transport::Lane>& lane) {
    // A handler may replace or drop the lane that it was called from: the pointer is looked at anew.
    for (const transport::Lane* current = lane.get();
         current != nullptr && lane.get() == current && !failure_;) {
        const auto received = lane->receive(*this);
        if (!received && current == local_.get()) local_failure_ = received.error().detail;
        if (!received && current == lane_.get()) fail_lane(received.error());

        if (lane == nullptr || lane.get() != current) return;
        const std::size_t count = lane->poll(done_);
        for (std::size_t index = 0; index < count && lane.get() == current; ++index)
            completed(*lane, done_[index]);
        if ((!received || *received == 0) && count < done_.size()) return;
    }
}

void Session::completed(const transport::Lane& lane, const transport::Completion& done) {
    // The local lane has sent nothing but a greeting: without it there is still the network.
    if (&lane == local_.get()) {
        if (done.error) local_failure_ = "the local socket does not take a greeting";
        return;
    }
    if (done.kind == transport::OpKind::Import) {
        auto& import = imports_.at(done.cookie & ~kImportBit);
        if (done.error) {
            import.refused = *done.error;
        } else {
            import.segment = lane_->imported(done.cookie);
        }
        if (++imports_ended_ == imports_.size()) imports_done();
        return;
    }
    sending_.erase(done.cookie);
    if (done.error) fail_lane({*done.error, fmt::format("sending to {} failed", uri_.address)});
}

// ---- connecting ----

void Session::connect() {
    const Instant now = environment_.clock->now();
    attempt_ends_ = now + std::max<Nanos>(uri_.deadline, kConnectDeadline);
    auto lane = environment_.network->connect(uri_.address);
    if (!lane) return down({lane.error(), lane.error().code == Errc::Invalid});

    lane_ = std::move(*lane);
    state_ = State::Greeting;
    greet(*lane_);
    pump(lane_);
    settle_failure();
}

// A handler runs inside its lane's receive(), where the lane must not end: it says so here, and
// whoever called receive() ends it.
void Session::fail_lane(Error why, bool refused) {
    if (!failure_) failure_ = Failure{std::move(why), refused};
}

void Session::settle_failure() {
    if (failure_) down(*std::exchange(failure_, std::nullopt));
}

std::uint64_t Session::send_own(transport::Lane& lane, wire::Body body) {
    const std::uint64_t id = next_id_++;
    const Bytes head =
        encoder_.encode({.request_id = id, .epoch = book_->view.epoch, .body = std::move(body)});
    const transport::Op op{.kind = transport::OpKind::Send, .signal = false, .head = head};
    // A lane that is broken says so at the next receive(); one that is full is no lane for us.
    const auto posted = lane.post({&op, 1});
    if (!posted && &lane == local_.get()) local_failure_ = posted.error().detail;
    if (!posted && &lane == lane_.get()) fail_lane(posted.error());
    return id;
}

void Session::greet(transport::Lane& lane) {
    handshake_id_ = send_own(lane, wire::Hello{.client = "libcmpool", .shard = shard_});
}

void Session::down(const Failure& failure) {
    // A lane that is quiet touches no buffer any more, so whoever is told now may have them back.
    if (lane_) (void)lane_->quiesce(kQuiesceLimit);
    if (local_) (void)local_->quiesce(kQuiesceLimit);
    lane_.reset();
    local_.reset();
    failure_.reset();
    local_failure_.reset();
    arriving_.reset();
    early_view_.reset();
    state_ = State::Down;
    refused_ = failure.refused;
    trouble_ = failure.why;

    breaker_.trip(environment_.clock->now());
    attachment_.reset();
    forget_imports();
    sending_.clear();
    unsent_.clear();
    given_back_.clear();
    landing_ = 0;
    const auto requests = std::exchange(requests_, {});
    for (const auto& [id, request] : requests) {
        request.asker->lost(request.part, failure.why);
    }
    refreshed(failure.why);
    reader_.withdraw(failure.why);
}

void Session::handshake(transport::Lane& lane, const wire::Body& body) {
    if (const auto* failed = std::get_if<wire::Failed>(&body)) {
        if (state_ == State::GreetingLocal) return void(local_failure_ = failed->detail);

        if (state_ == State::Attaching) {
            plane_ = fmt::format("shm, by messages only: {}", failed->detail);
            return become_ready();
        }
        if (state_ == State::Ready) return refreshed(Error{failed->code, failed->detail});
        return fail_lane({failed->code, failed->detail}, permanent(failed->code));
    }
    if (const auto* welcome = std::get_if<wire::Welcome>(&body)) return welcomed(lane, *welcome);
    if (const auto* open = std::get_if<wire::NamespaceOpened>(&body); open && state_ == State::Opening) {
        return opened(*open);
    }
    const bool asked = state_ == State::Attaching || state_ == State::Ready;
    if (const auto* memory = std::get_if<wire::Attached>(&body); memory && asked) return attached(*memory);
    if (probing_) return;
    fail_lane(
        {Errc::Corrupt, fmt::format("{} answered with an unexpected {}", uri_.address, wire::name_of(body))});
}

void Session::welcomed(transport::Lane& lane, const wire::Welcome& welcome) {
    if (welcome.protocol != wire::kProtocolVersion) {
        return fail_lane(
            {Errc::Mismatch,
             fmt::format("this client speaks protocol {}, {} speaks {} (cmpool {})", wire::kProtocolVersion,
                         uri_.address, welcome.protocol, welcome.version)},
            true);
    }
    if (state_ == State::Greeting) {
        server_ = welcome;
        if (early_view_) book_->offer(*std::exchange(early_view_, std::nullopt));
        return try_local(welcome);
    }
    if (state_ != State::GreetingLocal || &lane != local_.get()) return;
    // Only the same run of the same server is worth a change of lane.
    if (welcome.incarnation != server_.incarnation) {
        return void(local_failure_ = "another server answers on the local socket");
    }

    std::swap(lane_, local_);
    (void)local_->quiesce(kQuiesceLimit);
    local_.reset();
    plane_ = "shm: the pool is on this host";
    open_namespace();
}

void Session::try_local(const wire::Welcome& welcome) {
    if (uri_.transport == Transport::Tcp) return give_up_local("asked for by the URI");
    if (!uri_.kv.empty()) return give_up_local(fmt::format("the URI asks for kv={}", uri_.kv));
    if (environment_.local == nullptr) return give_up_local("this client has no shared memory");
    if (welcome.local_address.empty()) return give_up_local("the pool offers no local socket");
    auto lane = environment_.local->connect(welcome.local_address);
    if (!lane) return give_up_local(lane.error().detail);
    local_ = std::move(*lane);
    state_ = State::GreetingLocal;
    greet(*local_);
}

void Session::give_up_local(std::string why) {
    if (local_) (void)local_->quiesce(kQuiesceLimit);
    local_.reset();
    plane_ = fmt::format("tcp: {}", why);
    if (uri_.transport == Transport::Shm) {
        return fail_lane({Errc::Unsupported, fmt::format("transport=shm, but {}", why)});
    }
    open_namespace();
}

void Session::open_namespace() {
    state_ = State::Opening;
    handshake_id_ = send_own(
        *lane_, wire::OpenNamespace{
                    .spec = spec_, .tenant_key = uri_.tenant_key, .fingerprint = spec_.fingerprint()});
}

void Session::opened(const wire::NamespaceOpened& opened) {
    digester_.emplace(uri_.seal_key ? Sealer::digest_secret(*uri_.seal_key, spec_, opened.secret.bytes)
                                    : opened.secret.bytes);
    namespace_id_ = opened.namespace_id;
    lease_bytes_max_ = opened.lease_bytes_max;
    replicas_ = opened.replicas;
    can_pull_ = lane_->caps().pull;
    const auto& caps = lane_->caps();
    if (!caps.exposes_pool || caps.map != transport::MapKind::Coherent) return become_ready();
    state_ = State::Attaching;
    attach();
}

void Session::become_ready() {
    state_ = State::Ready;
    attempt_ends_ = Instant::never();
    breaker_.close();
    trouble_.reset();
    // Who maps the memory, or wants messages and nothing else, needs no other way to it.
    const bool plain = uri_.kv.empty() ? uri_.transport == Transport::Tcp : uri_.kv == kMessages;
    if (attachment_ == nullptr && !plain && !server_.planes.empty()) reader_.offer(server_);
}

// ---- memory of this host ----

void Session::attach(int tries) {
    attaches_left_ = tries - 1;
    const std::uint32_t known = attachment_ ? attachment_->known_segments() : 0;
    handshake_id_ = send_own(*lane_, wire::Attach{.namespace_id = namespace_id_, .known_segments = known});
}

void Session::attached(const wire::Attached& attached) {
    forget_imports();
    attaching_ = attached;
    if (attachment_ == nullptr) {
        imports_.push_back({.role = Import::Role::Index, .index = 0, .grant = attached.index});
        imports_.push_back({.role = Import::Role::Control, .index = 0, .grant = attached.control});
    }
    for (const auto& grant : attached.segments) {
        imports_.push_back({.role = Import::Role::Data, .index = grant.index, .grant = grant});
    }
    if (imports_.empty()) return refreshed(std::nullopt);
    start_imports();
}

void Session::forget_imports() {
    imports_.clear();
    imports_started_ = imports_ended_ = 0;
}

void Session::start_imports() {
    while (imports_started_ < imports_.size()) {
        const auto& grant = imports_[imports_started_].grant;
        const auto started = lane_->import({grant.descriptor}, {grant.token}, imports_started_ | kImportBit);
        if (!started && started.error().code == Errc::Again) return;
        if (!started) {
            return fail_lane(started.error());
        }
        ++imports_started_;
    }
}

void Session::imports_done() {
    const bool first = attachment_ == nullptr;
    const auto denied = [](const Import& import) {
        return !import.segment && import.refused == Errc::Denied;
    };
    if (attaches_left_ > 0 && std::ranges::any_of(imports_, denied)) {
        forget_imports();
        return attach(attaches_left_);
    }
    std::optional<Error> trouble;
    std::vector<MutableBytes> mapped(imports_.size());
    for (std::size_t index = 0; index < imports_.size() && !trouble; ++index) {
        auto& import = imports_[index];
        auto bytes =
            import.segment
                ? import.segment->map()
                : Result<MutableBytes>(fail(import.refused, "the pool did not hand over its memory"));
        if (!bytes) trouble = bytes.error();
        if (bytes && bytes->size() < import.grant.bytes) {
            trouble = Error{Errc::Corrupt, "the pool handed over less memory than it promised"};
        }
        if (bytes) mapped[index] = *bytes;
    }
    const std::uint64_t index_bytes =
        ((std::uint64_t{1} << std::min(attaching_.bucket_bits, 63u)) + 1) * sizeof(model::Bucket);
    if (first && !trouble &&
        (attaching_.bucket_bits > model::kBucketBitsMax || mapped[0].size() < index_bytes ||
         mapped[1].size() < sizeof(model::ControlPage) || attaching_.segment_bytes == 0)) {
        trouble = Error{Errc::Corrupt, "the pool described its memory wrongly"};
    }
    if (!trouble && first) {
        attachment_ = std::make_shared<Attachment>(std::move(imports_[0].segment), mapped[0],
                                                   attaching_.bucket_bits, std::move(imports_[1].segment),
                                                   mapped[1], attaching_.segment_bytes, lease_bytes_max_);
    }
    if (!trouble) {
        for (std::size_t index = first ? 2 : 0; index < imports_.size(); ++index) {
            attachment_->add_segment(imports_[index].index, std::move(imports_[index].segment),
                                     mapped[index]);
        }
    }
    forget_imports();
    if (!trouble && attaching_.segments.size() == wire::kGrantsMax) return attach();  // there are more
    if (state_ == State::Ready) return refreshed(trouble);
    if (trouble) plane_ = fmt::format("shm, by messages only: {}", trouble->detail);
    become_ready();
}

bool Session::refresh(Asker& asker, std::uint64_t part) {
    if (state_ != State::Ready || attachment_ == nullptr || hopeless()) return false;
    // One at a time: memory that is on its way, for somebody who has given up, serves this one too. A
    // question that was never answered is asked anew, and its late answer is not listened to.
    if (refreshing_.empty() && imports_.empty()) attach();
    refreshing_.push_back({&asker, part});
    return true;
}

void Session::refreshed(const std::optional<Error>& trouble) {
    const auto waiting = std::exchange(refreshing_, {});
    for (const auto& [asker, part] : waiting) {
        if (trouble) {
            asker->lost(part, *trouble);
        } else {
            asker->answer(part, wire::Attached{});
        }
    }
}

Status Session::status() const {
    Status status{.ready = state_ == State::Ready && !breaker_.open(),
                  .node = server_.node,
                  .version = server_.version,
                  .plane = plane_,
                  .local_address = server_.local_address,
                  .protocol = server_.protocol,
                  .incarnation = server_.incarnation,
                  .namespace_id = namespace_id_,
                  .load_level = load_,
                  .trouble = trouble_};
    if (state_ != State::Ready) return status;
    status.pool_uid = lane_->peer().uid;
    status.pulls = can_pull_;
    status.transport = attachment_ != nullptr ? "shm" : plane_.substr(0, 3);
    status.kv = attachment_ != nullptr ? status.transport : reader_.name();
    if (status.kv.empty()) status.kv = status.transport;
    status.kv_plane = server_.planes.empty() ? "the pool offers no plane to read from" : reader_.why();
    const auto counts = reader_.counts();
    status.kv_requests = counts.requests;
    status.kv_doorbells = counts.doorbells;
    status.kv_signalled = counts.signalled;
    return status;
}

}  // namespace cmpool::client
