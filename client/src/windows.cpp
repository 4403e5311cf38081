#include "windows.h"

namespace cmpool::client {

// Windows are what same-host lanes pull from; over a network payloads travel, and nothing is exposed.
Result<Registration> Windows::register_buffer(MutableBytes memory) {
    auto state = std::make_shared<Registration::State>();
    if (local_ != nullptr) {
        auto segment = local_->register_memory(memory, transport::Access::Read);
        if (!segment) return fail(segment.error());
        *state = {local_, std::move(*segment)};
        std::erase_if(registrations_, [](const auto& each) { return each.expired(); });
        registrations_.push_back(state);
    }
    return Registration(std::move(state));
}

Result<std::shared_ptr<transport::Segment>> Windows::over(Bytes memory) {
    for (const auto& each : registrations_) {
        const auto state = each.lock();
        if (state == nullptr) continue;
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
