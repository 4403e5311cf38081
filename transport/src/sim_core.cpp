#include "sim_core.h"

#include <algorithm>

namespace cmpool::transport {

namespace {

constexpr std::uint64_t kLongDelays = 100;  // times delay_max

std::pair<std::string, std::string> unordered(const std::string& one, const std::string& other) {
    return {std::min(one, other), std::max(one, other)};
}

}  // namespace

SimCore::Host& SimCore::host(const std::string& name) {
    Host& found = hosts_[name];
    if (found.number == 0) found.number = static_cast<std::int32_t>(hosts_.size());
    return found;
}

std::int32_t SimCore::pid(const std::string& name) {
    constexpr std::int32_t kHostsMax = 1 << 16;
    const Host& process = host(name);
    return static_cast<std::int32_t>(process.incarnation % kHostsMax) * kHostsMax + process.number;
}

void SimCore::at(Instant when, std::function<void()> action) {
    events_.emplace(std::pair(std::max(when, now()), events_made_++), std::move(action));
}

bool SimCore::step() {
    if (events_.empty()) return false;
    auto next = events_.extract(events_.begin());
    clock_.instant = std::max(clock_.instant, next.key().first);
    next.mapped()();
    return true;
}

void SimCore::run_until(Instant when) {
    while (!events_.empty() && events_.begin()->first.first <= when) step();
    clock_.instant = std::max(clock_.instant, when);
}

void SimCore::wake(const std::string& name) {
    Host& sleeper = host(name);
    if (sleeper.wake_due || sleeper.crashed) return;
    sleeper.wake_due = true;
    if (sleeper.frozen) return;
    const Instant when = sleeper.woken == now() ? now() + Nanos{1} : now();
    at(when, [this, name] {
        Host& woken = host(name);
        if (woken.frozen || !woken.wake_due) return;
        woken.wake_due = false;
        woken.woken = now();
        if (woken.wake && !woken.crashed) woken.wake();
    });
}

void SimCore::freeze(const std::string& name, bool frozen) {
    Host& sleeper = host(name);
    sleeper.frozen = frozen;
    if (frozen || !sleeper.wake_due) return;
    sleeper.wake_due = false;
    wake(name);
}

void SimCore::cut(const std::string& one, const std::string& other, bool cut) {
    if (cut) {
        cuts_.insert(unordered(one, other));
    } else {
        cuts_.erase(unordered(one, other));
    }
}

bool SimCore::reachable(const std::string& one, const std::string& other) const {
    return !cuts_.contains(unordered(one, other));
}

Nanos SimCore::draw_delay() {
    const auto least = static_cast<std::uint64_t>(plan.delay_min.count());
    const auto most = std::max(least, static_cast<std::uint64_t>(plan.delay_max.count()));
    auto delay = least + rng.below(most - least + 1);
    if (rng.chance(plan.delay_long)) delay = most + rng.below(most * kLongDelays + 1);
    return Nanos{static_cast<std::int64_t>(delay)};
}

}  // namespace cmpool::transport
