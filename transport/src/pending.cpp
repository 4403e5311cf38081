#include "pending.h"

#include <utility>

namespace cmpool::transport {

std::uint64_t PendingTable::add(PendingOp op) {
    if (free_.empty()) {
        free_.push_back(static_cast<std::uint32_t>(slots_.size()));
        slots_.emplace_back();
    }
    const auto index = free_.back();
    free_.pop_back();
    Slot& slot = slots_[index];
    slot.op = std::move(op);
    slot.live = true;
    return std::uint64_t{++slot.generation} << 32 | index;
}

PendingOp* PendingTable::find(std::uint64_t number) noexcept {
    const auto index = static_cast<std::uint32_t>(number);
    if (index >= slots_.size()) return nullptr;
    Slot& slot = slots_[index];
    return slot.live && slot.generation == number >> 32 ? &slot.op : nullptr;
}

PendingOp PendingTable::take(std::uint64_t number) {
    const auto index = static_cast<std::uint32_t>(number);
    slots_[index].live = false;
    free_.push_back(index);
    return std::exchange(slots_[index].op, {});
}

std::vector<PendingOp> PendingTable::take_all() {
    std::vector<PendingOp> all;
    for (std::uint32_t index = 0; index < slots_.size(); ++index) {
        const auto number = std::uint64_t{slots_[index].generation} << 32 | index;
        if (slots_[index].live) all.push_back(take(number));
    }
    return all;
}

}  // namespace cmpool::transport
