#include "server_impl.h"

#include <algorithm>

#include <cmpool/model/placement.h>

namespace cmpool::pool {

using wire::Outcome;

// A put has three steps, whichever way its bytes come: begin (space for each block that is wanted),
// write (the lane lands a payload, or we read the client's memory), commit (the block can be found).
// Nothing of it is visible before the commit, and whatever breaks before gives the space back.

void IncomingPut::sum_up(std::uint64_t bytes) {
    for (; summing < items.size() && bytes > items[summing].begins; ++summing, summed = 0) {
        Item& item = items[summing];
        const auto here = std::min<std::uint64_t>(bytes - item.begins, item.payload.size());
        if (summed == 0 && here == item.payload.size()) {
            item.seen = model::checksum(item.payload);
            continue;
        }
        if (sum == nullptr) sum = std::make_unique<model::ChecksumStream>();
        if (summed == 0) sum->reset();
        sum->update(item.payload.subspan(summed, here - summed));
        summed = here;
        if (summed < item.payload.size()) return;
        item.seen = sum->digest();
    }
}

std::unique_ptr<IncomingPut> ServerImpl::begin_put(Peer& peer, std::uint64_t id, const wire::Put& ask) {
    const auto space = std::find_if(peer.namespaces.begin(), peer.namespaces.end(), [&](const auto& each) {
        return each.record.namespace_id == ask.namespace_id;
    });
    if (space == peer.namespaces.end()) return nullptr;
    auto put = std::make_unique<IncomingPut>();
    put->request_id = id;
    put->store = space->store;
    put->near = ask.near;
    put->outcomes.assign(ask.items.size(), Outcome::Refused);
    // How old a block is that somebody has read elsewhere nobody says: where that counts it is not kept.
    if (ask.near && (space->by_member || space->store->space(ask.namespace_id).whole.ttl_s != 0)) return put;
    const std::uint32_t group_blocks = space->record.spec.group_blocks;
    for (std::size_t index = 0; index < ask.items.size(); ++index) {
        const wire::PutItem& item = ask.items[index];
        if (item.length == 0 || item.length > memory_->block_bytes_max()) continue;
        const bool in_chain = !ask.near && !item.parent.is_zero();
        const auto begun = memory_->begin(
            *space->store,
            {.namespace_id = ask.namespace_id,
             .digest = item.digest,
             .parent = in_chain ? item.parent : model::kNoParent,
             .position = item.position,
             .length = item.length,
             .begins_group = !in_chain || model::group_start(item.position, group_blocks) == item.position,
             .group = item.group,
             .beside = space->last_put,
             .unsettled =
                 !ask.near && !space->by_member && (peer.said_epoch < view_->epoch || mover_.drains()),
             .near = ask.near});
        put->outcomes[index] = begun.refused.value_or(Outcome::Ok);
        if (begun.refused) continue;
        if (space->by_member) space->last_put = item.digest;
        put->items.push_back({.index = index,
                              .extent = begun.extent,
                              .checksum = item.checksum,
                              .window_offset = item.window_offset,
                              .payload = begun.payload});
    }
    // Whoever computed a block again has just used it: it must not be the next to go. From the last to
    // the first, so that a parent stays warmer than what hangs on it.
    for (std::size_t index = ask.items.size(); index-- > 0 && !space->by_member && !ask.near;) {
        if (put->outcomes[index] != Outcome::Present) continue;
        const ExtentId known = put->store->find(ask.items[index].digest);
        if (known != kNoExtent) put->store->touch(known);
    }
    return put;
}

// Reached only where place() has not begun it: pulled puts, and those that must be refused.
void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::Put& ask) {
    if (opened(peer, id, ask.namespace_id, Right::ToPut) == nullptr) return;
    if (ask.window.empty()) {
        return refuse(peer, id, {Errc::Invalid, "expected payloads of the lengths that the put names"});
    }
    if (!peer.lane->caps().pull) {
        return refuse(peer, id,
                      {Errc::Unsupported, "this lane cannot read the client's memory: send the payload"});
    }
    if (peer.puts.size() >= kPutsPerPeerMax) {
        return refuse(peer, id,
                      {Errc::Again, fmt::format("expected at most {} puts at once", kPutsPerPeerMax)});
    }
    begin_pull(peer, begin_put(peer, id, ask), ask.window.front());
}

void ServerImpl::begin_pull(Peer& peer, std::unique_ptr<IncomingPut> put, const wire::Grant& window) {
    if (put->items.empty()) return finish_put(peer, *put);
    std::uint64_t begins = 0;
    for (auto& item : put->items) {
        item.begins = begins;
        begins += item.payload.size();
    }
    put->cookie = next_cookie_++;
    const auto started = peer.lane->import({window.descriptor}, {window.token}, put->cookie);
    if (!started) {
        abort_put(*put);
        return refuse(peer, put->request_id, started.error());
    }
    peer.puts.push_back(std::move(put));
}

// The next kPullBytes; the rest when these have come and are summed up.
void ServerImpl::post_reads(Peer& peer, IncomingPut& put) {
    std::vector<MutableBytes> pieces;
    std::vector<transport::Op> ops;
    const std::size_t count_max = std::min(put.items.size() - put.reading, peer.lane->free_slots());
    pieces.reserve(count_max);
    std::uint64_t bytes = 0;
    for (std::size_t at = put.reading; ops.size() < count_max && bytes < kPullBytes; ++at) {
        const auto& item = put.items[at];
        const std::uint64_t from = at == put.reading ? put.read : 0;
        pieces.push_back(
            item.payload.subspan(from, std::min(item.payload.size() - from, kPullBytes - bytes)));
        bytes += pieces.back().size();
        ops.push_back({.kind = transport::OpKind::Read,
                       .remote = put.window.get(),
                       .offset = item.window_offset + from,
                       .scatter = {&pieces.back(), 1},
                       .cookie = put.cookie});
    }
    if (ops.empty()) return;
    const auto posted = peer.lane->post(ops);
    if (!posted && posted.error().code != Errc::Again) put.failed = true;
    if (!posted) return;
    put.reads_posted += *posted;
    for (const auto& piece : std::span(pieces).first(*posted)) {
        put.bytes_posted += piece.size();
        peer.pulled_in_turn += piece.size();
        put.read += piece.size();
        if (put.read < put.items[put.reading].payload.size()) continue;
        ++put.reading;
        put.read = 0;
    }
}

void ServerImpl::put_completion(Peer& peer, const transport::Completion& done) {
    const auto found = std::find_if(peer.puts.begin(), peer.puts.end(),
                                    [&](const auto& each) { return each->cookie == done.cookie; });
    if (found == peer.puts.end()) return;
    IncomingPut& put = **found;
    if (done.error) put.failed = true;
    if (done.kind == transport::OpKind::Import) {
        put.window = peer.lane->imported(done.cookie);
        if (put.window == nullptr) put.failed = true;
    } else {
        ++put.reads_done;
    }
}

// One after the other, in the order of asking: a put's blocks may hang on those of the put before.
void ServerImpl::advance_puts(Peer& peer) {
    while (!peer.puts.empty()) {
        IncomingPut& put = *peer.puts.front();
        const auto reading = [&put] { return put.reads_done < put.reads_posted; };
        if (!put.failed && put.window != nullptr && !reading()) {
            put.sum_up(put.bytes_posted);
            // Others come first now; serve() says that there is more to do.
            if (put.reading < put.items.size() && peer.pulled_in_turn >= kPullBytesPerServe) return;
            post_reads(peer, put);
        }
        // Memory that a read may still fill is given back only when that read has ended.
        if (reading() || (!put.failed && put.reading < put.items.size())) return;
        const auto whole = std::move(peer.puts.front());
        peer.puts.erase(peer.puts.begin());
        if (!whole->failed) {
            finish_put(peer, *whole);
            continue;
        }
        for (const auto& item : whole->items) whole->outcomes[item.index] = Outcome::NoPull;
        abort_put(*whole);
        send(peer, whole->request_id, wire::Outcomes{.outcomes = whole->outcomes});
    }
}

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::Sums& ask) {
    if (peer.unsummed == nullptr) return;  // of a put that was refused, and answered
    const auto put = std::move(peer.unsummed);
    if (id != put->request_id || ask.checksums.size() != put->outcomes.size())
        return refuse_unsummed(peer, *put);
    for (auto& item : put->items) item.checksum = ask.checksums[item.index];
    finish_put(peer, *put);
}

// Something else came in the place of its sums: nobody can say whether its bytes are right.
void ServerImpl::refuse_unsummed(Peer& peer, IncomingPut& put) {
    for (const auto& item : put.items) put.outcomes[item.index] = Outcome::Refused;
    (put.near ? counts_.near_refused : counts_.put_refused) += put.items.size();
    abort_put(put);
    send(peer, put.request_id, wire::Outcomes{.outcomes = put.outcomes});
}

void ServerImpl::abort_put(IncomingPut& put) {
    for (const auto& item : put.items) put.store->abort(item.extent);
    put.items.clear();
}

void ServerImpl::finish_put(Peer& peer, IncomingPut& put) {
    put.sum_up(UINT64_MAX);
    for (const auto& item : put.items) {
        put.outcomes[item.index] = put.store->commit(item.extent, item.checksum, item.seen);
        if (put.outcomes[item.index] == Outcome::Ok && !put.near) counts_.put_bytes += item.payload.size();
    }
    put.items.clear();
    count_put(peer, put);
    send(peer, put.request_id, wire::Outcomes{.outcomes = put.outcomes});
}

// That there is no room for a copy of what belongs to others is no trouble.
void ServerImpl::count_put(Peer& peer, const IncomingPut& put) {
    const auto count = [&](Outcome outcome) {
        return static_cast<std::uint64_t>(std::ranges::count(put.outcomes, outcome));
    };
    if (put.near) {
        counts_.near_stored += count(Outcome::Ok);
        counts_.near_refused += count(Outcome::Refused);
        return;
    }
    if (count(Outcome::Refused) > 0) service(peer.tenant).pressure.store_refused(clock_.now());
    counts_.put_stored += count(Outcome::Ok);
    counts_.put_present += count(Outcome::Present);
    counts_.put_refused += count(Outcome::Refused);
    counts_.put_orphan += count(Outcome::Orphan);
}

}  // namespace cmpool::pool
