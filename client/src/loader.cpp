#include "loader.h"

#include <algorithm>

#include <cmpool/base/units.h>
#include <cmpool/client/pool_uri.h>
#include <cmpool/model/placement.h>

namespace cmpool::client {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kBatchBytesMax = 16 * MiB;
constexpr std::uint64_t kFirstBatchBytes = 256 * KiB;  // nobody knows yet how fast it is
constexpr Nanos kBatchDeadlineMin = 20ms;
constexpr int kBatchLateness = 8;  // a batch may take so many times what it usually takes
constexpr int kLittle = 8;         // of the time until the engine is there, a batch leaves this part
// Of what comes by layers, the first of so many pieces must be here before the step begins.
constexpr std::uint32_t kLayerPieces = 8;
constexpr Nanos kLayersWorthIt = 500us;  // below, all blocks are here as soon as the first layers would be

}  // namespace

void Loader::work(const LoadJob& job, const std::stop_token& stop) {
    layers_tried_ = false;
    bool more = !stop.stop_requested() && pool_ != nullptr;
    while (more) {
        Meeting::Range range;
        if (begin_layers(job, range)) {
            load_layers(job, range, stop);
        } else {
            more = load_batch(job);
        }
        more = more && !stop.stop_requested();
    }
    give_up(job);
}

void Loader::give_up(const LoadJob& job) {
    {
        const std::scoped_lock lock(job.state->mutex);
        job.state->meeting.stop();
        job.state->changed.notify_all();
    }
    shared_.progressed();
}

bool Loader::load_batch(const LoadJob& job) {
    Load::State& state = *job.state;
    Meeting::Range range;
    Nanos until_met{};
    {
        const std::scoped_lock lock(state.mutex);
        range = state.meeting.claim_back(batch_blocks());
        state.batch_begun = shared_.clock.now();
        until_met = std::max(state.computing_until - state.batch_begun, Nanos{0}) +
                    state.compute.block * static_cast<std::int64_t>(state.meeting.unclaimed());
    }
    if (range.count == 0) return false;
    const auto [good, took] = get(job, range, until_met, share_.range(kv_));
    // How long what did not come would have taken, nobody knows: long.
    const auto per_block = learn(share_.block_bytes(kv_) * (good == 0 ? range.count : good),
                                 good == 0 ? took * kBatchLateness : took);
    {
        const std::scoped_lock lock(state.mutex);
        state.meeting.landed(good);
        state.load_per_block = per_block;
        state.batch_begun = shared_.clock.now();
        state.changed.notify_all();
    }
    shared_.progressed();
    return good == range.count;
}

// ---- by layers ----

// Once the rest loads while the step behind the hit computes, nothing is won by having whole blocks first.
// Tried once a hit, and only at a rate that was measured.
bool Loader::begin_layers(const LoadJob& job, Meeting::Range& range) {
    if (layers_tried_ || kv_.layers < 2 || share_.striped()) return false;
    std::optional<Nanos> each;
    {
        const std::scoped_lock lock(shared_.mutex);
        each = shared_.costs.load(share_.block_bytes(kv_));
    }
    Load::State& state = *job.state;
    const std::scoped_lock lock(state.mutex);
    const std::size_t left = state.meeting.unclaimed();
    if (!each || left == 0 || state.meeting.stopped()) return false;
    if (left > blocks_within(state.beside, *each) || *each * static_cast<std::int64_t>(left) < kLayersWorthIt)
        return false;
    range = state.meeting.claim_back(left);
    state.batch_begun = shared_.clock.now();
    state.layers_here = 0;
    state.by_layers = true;
    layers_tried_ = true;
    return true;
}

void Loader::load_layers(const LoadJob& job, Meeting::Range range, const std::stop_token& stop) {
    // Only this thread changes it from now on. A piece may take as long as the step that it comes beside.
    const Nanos beside = job.state->beside;
    for (std::uint32_t from = 0; from < kv_.layers;) {
        const std::uint32_t count = std::min(layers_at_once(range.count), kv_.layers - from);
        const auto [good, took] = get(job, range, beside, kv_.layer_range(from, count));
        (void)learn(kv_.layer_bytes() * count * range.count, good == 0 ? took * kBatchLateness : took);
        const bool all = good == range.count && !stop.stop_requested();
        if (!all || !layers_here(job, range, from, count, took)) return layers_over(job);
        from += count;
    }
}

// False when the rest takes so much longer than planned that it is not worth waiting for.
bool Loader::layers_here(const LoadJob& job, Meeting::Range range, std::uint32_t from, std::uint32_t count,
                         Nanos took) {
    {
        Load::State& state = *job.state;
        const std::scoped_lock lock(state.mutex);
        state.layers_here = from + count;
        const auto layers_left = static_cast<std::int64_t>(kv_.layers - state.layers_here);
        const Nanos instead =
            state.compute.step + state.compute.block * static_cast<std::int64_t>(range.count);
        if (state.meeting.stopped()) return false;
        if (!state.patient && took / std::int64_t{count} * layers_left > state.beside + instead) return false;
        state.batch_begun = shared_.clock.now();
        if (layers_left == 0) {
            state.by_layers = false;
            state.meeting.landed(range.count);
        }
        state.changed.notify_all();
    }
    shared_.progressed();
    return true;
}

// Its blocks are loaded and computed as others are: what is missing, or a pool that is sick, shows there.
void Loader::layers_over(const LoadJob& job) {
    {
        const std::scoped_lock lock(job.state->mutex);
        job.state->by_layers = false;
        job.state->beside = {};
        job.state->meeting.give_back();
        job.state->batch_begun = shared_.clock.now();
        job.state->changed.notify_all();
    }
    shared_.progressed();
}

std::uint32_t Loader::layers_at_once(std::size_t blocks) {
    const std::uint64_t layer = kv_.layer_bytes() * blocks;
    const std::scoped_lock lock(shared_.mutex);
    const Nanos each = std::max(shared_.costs.load(layer).value_or(kBatchTime), Nanos{1});
    const std::uint64_t most = std::max<std::uint64_t>(kBatchBytesMax / layer, 1);
    const auto pieces = std::max<std::uint64_t>(kv_.layers / kLayerPieces, 1);
    return static_cast<std::uint32_t>(
        std::clamp<std::uint64_t>(static_cast<std::uint64_t>(kBatchTime / each), 1, std::min(most, pieces)));
}

// ---- one get ----

Loader::Got Loader::get(const LoadJob& job, Meeting::Range range, Nanos until_met, ByteRange bytes) {
    const std::uint64_t all = range.count * (bytes.whole() ? kv_.page_bytes() : bytes.length);
    const Instant begun = shared_.clock.now();
    const auto limit = deadline(job.state->patient, range.count, until_met, all);
    const Nanos least = time_on_the_way(all);
    const bool late = limit && least > *limit;
    const std::size_t good = late ? 0 : ask(job, range, bytes, limit);
    hold(*job.state, begun + (late ? *limit : least));
    return {good, shared_.clock.now() - begun};
}

Nanos Loader::time_on_the_way(std::uint64_t bytes) const {
    constexpr double kLongest = 1e15;  // some eleven days
    if (!bytes_per_s_) return Nanos{0};
    const double seconds = double(bytes) / double(std::max<std::uint64_t>(*bytes_per_s_, 1));
    return Nanos(static_cast<std::int64_t>(std::min(seconds * 1e9, kLongest)));
}

// Until then, or until nobody wants it any more.
void Loader::hold(Load::State& state, Instant until) {
    std::unique_lock lock(state.mutex);
    state.changed.wait_for(lock, until - shared_.clock.now(), [&] { return state.meeting.stopped(); });
}

std::size_t Loader::ask(const LoadJob& job, Meeting::Range range, ByteRange bytes,
                        std::optional<Nanos> limit) {
    std::vector<MutableBytes> pieces;
    for (std::size_t index = range.first; index < range.first + range.count; ++index)
        kv_.append_pieces(job.pages[index], bytes, pieces);
    const std::size_t each = pieces.size() / range.count;
    const std::uint64_t length = bytes.whole() ? kv_.page_bytes() : bytes.length;
    std::vector<GetItem> items;
    for (std::size_t index = 0; index < range.count; ++index) {
        const auto position = static_cast<std::uint32_t>(range.first + index);
        items.push_back({share_.key(job.keys[position]), std::span(pieces).subspan(index * each, each),
                         model::group_key(job.keys, position, spec_.group_blocks), bytes});
    }
    const auto report = pool_->get(items, {.deadline = limit, .places = job.places});
    std::size_t good = 0;
    while (good < range.count) {
        const auto& block = report.blocks[range.count - 1 - good];
        if (block.outcome != Outcome::Hit || block.bytes != length) break;
        ++good;
    }
    return good;
}

std::size_t Loader::batch_blocks() {
    const std::uint64_t block = share_.block_bytes(kv_);
    const std::scoped_lock lock(shared_.mutex);
    const auto known = shared_.costs.load(block);
    const std::uint64_t most = std::max<std::uint64_t>(kBatchBytesMax / block, 1);
    std::uint64_t count = std::max<std::uint64_t>(kFirstBatchBytes / block, 1);
    if (known) count = static_cast<std::uint64_t>(kBatchTime / std::max(*known, Nanos{1}));
    return std::clamp<std::uint64_t>(count, 1, std::min<std::uint64_t>(most, model::kBatchMax));
}

// What is not there by then is computed. A late batch may cost its engine about as much as computing it
// would, and ends before the engine, busy until `until_met`, is there: then nobody waits. Shorter
// deadlines would open the breaker on a machine that is merely busy.
std::optional<Nanos> Loader::deadline(bool patient, std::size_t blocks, Nanos until_met,
                                      std::uint64_t bytes) {
    const auto parsed = PoolUri::parse(uri_);
    if (!parsed) return std::nullopt;
    if (patient) return parsed->deadline;
    const std::scoped_lock lock(shared_.mutex);
    const auto usual = shared_.costs.load(bytes).value_or(Nanos{0});
    Nanos limit = usual * kBatchLateness;
    if (const auto cost = shared_.costs.compute(kv_.block_tokens)) {
        const Nanos otherwise = cost->step + cost->block * static_cast<std::int64_t>(blocks);
        limit = std::min(std::max(limit, otherwise), std::max(otherwise, until_met - until_met / kLittle));
    }
    return std::min(parsed->deadline, std::max(kBatchDeadlineMin, limit));
}

Nanos Loader::learn(std::uint64_t bytes, Nanos took) {
    const std::scoped_lock lock(shared_.mutex);
    shared_.costs.loaded(bytes, took);
    return *shared_.costs.load(share_.block_bytes(kv_));
}

}  // namespace cmpool::client
