#pragma once

#include <bit>
#include <cstring>

#include <cmpool/base/bytes.h>

namespace cmpool::transport {

// The wire is little-endian; so is every machine this runs on.
static_assert(std::endian::native == std::endian::little);

template <class T>
[[nodiscard]] T load(Bytes from, std::size_t at) noexcept {
    T value;
    std::memcpy(&value, from.data() + at, sizeof value);
    return value;
}

template <class T>
void store(MutableBytes into, std::size_t at, T value) noexcept {
    std::memcpy(into.data() + at, &value, sizeof value);
}

}  // namespace cmpool::transport
