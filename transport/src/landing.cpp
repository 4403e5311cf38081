#include "landing.h"

#include <algorithm>
#include <cstring>

namespace cmpool::transport {

namespace {

constexpr std::size_t kDropBytes = 64 * 1024;
thread_local std::byte dropped_bytes[kDropBytes];

}  // namespace

MutableBytes Landing::rest_of(std::size_t index, std::uint64_t from) const noexcept {
    const MutableBytes place = places_[index];
    return {place.data() == nullptr ? nullptr : place.data() + from, place.size() - from};
}

std::vector<MutableBytes>& Landing::restart() noexcept {
    places_.clear();
    index_ = 0;
    within_ = 0;
    return places_;
}

void Landing::take(Bytes bytes) noexcept {
    while (!bytes.empty() && index_ < places_.size()) {
        const MutableBytes place = rest_of(index_, within_);
        const std::size_t count = std::min(place.size(), bytes.size());
        if (count > 0 && place.data() != nullptr) std::memcpy(place.data(), bytes.data(), count);
        advance(count);
        bytes = bytes.subspan(count);
        if (count == 0) ++index_;  // an empty place
    }
}

std::size_t Landing::slices(iovec* out, std::size_t count_max, std::uint64_t bytes) const noexcept {
    std::size_t count = 0;
    std::uint64_t skip = within_;
    for (std::size_t at = index_; at < places_.size() && count < count_max && bytes > 0; ++at) {
        const MutableBytes place = rest_of(at, skip);
        skip = 0;
        if (place.empty()) continue;
        if (place.data() == nullptr) {
            // Dropped bytes pass through one small buffer: what is behind them waits for the next call.
            const auto length = std::min<std::uint64_t>({place.size(), bytes, kDropBytes});
            out[count++] = {dropped_bytes, length};
            break;
        }
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
