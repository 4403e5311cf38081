#include "landing.h"

#include <algorithm>
#include <cstring>

namespace cmpool::transport {

std::vector<MutableBytes>& Landing::restart() noexcept {
    places_.clear();
    index_ = 0;
    within_ = 0;
    return places_;
}

void Landing::take(Bytes bytes) noexcept {
    while (!bytes.empty() && index_ < places_.size()) {
        const MutableBytes place = places_[index_].subspan(within_);
        const std::size_t count = std::min(place.size(), bytes.size());
        if (count > 0) std::memcpy(place.data(), bytes.data(), count);
        advance(count);
        bytes = bytes.subspan(count);
        if (count == 0) ++index_;  // an empty place
    }
}

std::size_t Landing::slices(iovec* out, std::size_t count_max, std::uint64_t bytes) const noexcept {
    std::size_t count = 0;
    std::uint64_t skip = within_;
    for (std::size_t at = index_; at < places_.size() && count < count_max && bytes > 0; ++at) {
        const MutableBytes place = places_[at].subspan(skip);
        skip = 0;
        if (place.empty()) continue;
        const auto length = std::min<std::uint64_t>(place.size(), bytes);
        out[count++] = {place.data(), length};
        bytes -= length;
    }
    return count;
}

void Landing::advance(std::uint64_t bytes) noexcept {
    while (bytes > 0 && index_ < places_.size()) {
        const auto step = std::min<std::uint64_t>(places_[index_].size() - within_, bytes);
        within_ += step;
        bytes -= step;
        if (within_ == places_[index_].size()) {
            ++index_;
            within_ = 0;
        }
    }
}

}  // namespace cmpool::transport
