#include "sim_lane.h"

#include "frame.h"
#include "op_check.h"
#include "shared_copy.h"

#include <algorithm>
#include <cstring>
#include <typeinfo>

#include <cmpool/base/assert.h>

namespace cmpool::transport {

namespace {

constexpr Nanos kAckTimeout = std::chrono::seconds(1);  // after which a silent peer is given up
constexpr std::size_t kReceiveMessagesMax = 64;
constexpr std::uint64_t kLandAtOnce = 64 * KiB;  // larger payloads land in two halves

std::uint64_t total_bytes(std::span<const Bytes> pieces) noexcept {
    std::uint64_t total = 0;
    for (const Bytes piece : pieces) total += piece.size();
    return total;
}

}  // namespace

std::optional<Errc> sim_access(const SimMemory* memory, Token token, Access wanted, std::uint64_t offset,
                               std::uint64_t bytes) {
    if (memory == nullptr || memory->destroyed || memory->token != token) return Errc::Denied;
    if (!allows(memory->access, wanted)) return Errc::Denied;
    if (offset > memory->bytes.size() || bytes > memory->bytes.size() - offset) return Errc::Invalid;
    return std::nullopt;
}

SimLane::SimLane(SimCore& core, std::shared_ptr<SimWire> wire, std::size_t side, const Caps& caps,
                 SimProfile profile, std::string address)
    : core_(core),
      wire_(std::move(wire)),
      side_(side),
      caps_(caps),
      profile_(profile),
      number_(core.lanes_made++),
      departed_(core.now()),
      writes_end_(core.now()) {
    identity_.address = std::move(address);
    identity_.same_host = wire_->hosts[0] == wire_->hosts[1];
    if (profile == SimProfile::Mapped) {
        identity_.uid = 0;
        identity_.pid = core.pid(peer_host());
    }
    wire_->ends[side] = this;
    core_.lanes[number_] = this;
}

SimLane::~SimLane() {
    if (!ended_) tell_peer("the peer closed the lane");
    end("the lane is gone");
    wire_->ends[side_] = nullptr;
    core_.lanes.erase(number_);
}

std::size_t SimLane::free_slots() const noexcept { return caps_.lane_depth - in_flight_; }

// Every action on a lane goes through here: the lane may be gone when its time comes.
void SimLane::on_lane(Instant when, std::size_t side, std::function<void(SimLane&)> action) {
    core_.at(when, [wire = wire_, side, action = std::move(action)] {
        if (SimLane* lane = wire->ends[side]; lane != nullptr) action(*lane);
    });
}

Instant SimLane::arrival(std::size_t side) {
    const Instant when = std::max(core_.now() + core_.draw_delay(), wire_->arrived[side] + Nanos{1});
    // One that may be overtaken does not hold the later ones back.
    if (!core_.rng.chance(core_.plan.reorder_message)) wire_->arrived[side] = when;
    return when;
}

void SimLane::tell_peer(const std::string& why) {
    on_lane(arrival(1 - side_), 1 - side_, [why](SimLane& other) { other.end(why); });
}

void SimLane::unkind() {
    if (!core_.rng.chance(core_.plan.break_lane)) return;
    tell_peer("the network broke the lane");
    end("the network broke the lane");
}

void SimLane::end(std::string why) {
    if (ended_) return;
    ended_ = Error{Errc::PeerDown, fmt::format("{}: {}", identity_.address, why)};
    landing_.divert();
    // Broken inside a message: neither it nor what comes behind arrives whole.
    if (std::exchange(landing_half_, false)) inbox_.clear();
    const auto finish = [this](const SimOpPtr& op) {
        if (!op->completed) op->error = Errc::PeerDown;
        complete(op);
        op->over = true;
    };
    for (const auto& op : std::exchange(running_, {})) finish(op);
    for (const auto& op : std::exchange(queued_, {})) finish(op);
    core_.wake(host());
}

Result<void> SimLane::quiesce(Nanos) {
    if (!ended_) tell_peer("the peer closed the lane");
    end("the lane was quiesced");
    return {};
}

Result<std::size_t> SimLane::post(std::span<const Op> batch) {
    if (ended_) return fail(*ended_);
    std::size_t taken = 0;
    for (; taken < batch.size() && free_slots() > 0; ++taken) {
        auto op = admit(batch[taken]);
        if (!op && taken == 0) return fail(op.error());
        if (!op) break;
        ++in_flight_;
        queued_.push_back(std::move(*op));
    }
    start_queued();
    if (taken > 0 || batch.empty()) return taken;
    return fail(Errc::Again, "all {} slots of the lane to {} are taken", caps_.lane_depth, identity_.address);
}

Result<SimOpPtr> SimLane::admit(const Op& op) const {
    if (op.kind == OpKind::Send) {
        const auto payload = total_bytes(op.gather);
        if (op.head.size() > caps_.head_bytes_max || payload > caps_.payload_bytes_max) {
            return fail(Errc::Invalid, "message with head {} bytes, payload {} bytes", op.head.size(),
                        payload);
        }
    } else if (auto fine = check_op(op, caps_.op_bytes_max); !fine) {
        return fail(fine.error());
    }
    auto admitted = std::make_shared<SimOp>(SimOp{.kind = op.kind,
                                                  .signal = op.signal,
                                                  .fence = op.fence,
                                                  .cookie = op.cookie,
                                                  .bytes = op_bytes(op),
                                                  .offset = op.offset,
                                                  .operand = op.operand,
                                                  .compare = op.compare,
                                                  .notify_offset = op.notify_offset,
                                                  .head = {op.head.begin(), op.head.end()},
                                                  .scatter = {op.scatter.begin(), op.scatter.end()},
                                                  .gather = {op.gather.begin(), op.gather.end()}});
    if (op.kind == OpKind::Send) return admitted;
    CMPOOL_ASSERT(typeid(*op.remote) == typeid(SimRemote));
    const auto& remote = static_cast<const SimRemote&>(*op.remote);
    admitted->memory = remote.memory();
    admitted->token = remote.token();
    // Completion is not visibility, unless the caller asked for both or the memory is shared.
    admitted->early = op.kind == OpKind::Write && !op.delivered && profile_ == SimProfile::OneSided;
    return admitted;
}

void SimLane::start_queued() {
    while (!queued_.empty() && !ended_) {
        const bool reading = std::any_of(running_.begin(), running_.end(),
                                         [](const SimOpPtr& op) { return op->reads() && !op->completed; });
        if (queued_.front()->fence && reading) return;
        const SimOpPtr op = std::move(queued_.front());
        queued_.pop_front();
        running_.push_back(op);
        start(op);
    }
}

void SimLane::start(const SimOpPtr& op) {
    if (op->kind == OpKind::Send) return start_send(op);
    if (op->memory && op->memory->window) return read_window(op);
    if (profile_ == SimProfile::Messages) return start_request(op);
    start_one_sided(op);
}

void SimLane::complete(const SimOpPtr& op) {
    if (op->completed) return;
    op->completed = true;
    if (op->signal || op->error) {
        completions_.push_back({.cookie = op->cookie,
                                .kind = op->kind,
                                .bytes = op->error ? 0 : op->bytes,
                                .value = op->error ? 0 : op->value,
                                .error = op->error});
        core_.wake(host());
    } else {
        // A full lane has room again; that is what writability tells on a real one.
        if (free_slots() == 0) core_.wake(host());
        --in_flight_;
    }
}

// The operation is done with: nothing of it touches memory any more.
void SimLane::settle(const SimOpPtr& op) {
    if (op->over) return;
    op->over = true;
    if (op->imported && !op->error) imports_[op->cookie] = std::move(op->imported);
    complete(op);
    std::erase(running_, op);
    start_queued();
}

std::size_t SimLane::poll(std::span<Completion> out) {
    const auto count = std::min(out.size(), completions_.size());
    std::copy_n(completions_.begin(), count, out.begin());
    completions_.erase(completions_.begin(), completions_.begin() + static_cast<std::ptrdiff_t>(count));
    in_flight_ -= count;
    return count;
}

// --- messages ---------------------------------------------------------------------------------

// The payload leaves some time after post(): a caller that reuses its buffer too early shows here.
void SimLane::start_send(const SimOpPtr& op) {
    departed_ = std::max(departed_ + Nanos{1}, core_.now() + Nanos{core_.plan.delay_min.count() / 4});
    on_lane(departed_, side_, [op](SimLane& lane) {
        if (!op->over) lane.depart(op);
    });
}

void SimLane::depart(const SimOpPtr& op) {
    auto message = std::make_shared<Arrival>();
    message->head = std::move(op->head);
    message->payload.reserve(op->bytes);
    for (const Bytes piece : op->gather) {
        message->payload.insert(message->payload.end(), piece.begin(), piece.end());
    }
    settle(op);
    if (!core_.rng.chance(core_.plan.lose_message)) {
        on_lane(arrival(1 - side_), 1 - side_, [message](SimLane& other) {
            if (other.ended_ || !other.core_.reachable(other.host(), other.peer_host())) return;
            other.inbox_.push_back(std::move(*message));
            other.core_.wake(other.host());
        });
    }
    unkind();
}

Result<std::size_t> SimLane::receive(Receiver& receiver) {
    std::size_t messages = 0;
    while (!inbox_.empty() && messages < kReceiveMessagesMax && !core_.host(host()).crashed) {
        if (const SimOpPtr request = inbox_.front().request) {
            inbox_.pop_front();
            execute(request);
            continue;
        }
        if (landing_half_ && core_.now() < landing_ready_) break;
        const bool whole = landing_half_ || inbox_.front().payload.size() <= kLandAtOnce;
        land(receiver);
        if (!whole) break;
        ++messages;
    }
    if (!inbox_.empty() && !landing_half_) core_.wake(host());
    if (messages > 0) return messages;
    if (ended_ && (inbox_.empty() || core_.host(host()).crashed)) return fail(*ended_);
    return 0;
}

void SimLane::land(Receiver& receiver) {
    Arrival& arrival = inbox_.front();
    const Bytes payload = arrival.payload;
    const Bytes first = payload.first(payload.size() > kLandAtOnce ? payload.size() / 2 : payload.size());
    if (!landing_half_) {
        receiver.place(*this, arrival.head, payload.size(), landing_.restart());
        landing_.take(first);
        if (first.size() < payload.size()) {
            landing_half_ = true;
            landing_ready_ = core_.now() + core_.draw_delay();
            on_lane(landing_ready_, side_, [](SimLane& lane) { lane.core_.wake(lane.host()); });
            return;
        }
    } else {
        landing_half_ = false;
        landing_.take(payload.subspan(first.size()));
    }
    const Arrival done = std::move(arrival);
    inbox_.pop_front();
    landing_.divert();
    receiver.message(*this, done.head, done.payload.size());
}

// --- imports ----------------------------------------------------------------------------------

Result<void> SimLane::import(const Descriptor& descriptor, Token token, std::uint64_t cookie) {
    auto name = open_descriptor(descriptor);
    if (!name) return fail(name.error());
    if (name->kind != SegmentKind::Sim) return fail(Errc::Invalid, "a descriptor of another back end");
    if (free_slots() == 0) return fail(Errc::Again, "all slots of the lane are taken");
    const auto found = core_.memories.find(name->segment);
    auto memory = found == core_.memories.end() ? nullptr : found->second;
    const bool asks = profile_ == SimProfile::Mapped && !(memory && memory->window);
    if (asks && ended_) return fail(*ended_);
    ++in_flight_;
    auto op = std::make_shared<SimOp>();
    op->kind = OpKind::Import;
    op->cookie = cookie;
    op->memory = memory;
    op->token = token;
    op->imported = std::make_unique<SimRemote>(*name, token, memory, asks);
    running_.push_back(op);
    if (asks) {
        start_request(op);
    } else {
        settle(op);
    }
    return {};
}

std::unique_ptr<RemoteSegment> SimLane::imported(std::uint64_t cookie) {
    auto found = imports_.extract(cookie);
    return found.empty() ? nullptr : std::move(found.mapped());
}

// --- one-sided operations -----------------------------------------------------------------------

void SimLane::read_window(const SimOpPtr& op) {
    const SimMemory& memory = *op->memory;
    const SimCore::Host& owner = core_.host(memory.host);
    if (owner.crashed || owner.incarnation != memory.incarnation) {
        op->error = Errc::PeerDown;
    } else if (op->kind != OpKind::Read) {
        op->error = Errc::Denied;
    } else if (memory.destroyed) {
        op->error = Errc::Invalid;  // no such memory in that process any more
    } else {
        carry_out(op, 0, op->bytes);
    }
    settle(op);
}

// A request travels like a message; the target carries it out in its receive().
void SimLane::start_request(const SimOpPtr& op) {
    for (const Bytes piece : op->gather) op->snapshot.insert(op->snapshot.end(), piece.begin(), piece.end());
    on_lane(arrival(1 - side_), 1 - side_, [op](SimLane& other) {
        if (other.ended_ || op->over || !other.core_.reachable(other.host(), other.peer_host())) return;
        other.inbox_.push_back({.request = op});
        other.core_.wake(other.host());
    });
    unkind();
}

void SimLane::execute(const SimOpPtr& op) {
    if (op->over || ended_) return;
    const bool import = op->kind == OpKind::Import;
    const Access wanted = import ? Access::None : access_for(op->kind);
    op->error = sim_access(op->memory.get(), op->token, wanted, op->offset, op->bytes);
    if (!op->error && op->memory->revoked) op->error = Errc::Denied;
    if (!op->error && !import) carry_out(op, 0, op->bytes);
    if (!op->error && op->kind == OpKind::WriteNotify) {
        store_word(op->memory->bytes.data() + op->notify_offset, op->operand);
    }
    on_lane(arrival(1 - side_), 1 - side_, [op](SimLane& other) {
        if (other.core_.reachable(other.host(), other.peer_host())) other.settle(op);
    });
}

// In pieces of whole words, in any order, spread over the delay.
void SimLane::start_one_sided(const SimOpPtr& op) {
    constexpr std::uint64_t kPiecesMax = 16;
    const auto piece =
        round_up(std::max({core_.plan.piece_bytes, op->bytes / kPiecesMax, std::uint64_t{8}}), 8);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> pieces;
    for (std::uint64_t at = 0; at < op->bytes;) {
        const auto past = (op->offset + at) % 8;
        const auto count = std::min(op->bytes - at, piece - past);
        pieces.emplace_back(at, count);
        at += count;
    }
    for (std::size_t left = pieces.size(); left > 1; --left)
        std::swap(pieces[left - 1], pieces[core_.rng.below(left)]);
    const Instant begin = std::max(core_.now(), writes_end_);
    const Nanos delay = core_.draw_delay();
    const auto steps = static_cast<std::int64_t>(pieces.size()) + 1;
    for (std::size_t index = 0; index < pieces.size(); ++index) {
        const auto [at, count] = pieces[index];
        on_lane(begin + delay * static_cast<std::int64_t>(index + 1) / steps, side_,
                [op, at = at, count = count](SimLane& lane) { lane.carry_out(op, at, count); });
    }
    if (op->early) {
        on_lane(begin + delay / 2, side_, [op](SimLane& lane) {
            if (op->over || op->error || op->cut_off) return;
            for (const Bytes part : op->gather)
                op->snapshot.insert(op->snapshot.end(), part.begin(), part.end());
            lane.complete(op);
        });
    }
    if (!op->reads()) writes_end_ = begin + delay;
    on_lane(begin + delay, side_, [op](SimLane& lane) {
        if (op->over) return;
        if (op->bytes == 0) lane.carry_out(op, 0, 0);
        if (op->cut_off) {
            lane.on_lane(lane.core_.now() + kAckTimeout, lane.side_,
                         [](SimLane& silent) { silent.end("the peer is silent"); });
            return;
        }
        if (!op->error && op->kind == OpKind::WriteNotify) {
            store_word(op->memory->bytes.data() + op->notify_offset, op->operand);
        }
        const bool refused = op->error.has_value();
        lane.settle(op);
        // As with queue pairs: after a refused access the lane is of no more use.
        if (refused && lane.profile_ == SimProfile::OneSided) {
            lane.tell_peer("an access was refused");
            lane.end("an access was refused");
        }
    });
    unkind();
}

// Moves `bytes` of the operation, `at` bytes after its start, between its buffers and the target.
void SimLane::carry_out(const SimOpPtr& op, std::uint64_t at, std::uint64_t bytes) {
    if (op->over || op->error || op->cut_off) return;
    if (profile_ != SimProfile::Messages && !op->memory->window) {
        op->error = sim_access(op->memory.get(), op->token, access_for(op->kind), op->offset, op->bytes);
        if (!op->error && op->memory->revoked && caps_.hard_revoke) op->error = Errc::Denied;
        const SimCore::Host& owner = core_.host(peer_host());
        op->cut_off = owner.crashed || !core_.reachable(host(), peer_host());
        if (op->error || op->cut_off) return;
    }
    std::byte* target = op->memory->bytes.data() + op->offset;
    if (op->kind == OpKind::Cas) {
        op->value = compare_swap_word(target, op->compare, op->operand);
    } else if (op->kind == OpKind::FetchAdd) {
        op->value = fetch_add_word(target, op->operand);
    } else if (op->kind == OpKind::Read) {
        Landing landing(op->scatter);
        landing.advance(at);
        std::vector<std::byte> piece(bytes);
        copy_from_shared(piece.data(), target + at, bytes);
        landing.take(piece);
    } else if (!op->snapshot.empty()) {
        copy_to_shared(target + at, op->snapshot.data() + at, bytes);
    } else {
        std::uint64_t skip = at;
        std::uint64_t done = 0;
        for (Bytes part : op->gather) {
            const auto skipped = std::min<std::uint64_t>(skip, part.size());
            skip -= skipped;
            part = part.subspan(skipped);
            part = part.first(std::min<std::uint64_t>(part.size(), bytes - done));
            copy_to_shared(target + at + done, part.data(), part.size());
            done += part.size();
        }
    }
}

}  // namespace cmpool::transport
