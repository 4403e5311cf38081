#include "session.h"

#include <algorithm>

#include <cmpool/wire/load_level.h>

namespace cmpool::client {
namespace {

/// Messages that are handed to a lane at once.
constexpr std::size_t kSendsAtOnce = 16;

transport::Op send_of(std::uint64_t request_id, Bytes head, std::span<const Bytes> payload) {
    return {.kind = transport::OpKind::Send,
            .signal = !payload.empty(),
            .gather = payload,
            .head = head,
            .cookie = request_id};
}

}  // namespace

void Asker::place(std::uint64_t, const wire::Body&, std::vector<MutableBytes>&) {}

// ---- requests ----

Result<std::uint64_t> Session::ask(Asker& asker, std::uint64_t part, wire::Body body,
                                   std::span<const Bytes> payload) {
    if (state_ != State::Ready) return fail(Errc::PeerDown, "not connected to {}", uri_.address);
    if (unsent_.size() >= kUnsentMax)
        return fail(Errc::Again, "{} requests wait for {}", unsent_.size(), uri_.address);
    tell_given_back();
    const std::uint64_t id = next_id_++;
    const Bytes head =
        encoder_.encode({.request_id = id, .epoch = book_->view.epoch, .body = std::move(body)});
    requests_.emplace(id, Request{&asker, part});
    send(id, head, payload);
    return id;
}

void Session::tell(wire::Body body) {
    if (state_ != State::Ready || unsent_.size() >= kUnsentMax) return;
    const std::uint64_t id = next_id_++;
    send(id, encoder_.encode({.request_id = id, .epoch = book_->view.epoch, .body = std::move(body)}), {});
}

// Not to be dropped: behind a put that announces them the pool takes nothing else.
void Session::tell_sums(std::uint64_t request_id, std::span<const std::uint64_t> checksums) {
    if (state_ != State::Ready || failure_) return;
    const Bytes head = encoder_.encode(
        {.request_id = request_id, .epoch = book_->view.epoch, .body = wire::Sums{checksums}});
    send(request_id, head, {}, true);
}

void Session::give_back(std::uint64_t lease_id) {
    if (state_ != State::Ready) return;  // it ended with the lane
    given_back_.push_back(lease_id);
    if (given_back_.size() < kGivenBackMax) return;
    tell_given_back();
    flush();
}

// It stands in front of what is sent next, and leaves with it.
void Session::tell_given_back() {
    if (given_back_.empty()) return;
    if (unsent_.size() < kUnsentMax) {
        const std::uint64_t id = next_id_++;
        const Bytes head = encoder_.encode(
            {.request_id = id, .epoch = book_->view.epoch, .body = wire::Release{given_back_}});
        unsent_.push_back({id, {head.begin(), head.end()}, {}});
    }
    given_back_.clear();
}

// An error shows at the next progress().
void Session::push() noexcept {
    if (state_ == State::Ready && lane_ != nullptr) (void)lane_->post({});
}

void Session::send(std::uint64_t request_id, Bytes head, std::span<const Bytes> payload, bool sums) {
    const transport::Op op = send_of(request_id, head, payload);
    if (unsent_.empty() && post({&op, 1}) == 1) return;
    unsent_.push_back({request_id, {head.begin(), head.end()}, {payload.begin(), payload.end()}, sums});
    flush();
}

void Session::flush() {
    std::array<transport::Op, kSendsAtOnce> batch;
    while (!unsent_.empty() && lane_ != nullptr && !failure_) {
        const std::size_t count = std::min(batch.size(), unsent_.size());
        for (std::size_t at = 0; at < count; ++at)
            batch[at] = send_of(unsent_[at].request_id, unsent_[at].head, unsent_[at].payload);
        const std::size_t taken = post(std::span(batch).first(count));
        unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(taken));
        if (taken < count) return;
    }
}

// How many the lane has taken; of one that has failed, which takes none, the failure tells all.
std::size_t Session::post(std::span<const transport::Op> batch) {
    const auto posted = lane_->post(batch);
    if (!posted && posted.error().code == Errc::Again) return 0;
    if (!posted) {
        fail_lane(posted.error());
        return batch.size();
    }
    for (const auto& op : batch.first(*posted)) {
        if (op.signal) sending_.insert(op.cookie);
    }
    return *posted;
}

bool Session::forget(Asker& asker) {
    const bool read = asker.reads() != nullptr && reader_.forget(*asker.reads());
    return forget_requests(asker) || read;
}

bool Session::forget_requests(Asker& asker) {
    bool known = std::erase_if(refreshing_, [&](const Request& each) { return each.asker == &asker; }) > 0;
    bool sending = false;
    for (auto request = requests_.begin(); request != requests_.end();) {
        const auto next = std::next(request);
        if (request->second.asker == &asker) {
            known = true;
            const std::uint64_t id = request->first;
            if (landing_ == id) lane_->discard_landing();
            // What was announced still has to come, unless the announcement goes too.
            const bool whole = std::ranges::any_of(
                unsent_, [&](const Unsent& unsent) { return unsent.request_id == id && !unsent.sums; });
            std::erase_if(unsent_, [&](const Unsent& unsent) {
                return unsent.request_id == id && (whole || !unsent.sums);
            });
            sending = sending || sending_.contains(id);
            requests_.erase(request);
        }
        request = next;
    }
    // Half a frame cannot be called back: only the end of the lane gives the buffers back now.
    if (sending) down({{Errc::Deadline, fmt::format("{} did not take a put in time", uri_.address)}, false});
    return known;
}

std::vector<std::uint64_t> Session::parts_of(const Asker& asker) const {
    std::vector<std::uint64_t> parts;
    for (const auto& waiting : refreshing_) {
        if (waiting.asker == &asker) parts.push_back(waiting.part);
    }
    for (const auto& [id, request] : requests_) {
        if (request.asker == &asker) parts.push_back(request.part);
    }
    return parts;
}

void Session::overdue(const Error& why) {
    trouble_ = why;
    if (!breaker_.open()) breaker_.trip(environment_.clock->now());
}

// The smallest question there is. Whatever comes back closes the breaker.
void Session::probe() {
    breaker_.trip(environment_.clock->now());
    probing_ = true;
    tell(wire::Exists{.namespace_id = namespace_id_});
}

// Payloads come on the lane that requests go out on. What is decoded here is kept for message(): the other
// lane, which may come in between, has a decoder of its own.
void Session::place(transport::Lane& lane, Bytes head, std::uint64_t payload_bytes,
                    std::vector<MutableBytes>& into) {
    if (payload_bytes == 0 || &lane != lane_.get()) return;
    arriving_ = decoder_.decode(head);
    if (!*arriving_) return;
    const auto request = requests_.find((*arriving_)->request_id);
    if (request == requests_.end()) return;
    landing_ = request->first;
    request->second.asker->place(request->second.part, (*arriving_)->body, into);
}

void Session::hold_back(std::uint8_t load) {
    if (load == 0 && load_ == 0) return;
    const Instant now = environment_.clock->now();
    load_ = load;
    stores_after_ = now + wire::store_pause(load);
    loads_after_ = now + wire::load_pause(load);
}

void Session::message(transport::Lane& lane, Bytes head, std::uint64_t payload_bytes) {
    landing_ = 0;
    const bool ours = &lane == lane_.get();
    const bool known = ours && payload_bytes > 0 && arriving_;
    const auto message =
        known ? *std::exchange(arriving_, std::nullopt) : (ours ? decoder_ : local_decoder_).decode(head);
    if (!message) {
        return fail_lane({Errc::Corrupt, fmt::format("{}: {}", uri_.address, message.error().detail)});
    }
    if (ours) hold_back(message->load);
    if (state_ == State::Ready && breaker_.open()) {
        breaker_.close();
        probing_ = false;
        trouble_.reset();
    }
    if (const auto* members = std::get_if<wire::Members>(&message->body)) {
        if (state_ == State::Greeting) return void(early_view_ = members->view);
        book_->offer(members->view);
        // Mostly nobody has asked for it.
        if (!requests_.contains(message->request_id)) return;
    }
    if (message->request_id == handshake_id_) {
        handshake_id_.reset();
        return handshake(lane, message->body);
    }
    const auto request = requests_.find(message->request_id);
    if (request == requests_.end()) return;  // somebody stopped waiting for it
    const Request asked = request->second;
    requests_.erase(request);
    if (const auto* failed = std::get_if<wire::Failed>(&message->body)) {
        asked.asker->lost(asked.part, {failed->code, failed->detail});
    } else if (std::holds_alternative<wire::Attached>(message->body)) {
        // It would say that memory is mapped now, which refreshed() alone knows.
        asked.asker->lost(asked.part, {Errc::Corrupt, "the pool answered something else"});
    } else {
        asked.asker->answer(asked.part, message->body);
    }
}

}  // namespace cmpool::client
