#include <algorithm>

#include <cmpool/client/load.h>

namespace cmpool::client {

Load::~Load() {
    std::unique_lock lock(state_->mutex);
    state_->meeting.stop();
    state_->changed.notify_all();
    // A get ends by its deadline.
    state_->changed.wait(lock, [this] { return state_->meeting.in_flight() == 0; });
}

bool Load::met() const {
    const std::scoped_lock lock(state_->mutex);
    return state_->meeting.met();
}

bool Load::ready() const {
    const std::scoped_lock lock(state_->mutex);
    return state_->meeting.met() || (state_->by_layers && state_->layers_here > 0);
}

bool Load::wait_for(std::size_t layer) const {
    std::unique_lock lock(state_->mutex);
    State& state = *state_;
    const auto here = [&] { return state.meeting.met() || (state.by_layers && state.layers_here > layer); };
    // The loading side ends each of its batches by its deadline, and gives up what has become too dear.
    state.changed.wait(lock, [&] { return here() || !state.by_layers; });
    return here();
}

std::size_t Load::claim(std::size_t count) {
    const std::scoped_lock lock(state_->mutex);
    if (const std::size_t taken = state_->meeting.claim_front(count); taken > 0) {
        const ComputeCost& cost = state_->compute;
        state_->computing_until = std::max(state_->computing_until, state_->clock.now()) + cost.step +
                                  cost.block * static_cast<std::int64_t>(taken);
    }
    return state_->meeting.front();
}

std::size_t Load::loaded_blocks() const {
    const std::scoped_lock lock(state_->mutex);
    return state_->blocks - state_->meeting.loaded();
}

Load::End Load::end() const {
    const std::scoped_lock lock(state_->mutex);
    const Meeting& meeting = state_->meeting;
    if (meeting.loaded() == 0) return End::All;
    return meeting.front() > 0 || (meeting.stopped() && meeting.in_flight() == 0) ? End::Failed : End::NotYet;
}

Advice Load::advise() const {
    constexpr Nanos kLookAgainMin = std::chrono::microseconds(50);
    constexpr Nanos kLookAgainMax = std::chrono::milliseconds(50);
    // Saving less than an eighth of the load by computing is not worth a step that may end after it.
    constexpr std::size_t kLittle = 8;
    const std::scoped_lock lock(state_->mutex);
    const Meeting& meeting = state_->meeting;
    if (meeting.unclaimed() == 0) return {.look_again = kLookAgainMax};
    if (meeting.stopped()) return {.compute_blocks = meeting.unclaimed()};
    if (state_->patient) return {.look_again = kLookAgainMax};

    // A batch that takes longer than expected makes loading dearer while it lasts. One that is not on its way
    // yet will be as large as they usually are.
    const Nanos elapsed = state_->clock.now() - state_->batch_begun;
    const std::size_t all = meeting.unclaimed() + meeting.in_flight();
    const auto usual = static_cast<std::size_t>(kBatchTime / std::max(state_->load_per_block, Nanos{1}));
    const auto batch = static_cast<std::int64_t>(
        meeting.in_flight() > 0 ? meeting.in_flight() : std::clamp<std::size_t>(usual, 1, all));
    const Nanos load = std::max(state_->load_per_block, elapsed / batch);
    const ComputeCost& compute = state_->compute;
    const Nanos least = compute.step + compute.block;
    // What comes beside the next step costs this one no time.
    const std::size_t left = all - std::min(all, blocks_within(state_->beside, load));
    if (left == 0) {
        // Until the batch that is out makes loading too dear for that.
        const Nanos still = state_->beside / static_cast<std::int64_t>(all) * batch - elapsed;
        return {.look_again = std::clamp(still, kLookAgainMin, kLookAgainMax)};
    }
    std::size_t share = std::min(front_share(left, load, compute), meeting.unclaimed());
    if (share == 0 && load * static_cast<std::int64_t>(left) >= 2 * least) share = 1;
    if (share * kLittle < left) share = 0;
    if (share > 0) return {.compute_blocks = share};
    const Nanos patience = least / static_cast<std::int64_t>(std::max<std::size_t>(left - 1, 1)) * batch;
    return {.look_again = std::clamp(patience - elapsed, kLookAgainMin, kLookAgainMax)};
}

}  // namespace cmpool::client
