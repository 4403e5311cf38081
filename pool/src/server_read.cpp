#include "exposed_segment.h"
#include "server_impl.h"

#include <algorithm>

namespace cmpool::pool {

using wire::Outcome;

// ---- same-host memory ----

Result<wire::Grant> ServerImpl::control_page(Peer& peer, DomainStore& store) {
    auto known = peer.pages.find(&store);
    if (known == peer.pages.end()) {
        if (peer.process == nullptr && peer.lane->peer().pid)
            peer.process = processes_.watch(*peer.lane->peer().pid);
        if (peer.process == nullptr) {
            return fail(Errc::Unsupported,
                        "expected a process of this host whose end can be seen, saw pid {}",
                        peer.lane->peer().pid.value_or(0));
        }
        auto page = memory_->fabric().allocate(
            {.bytes = sizeof(model::ControlPage), .access = transport::Access::ReadWrite, .name = "control"});
        if (!page) return fail(page.error());
        known = peer.pages.emplace(&store, store.pins().add(std::move(*page), peer.process)).first;
    }
    const auto& segment = store.pins().segment(known->second);
    return wire::Grant{.bytes = sizeof(model::ControlPage),
                       .token = segment.token().value,
                       .descriptor = segment.descriptor().bytes};
}

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::Attach& ask) {
    const OpenedNamespace* space = opened(peer, id, ask.namespace_id);
    if (space == nullptr) return;
    if (!peer.lane->caps().exposes_pool) {
        return refuse(peer, id, {Errc::Unsupported, "pool memory is not exposed over this lane"});
    }
    DomainStore& store = *space->store;
    // Who only reads has nothing to write pins to: leases keep the bytes for it.
    const bool maps = peer.lane->caps().map == transport::MapKind::Coherent;
    Result<wire::Grant> control;
    if (maps) control = control_page(peer, store);
    if (!control) return refuse(peer, id, control.error());
    if (!maps && config_.one_sided == nullptr) {
        return refuse(peer, id, {Errc::Unsupported, "no memory is known to this lane's fabric"});
    }

    const auto grant = [maps](const transport::Segment& segment, std::uint64_t bytes, std::size_t index) {
        // Memory makes nothing else.
        const auto& shown = maps ? segment : *static_cast<const ExposedSegment&>(segment).one_sided();
        return wire::Grant{.index = static_cast<std::uint32_t>(index),
                           .bytes = bytes,
                           .token = shown.token().value,
                           .descriptor = shown.descriptor().bytes};
    };
    wire::Attached answer{
        .bucket_bits = store.bucket_bits(),
        .segment_bytes = memory_->segment_bytes(),
        .index = grant(store.index_segment(), IndexWriter::table_bytes(store.bucket_bits()), 0),
        .control = std::move(*control)};
    const auto& segments = store.segments();
    for (std::size_t index = ask.known_segments; index < segments.size(); ++index) {
        if (segments[index] == nullptr) continue;
        if (answer.segments.size() == wire::kGrantsMax) break;
        answer.segments.push_back(grant(*segments[index], memory_->segment_bytes(), index));
    }
    send(peer, id, std::move(answer));
}

// ---- match, lease, release ----

namespace {

bool missing(const DomainStore& store, ExtentId id) { return id == kNoExtent || store.expired(id); }

}  // namespace

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::Match& ask) {
    const OpenedNamespace* space = opened(peer, id, ask.namespace_id);
    if (space == nullptr) return;
    std::vector<ExtentId> run(ask.chain.size());
    // A place says how long its block is, which stands in the block's header.
    ask.places ? space->store->find(ask.chain, run) : space->store->probe(ask.chain, run);
    run.erase(std::ranges::find_if(run, [&](ExtentId each) { return missing(*space->store, each); }),
              run.end());
    // From the last to the first, so that the root stays warmest.
    std::for_each(run.rbegin(), run.rend(), [&](ExtentId extent) { space->store->touch(extent); });
    ++counts_.reads.match_calls;
    counts_.reads.match_blocks_asked += ask.chain.size();
    counts_.reads.match_blocks_hit += run.size();
    wire::Matched answer{.blocks = static_cast<std::uint32_t>(run.size())};
    std::vector<wire::Place> places;
    if (ask.places) places = places_of(*space->store, ask.chain, run);
    answer.places = places;
    if (ask.lease_ms > 0 && !run.empty()) give_lease(peer, *space, std::move(run), ask, answer);
    send(peer, id, answer);
}

// All or none: a place that is missing would be another block's.
std::vector<wire::Place> ServerImpl::places_of(const DomainStore& store, std::span<const model::Digest> chain,
                                               std::span<const ExtentId> run) {
    std::vector<wire::Place> places;
    places.reserve(run.size());
    for (std::size_t at = 0; at < run.size(); ++at) {
        const auto shown = store.shown(chain[at], run[at]);
        if (!shown) return {};
        places.push_back({.tag_word = shown->slot.tag_word,
                          .location_word = shown->slot.location_word,
                          .slot = static_cast<std::uint32_t>(shown->slot_index),
                          .length = static_cast<std::uint32_t>(store.view(run[at]).payload.size())});
    }
    return places;
}

void ServerImpl::give_lease(Peer& peer, const OpenedNamespace& space, std::vector<ExtentId> extents,
                            const wire::Match& ask, wire::Matched& answer) {
    std::uint64_t bytes = 0;
    for (const ExtentId extent : extents) bytes += space.store->extent(extent).units * model::kUnitBytes;
    if (peer.leased_bytes + bytes > lease_bytes_max_) {
        ++counts_.leases_refused;  // a later miss is legal
        return;
    }
    auto lease_for = std::min(std::chrono::milliseconds(ask.lease_ms), kLeaseMax);
    Space& owner = space.store->space(space.record.namespace_id);
    // What is beyond the quota is lent, and comes back within kLentBackWithin.
    if (memory_->quotas().any() && owner.leased_bytes + bytes > owner.quota_bytes) {
        if (memory_->lent_is_wanted()) {
            ++counts_.leases_refused;
            return;
        }
        lease_for = std::min(lease_for, kLentLeaseMax);
    }
    for (const ExtentId extent : extents) space.store->hold(extent);
    peer.leased_bytes += bytes;
    owner.leased_bytes += bytes;
    ++counts_.leases_given;
    answer.lease_id = next_lease_++;
    answer.lease_ms = static_cast<std::uint32_t>(lease_for.count());
    leases_.emplace(answer.lease_id, Lease{peer.id, clock_.now() + lease_for, space.store, &owner,
                                           std::move(extents), bytes, ask.places});
}

void ServerImpl::expire_leases() {
    const Instant now = clock_.now();
    for (auto at = leases_.begin(); at != leases_.end();) {
        const auto lease = at++;
        auto& [id, held] = *lease;
        if (held.ends > now) continue;
        if (!held.cools) ++counts_.leases_expired;
        const bool fits = cooling_bytes_ + held.bytes <= memory_->capacity_bytes() / kCoolingShare;
        if (held.cools || !held.one_sided || !fits) {
            end_lease(lease);
            continue;
        }
        held.cools = true;
        held.ends = now + kCooling;
        cooling_bytes_ += held.bytes;
    }
}

void ServerImpl::end_lease(std::unordered_map<std::uint64_t, Lease>::iterator lease) {
    for (const ExtentId extent : lease->second.extents) lease->second.store->unhold(extent);
    if (Peer* peer = find(lease->second.peer)) peer->leased_bytes -= lease->second.bytes;
    lease->second.space->leased_bytes -= lease->second.bytes;
    if (lease->second.cools) cooling_bytes_ -= lease->second.bytes;
    leases_.erase(lease);
}

void ServerImpl::handle(Peer& peer, std::uint64_t, const wire::Release& ask) {
    for (const std::uint64_t id : ask.lease_ids) {
        const auto lease = leases_.find(id);
        if (lease != leases_.end() && lease->second.peer == peer.id) end_lease(lease);
    }
}

// ---- exists, get, remove, list ----

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::Exists& ask) {
    const OpenedNamespace* space = opened(peer, id, ask.namespace_id, Right::ToPut);
    if (space == nullptr) return;
    std::vector<ExtentId> found(ask.digests.size());
    space->store->find(ask.digests, found);
    std::vector<Outcome> outcomes;
    outcomes.reserve(found.size());
    // Who asks wants to know whether it must be put here: a copy of what belongs elsewhere is no answer to
    // that.
    for (const ExtentId extent : found) {
        const bool there = !missing(*space->store, extent) && !space->store->near(extent);
        outcomes.push_back(there ? Outcome::Ok : Outcome::Miss);
    }
    send(peer, id, wire::Outcomes{.outcomes = outcomes});
}

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::Get& ask) {
    const OpenedNamespace* space = opened(peer, id, ask.namespace_id);
    if (space == nullptr) return;
    DomainStore& store = *space->store;
    const std::size_t count = ask.digests.size();
    auto& [found, outcomes, lengths, checksums, gather] = got_;
    found.resize(count);
    outcomes.assign(count, Outcome::Miss);
    lengths.assign(count, 0);
    checksums.assign(count, 0);
    gather.clear();
    std::vector<Held> held;
    held.reserve(count);
    std::uint64_t bytes = 0;
    store.find(ask.digests, found);
    for (std::size_t index = 0; index < count; ++index) {
        const ExtentId extent = found[index];
        // What was leased in time is there until the lease ends.
        if (missing(store, extent) && (extent == kNoExtent || store.extent(extent).holds == 0)) continue;
        // A block that is named twice is gone the second time, where its bytes were bad.
        if (ask.verify && (store.find(ask.digests[index]) != extent || !store.verify(extent))) continue;
        const BlockView block = store.view(extent);
        lengths[index] = static_cast<std::uint32_t>(block.payload.size());
        checksums[index] = block.checksum;
        Bytes wanted = block.payload;
        if (!ask.ranges.empty() && !ask.ranges[index].whole()) {
            outcomes[index] = Outcome::Outside;
            const auto range = ask.ranges[index].within(lengths[index]);
            if (!range) continue;
            wanted = wanted.subspan(range->offset, range->length);
            lengths[index] = range->length;
            checksums[index] = ask.verify ? model::checksum(wanted) : 0;
        }
        outcomes[index] = Outcome::TooSmall;
        if (lengths[index] > ask.bytes_max[index]) continue;
        outcomes[index] = Outcome::Later;
        if (bytes + lengths[index] > kAnswerBytesMax) continue;
        outcomes[index] = Outcome::Ok;
        bytes += lengths[index];
        gather.push_back(wanted);
        store.hold(extent);
        held.push_back({&store, extent});
        counts_.reads.near_hits += store.near(extent) ? 1 : 0;
    }
    std::for_each(held.rbegin(), held.rend(), [](const Held& hit) { hit.store->touch(hit.extent); });
    counts_.reads.get_hits += held.size();
    counts_.reads.get_misses +=
        static_cast<std::size_t>(std::count(outcomes.begin(), outcomes.end(), Outcome::Miss));
    counts_.reads.get_bytes += bytes;
    send(peer, id, wire::Outcomes{outcomes, lengths, checksums}, gather, std::move(held));
}

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::Remove& ask) {
    const OpenedNamespace* space = opened(peer, id, ask.namespace_id);
    if (space == nullptr) return;
    std::vector<Outcome> outcomes;
    for (const auto& digest : ask.digests) {
        const bool removed = space->store->remove(digest, ask.namespace_id);
        outcomes.push_back(removed ? Outcome::Ok : Outcome::Miss);
    }
    send(peer, id, wire::Outcomes{.outcomes = outcomes});
}

void ServerImpl::handle(Peer& peer, std::uint64_t id, const wire::List& ask) {
    const OpenedNamespace* space = opened(peer, id, ask.namespace_id);
    if (space == nullptr) return;
    std::vector<wire::ListedBlock> blocks;
    const std::size_t limit = std::min(ask.limit, wire::kListMax);
    const std::uint64_t next = space->store->list(ask.namespace_id, ask.cursor, limit, blocks);
    send(peer, id, wire::Listed{.blocks = blocks, .next_cursor = next});
}

}  // namespace cmpool::pool
