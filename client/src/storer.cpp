#include "storer.h"

#include <algorithm>

#include <cmpool/base/units.h>
#include <cmpool/model/placement.h>

#include <sys/resource.h>

namespace cmpool::client {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kStoreBatchBytes = 8 * MiB;
constexpr int kStoreNiceness = 10;

}  // namespace

// On Linux each thread has a niceness of its own: whoever computes goes first.
void Storer::open() {
    (void)::setpriority(PRIO_PROCESS, 0, kStoreNiceness);
    Caller::open();
}

void Storer::work(const StoreJob& job, const std::stop_token& stop) {
    if (pool_) put_all(job, stop);
    give_up(job);
}

void Storer::give_up(const StoreJob& job) {
    job.state->done.store(true);
    job.state->done.notify_all();
    shared_.progressed();
}

void Storer::put_all(const StoreJob& job, const std::stop_token& stop) {
    const auto keys = pool_->chain(job.tokens);
    if (!keys || keys->size() < job.pages.size()) {
        pool_->progress();  // not connected yet: that is found out on the side
        return;
    }
    const std::uint64_t batch = std::max<std::uint64_t>(kStoreBatchBytes / kv_.page_bytes(), 1);
    std::vector<std::size_t> wanted;
    for (std::size_t index = job.first; index < job.pages.size(); ++index) {
        if (!is_recent(share_.key((*keys)[index]))) wanted.push_back(index);
    }
    for (std::size_t at = 0; at < wanted.size(); at += batch) {
        if (job.state->dropped.load() || stop.stop_requested()) return;
        const auto count = std::min<std::size_t>({wanted.size() - at, batch, model::kBatchMax});
        if (!put(job, *keys, std::span(wanted).subspan(at, count))) return;
    }
}

// False when the pool is not up to it: what is left is dropped.
bool Storer::put(const StoreJob& job, std::span<const Digest> keys, std::span<const std::size_t> wanted) {
    std::vector<MutableBytes> pieces;
    for (const std::size_t index : wanted) kv_.append_pieces(job.pages[index], pieces);
    const std::vector<Bytes> from(pieces.begin(), pieces.end());
    const std::size_t each = from.size() / wanted.size();
    std::vector<PutItem> items;
    for (std::size_t at = 0; at < wanted.size(); ++at) {
        const auto position = static_cast<std::uint32_t>(wanted[at]);
        items.push_back({.key = share_.key(keys[position]),
                         .from = std::span(from).subspan(at * each, each),
                         .parent = position == 0 ? model::kNoParent : share_.key(keys[position - 1]),
                         .position = position,
                         .group = model::group_key(keys, position, spec_.group_blocks),
                         .cost_us = cost_us()});
    }
    const auto report = pool_->put(items);
    const std::scoped_lock lock(shared_.mutex);
    for (std::size_t at = 0; at < wanted.size(); ++at) {
        const auto outcome = report.blocks[at].outcome;
        if (outcome == Outcome::Stored || outcome == Outcome::Present) shared_.recent.add(items[at].key);
    }
    return !report.trouble;
}

bool Storer::is_recent(const Digest& digest) {
    const std::scoped_lock lock(shared_.mutex);
    return shared_.recent.contains(digest);
}

std::uint32_t Storer::cost_us() {
    const std::scoped_lock lock(shared_.mutex);
    const Nanos cost = shared_.costs.compute(kv_.block_tokens).value_or(ComputeCost{}).block;
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(cost / 1us, 0, UINT32_MAX));
}

}  // namespace cmpool::client
