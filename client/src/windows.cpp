#include "windows.h"

namespace cmpool::client {

// Windows are what same-host lanes pull from; over a network payloads travel, and nothing is exposed.
Result<Registration> Windows::register_buffer(MutableBytes memory) {
    auto state = std::make_shared<Registration::State>();
    state->memory = memory;
    if (local_ != nullptr) {
        auto segment = local_->register_memory(memory, transport::Access::Read);
        if (!segment) return fail(segment.error());
        state->fabric = local_;
        state->segment = std::move(*segment);
    }
    std::erase_if(registrations_, [](const auto& each) { return each.expired(); });
    registrations_.push_back(state);
    if (planes_ != nullptr) {
        for (std::size_t at = 0; at < planes_known_; ++at) land_in(*state, planes_->opened()[at]);
    }
    return Registration(std::move(state));
}

// A plane that cannot take it reads all the same, by way of memory of its own.
void Windows::land_in(Registration::State& state, const std::shared_ptr<transport::Fabric>& plane) {
    auto landing = plane->register_memory(state.memory, transport::Access::None);
    if (landing) state.landings.emplace_back(plane, std::move(*landing));
}

void Windows::follow_planes() {
    if (planes_ == nullptr) return;
    for (; planes_known_ < planes_->opened().size(); ++planes_known_) {
        for (const auto& each : registrations_) {
            if (const auto state = each.lock()) land_in(*state, planes_->opened()[planes_known_]);
        }
    }
}

Result<std::shared_ptr<transport::Segment>> Windows::over(Bytes memory) {
    for (const auto& each : registrations_) {
        const auto state = each.lock();
        if (state == nullptr || state->segment == nullptr) continue;
        const MutableBytes known = state->segment->bytes();
        const bool inside =
            memory.data() >= known.data() && memory.data() + memory.size() <= known.data() + known.size();
        if (inside) return std::shared_ptr<transport::Segment>(state, state->segment.get());
    }
    // A window can be read, never written; the interface has one kind of span for both.
    const MutableBytes bytes(const_cast<std::byte*>(memory.data()), memory.size());
    auto segment = (local_ ? local_ : network_)->register_memory(bytes, transport::Access::Read);
    if (!segment) return fail(segment.error());
    return std::shared_ptr<transport::Segment>(std::move(*segment));
}

}  // namespace cmpool::client
