#include <algorithm>
#include <utility>

#include <cmpool/loop/router.h>

namespace cmpool::loop {

namespace {

constexpr Nanos kBackoffMin = std::chrono::milliseconds(50);
constexpr Nanos kBackoffMax = std::chrono::seconds(1);
constexpr std::size_t kLooksMax = 1024;
constexpr const char* kDecode = "decode";
constexpr const char* kPrefill = "prefill";

}  // namespace

std::optional<Piece> Answer::next(Nanos limit) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, limit, [this] { return !pieces_.empty(); })) return std::nullopt;
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    return piece;
}

void Answer::add(Piece piece) {
    const std::scoped_lock lock(mutex_);
    pieces_.push_back(std::move(piece));
    changed_.notify_one();
}

Router::Router(RouterOptions options, transport::Fabric& network)
    : options_(std::move(options)), network_(network), courier_(*this) {
    for (const auto& address : options_.decodes) peers_.push_back({.role = kDecode, .address = address});
    for (const auto& address : options_.prefills) peers_.push_back({.role = kPrefill, .address = address});
    thread_ = std::jthread([this] { courier_.run(); });
}

Router::~Router() { courier_.stop(); }

// ---- any thread ----

std::shared_ptr<Answer> Router::ask(std::vector<std::uint32_t> prompt, std::size_t output_max,
                                    std::vector<std::uint32_t> stop_tokens) {
    auto answer = std::make_shared<Answer>();
    answer->id_ = next_++;
    Job job{.answer = answer,
            .tokens = std::move(prompt),
            .left = output_max,
            .stop_tokens = std::move(stop_tokens)};
    asked_.push({answer, answer->id_, std::move(job)});
    courier_.wake();
    return answer;
}

void Router::cancel(const Answer& answer) {
    asked_.push({nullptr, answer.id_, {}});
    courier_.wake();
}

std::optional<std::map<std::string, std::uint64_t>> Router::facts() const {
    const std::scoped_lock lock(facts_mutex_);
    return facts_;
}

std::vector<WorkerReport> Router::look(Nanos limit) {
    auto looked = std::make_shared<Looked>();
    looked->missing = options_.decodes.size() + options_.prefills.size();
    look_asked_.push(looked);
    courier_.wake();
    std::unique_lock lock(looked->mutex);
    looked->changed.wait_for(lock, limit, [&] { return looked->missing == 0; });
    return looked->reports;
}

// ---- the courier's thread ----

Instant Router::tend(Instant now) {
    Instant next = Instant::never();
    for (Peer& peer : peers_) {
        if (peer.line == 0 && now >= peer.retry_at) {
            peer.backoff = std::clamp(peer.backoff * 2, kBackoffMin, kBackoffMax);
            peer.retry_at = now + peer.backoff;
            peer.line = courier_.connect(network_, peer.address).value_or(0);
        }
        if (peer.line == 0) next = std::min(next, peer.retry_at);
    }
    for (Asked& asked : asked_.take()) take(std::move(asked), now);
    for (auto& looked : look_asked_.take()) {
        if (looks_.size() > kLooksMax) looks_.clear();  // of workers that never answered
        for (const Peer& peer : peers_) {
            looks_.emplace_back(peer.line, looked);
            if (peer.line == 0) {
                answer_look(peer, nullptr);
            } else {
                courier_.send(peer.line, {.kind = Kind::StatsAsk});
            }
        }
    }
    std::vector<std::uint64_t> over;
    for (auto& [id, job] : jobs_) {
        if (!job.peer) assign(id, job);
        if (job.peer) continue;
        if (job.until <= now) over.push_back(id);
        next = std::min(next, job.until);
    }
    for (const auto id : over) end(id, {Errc::PeerDown, "no decode worker is there"});
    return over.empty() ? next : now;
}

void Router::take(Asked asked, Instant now) {
    if (asked.answer) {
        asked.job.until = now + options_.no_decode_limit;
        jobs_.emplace(asked.id, std::move(asked.job));
        return;
    }
    const auto found = jobs_.find(asked.id);
    if (found == jobs_.end()) return;
    if (found->second.peer) {
        Peer& peer = peers_[*found->second.peer];
        courier_.send(peer.line, {.kind = Kind::Cancel, .id = asked.id});
        --peer.requests;
    }
    jobs_.erase(found);
}

void Router::assign(std::uint64_t id, Job& job) {
    Peer* best = nullptr;
    for (Peer& peer : peers_) {
        if (peer.role != kDecode || !peer.ready) continue;
        if (best == nullptr || peer.requests < best->requests) best = &peer;
    }
    if (best == nullptr) return;
    ++best->requests;
    ++job.tries;
    job.peer = static_cast<std::size_t>(best - peers_.data());
    courier_.send(best->line, {.kind = Kind::Generate,
                               .id = id,
                               .tokens = job.tokens,
                               .stop_tokens = job.stop_tokens,
                               .output_max = job.left});
}

Router::Peer* Router::peer_of(LineId line) {
    const auto found = std::ranges::find(peers_, line, &Peer::line);
    return found == peers_.end() ? nullptr : &*found;
}

void Router::message(LineId line, Message message) {
    Peer* peer = peer_of(line);
    if (peer == nullptr) return;
    switch (message.kind) {
        case Kind::Hello:
            if (message.id != kProtocol) return courier_.close(line, "another protocol");
            for (std::size_t index = 0; index < message.names.size(); ++index)
                peer->facts[message.names[index]] = message.values[index];
            peer->ready = true;
            peer->backoff = Nanos{0};
            if (peer->role == kDecode) {
                const std::scoped_lock lock(facts_mutex_);
                facts_ = peer->facts;
            }
            return courier_.wake();
        case Kind::Given:
            return given(std::move(message));
        case Kind::Stats:
            return answer_look(*peer, &message);
        default:
            return courier_.close(line, "a message that a router does not take");
    }
}

void Router::given(Message message) {
    const auto found = jobs_.find(message.id);
    if (found == jobs_.end()) return;  // cancelled meanwhile
    Job& job = found->second;
    if (message.code != 0) return end(message.id, {static_cast<Errc>(message.code), message.text});
    if (job.tries == 1) job.reused = message.reused;
    job.tokens.insert(job.tokens.end(), message.tokens.begin(), message.tokens.end());
    job.left -= std::min(job.left, message.tokens.size());
    Piece piece{.tokens = std::move(message.tokens),
                .finish = message.finish <= std::uint8_t(engine::Finish::Length)
                              ? engine::Finish(message.finish)
                              : engine::Finish::Length,
                .reused = job.reused};
    const bool last = piece.last();
    job.answer->add(std::move(piece));
    if (!last) return;
    --peers_[*job.peer].requests;
    jobs_.erase(found);
}

void Router::end(std::uint64_t id, const Error& error) {
    const auto found = jobs_.find(id);
    if (found->second.peer) --peers_[*found->second.peer].requests;
    found->second.answer->add({.error = error});
    jobs_.erase(found);
}

void Router::closed(LineId line, const std::string& why) {
    Peer* peer = peer_of(line);
    if (peer == nullptr) return;
    answer_look(*peer, nullptr);
    peer->line = 0;
    peer->ready = false;
    peer->requests = 0;
    const auto index = static_cast<std::size_t>(peer - peers_.data());
    const bool any =
        std::ranges::any_of(peers_, [](const Peer& one) { return one.role == kDecode && one.ready; });
    if (!any) {
        const std::scoped_lock lock(facts_mutex_);
        facts_.reset();
    }
    std::vector<std::uint64_t> over;
    for (auto& [id, job] : jobs_) {
        if (job.peer != index) continue;
        job.peer.reset();
        job.until = SystemClock().now() + options_.no_decode_limit;
        if (job.tries >= kTries) over.push_back(id);
    }
    for (const auto id : over) end(id, {Errc::PeerDown, why});
    courier_.wake();
}

void Router::answer_look(const Peer& peer, const Message* message) {
    std::erase_if(looks_, [&](auto& look) {
        if (look.first != peer.line) return false;
        WorkerReport report{.role = peer.role, .address = peer.address, .up = message != nullptr};
        if (message != nullptr) {
            for (std::size_t index = 0; index < message->names.size(); ++index)
                report.statistics.emplace_back(message->names[index], message->values[index]);
        }
        const std::scoped_lock lock(look.second->mutex);
        look.second->reports.push_back(std::move(report));
        --look.second->missing;
        look.second->changed.notify_all();
        return true;
    });
}

}  // namespace cmpool::loop
