#include <algorithm>
#include <utility>

#include <cmpool/loop/prefill.h>

namespace cmpool::loop {

namespace {

constexpr std::size_t kOpsAtOnce = 32;
// Cookies of imports; writes carry their sequence's number.
constexpr std::uint64_t kImportCookie = std::uint64_t{1} << 63;

}  // namespace

// ---- the computing thread ----

void PrefillWorker::command(Command command) {
    commands_.push(std::move(command));
    wake_.notify();
}

void PrefillWorker::outcome(Outcome outcome) {
    outcome.pending = engine_.scheduler().pending_tokens();
    outcomes_.push(std::move(outcome));
    courier_.wake();
}

void PrefillWorker::obey() {
    for (Command& command : commands_.take()) {
        switch (command.what) {
            case Command::What::Submit: {
                auto taken = engine_.submit({.id = command.id, .prompt = std::move(command.prompt)},
                                            engine::Start::Here);
                if (!taken) outcome({.id = command.id, .error = taken.error()});
                break;
            }
            case Command::What::Drop:
                if (!engine_.knows(command.id) || computed_.contains(command.id)) break;
                engine_.release(command.id);
                outcome({.id = command.id, .error = Error{Errc::Deadline, "cancelled"}});
                break;
            case Command::What::Release:
                if (computed_.erase(command.id) > 0) engine_.release(command.id);
                break;
        }
    }
}

void PrefillWorker::report(const engine::Turn& turn) {
    for (const engine::Emission& emission : turn.emissions) {
        const auto blocks = engine_.blocks(emission.id);
        const std::uint64_t reused = engine_.progress(emission.id).reused_tokens;
        reused_tokens_ += reused;
        computed_.insert(emission.id);
        outcome({.id = emission.id,
                 .first_token = emission.token,
                 .reused = reused,
                 .blocks = {blocks.begin(), blocks.end()},
                 .computed = clock_.now()});
    }
}

void PrefillWorker::append_statistics(std::vector<Statistic>& out) {
    out.push_back({"handoffs_open", computed_.size()});
}

// ---- the courier's thread ----

Message PrefillWorker::hello() const {
    Message greeting = Worker::hello();
    greeting.descriptor.assign(as_bytes(local_address_).begin(), as_bytes(local_address_).end());
    return greeting;
}

void PrefillWorker::told(LineId line, Message message) {
    switch (message.kind) {
        case Kind::Hello:
            if (sessions_.contains(message.session)) return courier_.close(line, "a session twice");
            sessions_[message.session].control = line;
            return;
        case Kind::Attach:
            return attach(line, message);
        case Kind::Prefill:
            return take(line, std::move(message));
        case Kind::Cancel:
            return cancel(line, message.id);
        default:
            return courier_.close(line, "a message that a prefill worker does not take");
    }
}

void PrefillWorker::append_line_statistics(std::vector<Statistic>& out) {
    out.push_back({"handoffs_total", handed_off_});
    out.push_back({"handoff_bytes_total", handed_off_bytes_});
    out.push_back({"handoff_ns_total", std::uint64_t(handing_off_.count())});
}

void PrefillWorker::attach(LineId line, const Message& message) {
    const auto found = sessions_.find(message.session);
    if (found == sessions_.end() || found->second.kv != 0)
        return courier_.close(line, "a lane for KV bytes without a session of its own");
    Session& session = found->second;
    session.kv = line;
    session.import_cookie = kImportCookie | next_++;
    auto* lane = courier_.lane(line);
    if (lane == nullptr) return;
    const auto importing = lane->import({message.descriptor}, {message.secret}, session.import_cookie);
    if (!importing) courier_.send(line, failure(Kind::Attached, message.session, importing.error()));
}

Result<void> PrefillWorker::check(LineId line, const Message& message) const {
    const auto session = sessions_.find(message.session);
    if (session == sessions_.end() || session->second.control != line || !session->second.pages)
        return fail(Errc::Invalid, "no lane for KV bytes is attached");
    const std::size_t block_tokens = kv_.shape().tokens;
    const std::size_t blocks = (message.tokens.size() + block_tokens - 1) / block_tokens;
    const std::uint64_t room = session->second.pages->size() / kv_.shape().bytes();
    const bool inside = std::ranges::all_of(message.pages, [&](std::uint32_t page) { return page < room; });
    if (message.pages.size() < blocks || !inside) {
        return fail(Errc::Invalid, "expected {} pages below {} for {} tokens, saw {}", blocks, room,
                    message.tokens.size(), message.pages.size());
    }
    return {};
}

void PrefillWorker::take(LineId line, Message message) {
    Job job{.control = line, .remote_id = message.id, .session = message.session};
    if (auto sound = check(line, message); !sound) return refuse(job, sound.error());
    job.pages = std::move(message.pages);
    const auto id = next_++;
    jobs_.emplace(id, std::move(job));
    command({Command::What::Submit, id, std::move(message.tokens)});
}

void PrefillWorker::refuse(const Job& job, const Error& error) {
    Message out = failure(Kind::Failed, job.remote_id, error);
    out.pending = pending_;
    courier_.send(job.control, out);
}

void PrefillWorker::cancel(LineId line, std::uint64_t remote_id) {
    for (auto& [id, job] : jobs_) {
        if (job.control != line || job.remote_id != remote_id || job.sending) continue;
        job.cancelled = true;
        command({Command::What::Drop, id, {}});
    }
}

Instant PrefillWorker::tend(Instant) {
    for (Outcome& outcome : outcomes_.take()) settle(outcome);
    return Instant::never();
}

void PrefillWorker::settle(Outcome& outcome) {
    pending_ = outcome.pending;
    const auto found = jobs_.find(outcome.id);
    if (found == jobs_.end()) return command({Command::What::Release, outcome.id, {}});
    Job& job = found->second;
    if (!outcome.error && job.cancelled) outcome.error = Error{Errc::Deadline, "cancelled"};
    if (outcome.error) {
        refuse(job, *outcome.error);
        return end(outcome.id);
    }
    job.blocks = std::move(outcome.blocks);
    job.pages.resize(job.blocks.size());
    job.first_token = outcome.first_token;
    job.reused = outcome.reused;
    job.computed = outcome.computed;
    job.sending = true;
    pump(outcome.id, job);
}

void PrefillWorker::pump(engine::SequenceId id, Job& job) {
    const auto found = sessions_.find(job.session);
    if (found == sessions_.end() || job.failed) {
        if (job.posted == job.landed) {
            refuse(job, {Errc::PeerDown, "the lane for KV bytes failed"});
            end(id);
        }
        return;
    }
    Session& session = found->second;
    const std::uint64_t block_bytes = kv_.shape().bytes();
    const std::size_t in_flight_max = std::max<std::uint64_t>(kSendingBytesMax / block_bytes, 1);
    while (job.posted < job.blocks.size() && job.posted - job.landed < in_flight_max) {
        const std::size_t count =
            std::min({kOpsAtOnce, job.blocks.size() - job.posted, in_flight_max - (job.posted - job.landed)});
        std::vector<Bytes> from(count);
        std::vector<transport::Op> ops;
        for (std::size_t at = 0; at < count; ++at) {
            from[at] = kv_.block_bytes(job.blocks[job.posted + at]);
            ops.push_back({.kind = transport::OpKind::Write,
                           .delivered = true,
                           .remote = session.pages.get(),
                           .offset = job.pages[job.posted + at] * block_bytes,
                           .gather = {&from[at], 1},
                           .cookie = id});
        }
        const std::size_t taken = courier_.post(session.kv, ops);
        job.posted += taken;
        if (taken < count) break;
    }
    if (job.landed < job.blocks.size()) return;
    ++handed_off_;
    handed_off_bytes_ += job.blocks.size() * block_bytes;
    handing_off_ += clock_.now() - job.computed;
    courier_.send(session.kv, {.kind = Kind::Prefilled,
                               .id = job.remote_id,
                               .tokens = {job.first_token},
                               .reused = job.reused,
                               .pending = pending_});
    end(id);
}

void PrefillWorker::end(engine::SequenceId id) {
    jobs_.erase(id);
    command({Command::What::Release, id, {}});
}

void PrefillWorker::completed(LineId line, const transport::Completion& completion) {
    if (completion.kind == transport::OpKind::Import) {
        for (auto& [number, session] : sessions_) {
            if (session.kv != line || session.import_cookie != completion.cookie) continue;
            auto* lane = courier_.lane(line);
            if (lane != nullptr && !completion.error) session.pages = lane->imported(completion.cookie);
            // Where they can be mapped they are so now, and not when somebody waits for a token.
            if (session.pages) (void)session.pages->map();
            Message answer{.kind = Kind::Attached, .session = number};
            if (!session.pages)
                answer.code = static_cast<std::uint16_t>(completion.error.value_or(Errc::PeerDown));
            courier_.send(line, answer);
        }
        return;
    }
    const auto found = jobs_.find(completion.cookie);
    if (found == jobs_.end()) return;
    ++found->second.landed;
    found->second.failed = found->second.failed || completion.error;
    pump(found->first, found->second);
}

// A decode worker that lost one of its lanes begins a new session: what was meant for the old one ends.
void PrefillWorker::closed(LineId line, const std::string&) {
    for (auto& [number, session] : sessions_) {
        if (session.control == line) {
            if (session.kv != 0) courier_.close(session.kv, "the worker left");
            session.control = 0;
        } else if (session.kv == line) {
            if (session.control != 0) courier_.close(session.control, "the lane for KV bytes failed");
            session.kv = 0;
            session.pages.reset();
        }
    }
    std::erase_if(sessions_,
                  [](const auto& entry) { return entry.second.control == 0 && entry.second.kv == 0; });
    std::vector<engine::SequenceId> over;
    for (auto& [id, job] : jobs_) {
        const auto session = sessions_.find(job.session);
        const bool kv_lost = session == sessions_.end() || session->second.kv == 0;
        const bool left = session == sessions_.end() || session->second.control == 0;
        if (job.sending && kv_lost) over.push_back(id);  // no write of it touches its pages any more
        if (!job.sending && left && !job.cancelled) {
            job.cancelled = true;
            command({Command::What::Drop, id, {}});
        }
    }
    for (const auto id : over) end(id);
}

}  // namespace cmpool::loop
