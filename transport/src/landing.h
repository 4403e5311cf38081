#pragma once

#include <vector>

#include <cmpool/base/bytes.h>

#include <sys/uio.h>

namespace cmpool::transport {

/// Where arriving bytes go: a list of places, filled in order. A place without an address drops as
/// many bytes; what does not fit is dropped.
class Landing {
public:
    Landing() = default;
    explicit Landing(std::vector<MutableBytes> places) noexcept : places_(std::move(places)) {}

    /// Starts over with an empty list, to be appended to.
    [[nodiscard]] std::vector<MutableBytes>& restart() noexcept;
    /// Copies bytes that are in memory already.
    void take(Bytes bytes) noexcept;
    /// Describes at most `bytes` of the next places; returns how many slices, 0 when all is full.
    [[nodiscard]] std::size_t slices(iovec* out, std::size_t count_max, std::uint64_t bytes) const noexcept;
    /// The next `bytes` have been filled from outside.
    void advance(std::uint64_t bytes) noexcept;
    /// Drops the rest: the places are the caller's again.
    void divert() noexcept { places_.clear(); }

private:
    [[nodiscard]] MutableBytes rest_of(std::size_t index, std::uint64_t from) const noexcept;

    std::vector<MutableBytes> places_;
    std::size_t index_ = 0;     // of the place being filled
    std::uint64_t within_ = 0;  // bytes of it that are filled
};

}  // namespace cmpool::transport
