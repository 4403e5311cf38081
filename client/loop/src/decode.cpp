#include <algorithm>
#include <utility>

#include <cmpool/loop/decode.h>

#include <spdlog/spdlog.h>

namespace cmpool::loop {

namespace {

constexpr Nanos kBackoffMin = std::chrono::milliseconds(50);
constexpr Nanos kBackoffMax = std::chrono::seconds(1);

}  // namespace

DecodeWorker::DecodeWorker(engine::PagedKv& kv, engine::Engine& engine, engine::Wake& wake,
                           std::string model_identity, std::uint32_t vocab, std::uint32_t context,
                           LandingPages pages, DecodeOptions options, Entropy& entropy)
    : Worker(kv, engine, wake, std::move(model_identity), vocab, context),
      pages_(pages),
      options_(std::move(options)),
      entropy_(entropy) {
    for (const std::string& address : options_.prefills) peers_.push_back({.address = address});
}

// ---- the computing thread ----

void DecodeWorker::command(Command command) {
    commands_.push(std::move(command));
    wake_.notify();
}

void DecodeWorker::outcome(Outcome outcome) {
    outcomes_.push(std::move(outcome));
    courier_.wake();
}

void DecodeWorker::obey() {
    for (Command& command : commands_.take()) {
        if (command.what == Command::What::Submit) {
            auto taken = engine_.submit(std::move(command.request), engine::Start::Elsewhere);
            if (!taken) outcome({.what = Outcome::What::Refused, .id = command.id, .error = taken.error()});
        } else if (!engine_.knows(command.id)) {
            continue;
        } else if (command.what == Command::What::Landed) {
            give(engine_.landed(command.id, command.token));
        } else if (command.what == Command::What::Stop) {
            engine_.stop(command.id);
        } else {
            engine_.release(command.id);
        }
    }
}

void DecodeWorker::give(const engine::Emission& emission) {
    outcome({.what = Outcome::What::Given, .id = emission.id, .emission = emission});
    if (emission.finish != engine::Finish::None) engine_.release(emission.id);
}

void DecodeWorker::report(const engine::Turn& turn) {
    for (const auto id : turn.admitted) {
        const auto blocks = engine_.blocks(id);
        outcome({.what = Outcome::What::Admitted, .id = id, .pages = {blocks.begin(), blocks.end()}});
    }
    for (const engine::Emission& emission : turn.emissions) give(emission);
}

// ---- the courier's thread ----

void DecodeWorker::append_line_statistics(std::vector<Statistic>& out) {
    const auto parked = std::ranges::count_if(jobs_, [](const auto& job) { return job.second.gone; });
    out.push_back({"handoffs_parked", std::uint64_t(parked)});
    out.push_back({"prefill_workers", std::uint64_t(std::ranges::count_if(peers_, &Peer::attached))});
}

void DecodeWorker::told(LineId line, Message message) {
    if (Peer* peer = peer_of(line)) {
        switch (message.kind) {
            case Kind::Hello:
                return line == peer->control ? greeted(*peer, message) : void();
            case Kind::Attached:
                peer->attached = message.code == 0;
                if (!peer->attached) courier_.close(line, "the prefill worker cannot reach our pages");
                return assign(SystemClock().now());
            case Kind::Prefilled:
                return landed(*peer, message);
            case Kind::Failed:
                return failed(*peer, message);
            default:
                return courier_.close(line, "a message that a decode worker does not take");
        }
    }
    switch (message.kind) {
        case Kind::Hello:
            return;
        case Kind::Generate:
            return generate(line, std::move(message));
        case Kind::Cancel:
            for (auto& [id, job] : jobs_) {
                if (job.router == line && job.remote_id == message.id && !job.gone) return cancel(id, job);
            }
            return;
        default:
            return courier_.close(line, "a message that a decode worker does not take");
    }
}

DecodeWorker::Peer* DecodeWorker::peer_of(LineId line) {
    const auto found = std::ranges::find_if(
        peers_, [line](const Peer& peer) { return peer.control == line || peer.kv == line; });
    return found == peers_.end() ? nullptr : &*found;
}

void DecodeWorker::keep_connected(Peer& peer, Instant now) {
    if (peer.control != 0 || peer.kv != 0 || peer.refused || now < peer.retry_at) return;
    peer.backoff = std::clamp(peer.backoff * 2, kBackoffMin, kBackoffMax);
    peer.retry_at = now + peer.backoff;
    const auto line = courier_.connect(*pages_.network, peer.address);
    if (!line) return;
    peer.control = *line;
    peer.session = entropy_.next_u64();
    courier_.send(*line, {.kind = Kind::Hello, .id = kProtocol, .session = peer.session, .text = identity_});
}

// Its word about itself: then the second lane is opened, for KV bytes alone.
void DecodeWorker::greeted(Peer& peer, const Message& message) {
    if (message.id != kProtocol || message.text != identity_) {
        spdlog::error("prefill worker {} is another one: protocol {}, model \"{}\"; expected {}, \"{}\"",
                      peer.address, message.id, message.text, kProtocol, identity_);
        peer.refused = true;
        return courier_.close(peer.control, "another model or protocol");
    }
    auto* control = courier_.lane(peer.control);
    const std::string local(as_text(message.descriptor));
    peer.local = options_.local_lanes && !std::exchange(peer.local_failed, false) && !local.empty() &&
                 pages_.local != nullptr && control != nullptr && control->peer().same_host;
    auto line =
        peer.local ? courier_.connect(*pages_.local, local) : courier_.connect(*pages_.network, peer.address);
    if (!line) return courier_.close(peer.control, line.error().detail);
    peer.kv = *line;
    auto& segment = peer.local ? *pages_.local_pages : *pages_.network_pages;
    courier_.send(peer.kv, {.kind = Kind::Attach,
                            .session = peer.session,
                            .secret = segment.token().value,
                            .descriptor = segment.descriptor().bytes});
}

void DecodeWorker::closed(LineId line, const std::string& why) {
    if (Peer* peer = peer_of(line)) return lost(*peer, line, why);
    for (auto& [id, job] : jobs_) {
        if (job.router == line && !job.gone) {
            job.router = 0;
            cancel(id, job);
        }
    }
    std::erase_if(
        jobs_, [](const auto& job) { return job.second.gone && job.second.state != Job::State::Assigned; });
}

// Only the end of the lane for KV bytes says that no write lands any more. Over a network we end it
// ourselves; on one host the other side does, or its death.
void DecodeWorker::lost(Peer& peer, LineId line, const std::string& why) {
    if (line == peer.control) {
        peer.control = 0;
        peer.attached = false;
        if (peer.kv != 0 && !peer.local) courier_.close(peer.kv, "its control lane ended");
    } else {
        peer.kv = 0;
        peer.local_failed = peer.local && !peer.attached;  // then over the network
        peer.attached = false;
        if (peer.control != 0) courier_.close(peer.control, why);
        const auto index = static_cast<std::size_t>(&peer - peers_.data());
        std::vector<engine::SequenceId> over;
        for (auto& [id, job] : jobs_) {
            if (job.state != Job::State::Assigned || job.peer != index) continue;
            unassign(job);
            if (job.gone || job.tries >= kTries) {
                over.push_back(id);
            } else {
                job.state = Job::State::Placed;
                job.until = SystemClock().now() + options_.no_prefill_limit;
                placed_.push_front(id);
            }
        }
        for (const auto id : over) {
            refuse(jobs_.at(id), {Errc::PeerDown, "prefill workers died over this prompt"});
            release(id);
        }
    }
    if (peer.control == 0 && peer.kv == 0) peer.others = 0;
    courier_.wake();
}

void DecodeWorker::generate(LineId line, Message message) {
    const auto id = next_++;
    jobs_.emplace(id, Job{.router = line, .remote_id = message.id, .prompt = message.tokens});
    command({Command::What::Submit,
             id,
             {.id = id,
              .prompt = std::move(message.tokens),
              .output_max = message.output_max,
              .stop_tokens = std::move(message.stop_tokens)}});
}

Instant DecodeWorker::tend(Instant now) {
    for (Outcome& outcome : outcomes_.take()) settle(outcome);
    for (Peer& peer : peers_) keep_connected(peer, now);
    assign(now);
    Instant next = expire(now);
    for (const Peer& peer : peers_) {
        if (peer.control == 0 && peer.kv == 0 && !peer.refused) next = std::min(next, peer.retry_at);
    }
    return next;
}

void DecodeWorker::settle(Outcome& outcome) {
    const auto found = jobs_.find(outcome.id);
    if (found == jobs_.end()) return;
    Job& job = found->second;
    switch (outcome.what) {
        case Outcome::What::Refused:
            refuse(job, outcome.error);
            jobs_.erase(found);
            return;
        case Outcome::What::Admitted:
            job.pages = std::move(outcome.pages);
            job.state = Job::State::Placed;
            job.until = SystemClock().now() + options_.no_prefill_limit;
            placed_.push_back(outcome.id);
            return;
        case Outcome::What::Given: {
            const engine::Emission& emission = outcome.emission;
            Message out{.kind = Kind::Given,
                        .id = job.remote_id,
                        .finish = static_cast<std::uint8_t>(emission.finish),
                        .reused = job.reused};
            if (emission.has_token) out.tokens.push_back(emission.token);
            courier_.send(job.router, out);
            if (emission.finish != engine::Finish::None) jobs_.erase(found);
            return;
        }
    }
}

DecodeWorker::Peer* DecodeWorker::least_loaded() {
    Peer* best = nullptr;
    for (Peer& peer : peers_) {
        if (!peer.attached || peer.control == 0) continue;
        if (best == nullptr || peer.ours + peer.others < best->ours + best->others) best = &peer;
    }
    return best;
}

void DecodeWorker::assign(Instant now) {
    while (!placed_.empty()) {
        Peer* peer = least_loaded();
        if (peer == nullptr) return;
        const auto id = placed_.front();
        placed_.pop_front();
        const auto found = jobs_.find(id);
        if (found == jobs_.end() || found->second.state != Job::State::Placed) continue;
        Job& job = found->second;
        const std::size_t block_tokens = kv_.shape().tokens;
        const std::size_t blocks = (job.prompt.size() + block_tokens - 1) / block_tokens;
        job.state = Job::State::Assigned;
        job.peer = static_cast<std::size_t>(peer - peers_.data());
        job.until = now + options_.prefill_limit;
        ++job.tries;
        peer->ours += job.prompt.size();
        courier_.send(peer->control,
                      {.kind = Kind::Prefill,
                       .id = id,
                       .session = peer->session,
                       .tokens = job.prompt,
                       .pages = {job.pages.begin(), job.pages.begin() + std::ptrdiff_t(blocks)}});
    }
}

void DecodeWorker::unassign(Job& job) {
    Peer& peer = peers_[job.peer];
    peer.ours -= std::min<std::uint64_t>(peer.ours, job.prompt.size());
}

void DecodeWorker::landed(Peer& peer, const Message& message) {
    const auto found = jobs_.find(message.id);
    if (found == jobs_.end() || found->second.state != Job::State::Assigned ||
        &peers_[found->second.peer] != &peer || message.tokens.size() != 1) {
        // Its own end says when it writes no more: on one host, ours would say nothing.
        return courier_.close(peer.control, "a hand-off that nobody asked for");
    }
    Job& job = found->second;
    unassign(job);
    peer.others = message.pending - std::min(message.pending, peer.ours);
    peer.backoff = Nanos{0};
    if (job.gone) return release(message.id);
    job.state = Job::State::Decoding;
    job.until = Instant::never();
    job.reused = message.reused;
    command({.what = Command::What::Landed, .id = message.id, .token = message.tokens.front()});
}

void DecodeWorker::failed(Peer& peer, const Message& message) {
    const auto found = jobs_.find(message.id);
    if (found == jobs_.end() || found->second.state != Job::State::Assigned ||
        &peers_[found->second.peer] != &peer) {
        return;
    }
    unassign(found->second);
    peer.others = message.pending - std::min(message.pending, peer.ours);
    refuse(found->second, {static_cast<Errc>(message.code), message.text});
    release(message.id);
}

void DecodeWorker::cancel(engine::SequenceId id, Job& job) {
    job.gone = true;
    if (job.state != Job::State::Assigned) {
        command({.what = Command::What::Release, .id = id});
        if (job.router != 0) jobs_.erase(id);
        return;
    }
    command({.what = Command::What::Stop, .id = id});
    courier_.send(peers_[job.peer].control, {.kind = Kind::Cancel, .id = id});
}

void DecodeWorker::refuse(Job& job, const Error& error) {
    if (!job.gone) courier_.send(job.router, failure(Kind::Given, job.remote_id, error));
}

void DecodeWorker::release(engine::SequenceId id) {
    jobs_.erase(id);
    command({.what = Command::What::Release, .id = id});
}

Instant DecodeWorker::expire(Instant now) {
    Instant next = Instant::never();
    std::vector<engine::SequenceId> over;
    for (auto& [id, job] : jobs_) {
        if (job.gone) continue;
        if (job.until <= now) over.push_back(id);
        if (job.until > now) next = std::min(next, job.until);
    }
    for (const auto id : over) {
        Job& job = jobs_.at(id);
        const char* what = job.state == Job::State::Assigned ? "the prefill worker did not answer in time"
                                                             : "no prefill worker is there";
        refuse(job, {Errc::Deadline, what});
        cancel(id, job);
    }
    return next;
}

}  // namespace cmpool::loop
