#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>

#include <cmpool/base/result.h>

#include <cmpool.h>

namespace cmpool::c {

/// Of a structure that may grow: its name, and how large it was in the first version that had it.
template <class T>
struct Sized;
template <>
struct Sized<cmpool_error> {
    static constexpr std::string_view kName = "cmpool_error";
    static constexpr std::size_t kFirst = 1024;
};
template <>
struct Sized<cmpool_namespace> {
    static constexpr std::string_view kName = "cmpool_namespace";
    static constexpr std::size_t kFirst = 72;
};
template <>
struct Sized<cmpool_options> {
    static constexpr std::string_view kName = "cmpool_options";
    static constexpr std::size_t kFirst = 32;
};
template <>
struct Sized<cmpool_get_item> {
    static constexpr std::string_view kName = "cmpool_get_item";
    static constexpr std::size_t kFirst = 72;
};
template <>
struct Sized<cmpool_put_item> {
    static constexpr std::string_view kName = "cmpool_put_item";
    static constexpr std::size_t kFirst = 104;
};
template <>
struct Sized<cmpool_result> {
    static constexpr std::string_view kName = "cmpool_result";
    static constexpr std::size_t kFirst = 24;
};
template <>
struct Sized<cmpool_status> {
    static constexpr std::string_view kName = "cmpool_status";
    static constexpr std::size_t kFirst = 232;
};
template <>
struct Sized<cmpool_stat> {
    static constexpr std::string_view kName = "cmpool_stat";
    static constexpr std::size_t kFirst = 24;
};

/// More than any of these structures will ever have: a larger size was never set.
inline constexpr std::size_t kStructBytesMax = 4096;

/// Whether `size` can be a caller's.
template <class T>
Result<void> check_size(std::size_t size) {
    static_assert(Sized<T>::kFirst <= sizeof(T) && offsetof(T, size) == 0);
    if (size >= Sized<T>::kFirst && size <= kStructBytesMax && size % alignof(T) == 0) return {};
    return fail(Errc::Invalid, "expected {}.size to be sizeof({}), such as {}, saw {}", Sized<T>::kName,
                Sized<T>::kName, sizeof(T), size);
}

/// A caller's structure as this library knows it: what an older one lacks is 0, what a newer one has beyond
/// ours must be.
template <class T>
Result<T> read_sized(const void* from, std::size_t size) {
    const auto* bytes = static_cast<const std::byte*>(from);
    T known{};
    std::memcpy(&known, bytes, std::min(size, sizeof known));
    for (std::size_t at = sizeof known; at < size; ++at) {
        if (bytes[at] != std::byte{0})
            return fail(Errc::Unsupported,
                        "{} has a field at byte {} that this library does not know: expected 0",
                        Sized<T>::kName, at);
    }
    return known;
}
template <class T>
Result<T> read_sized(const T* from) {
    if (from == nullptr) return fail(Errc::Invalid, "expected a {}, saw NULL", Sized<T>::kName);
    if (auto fine = check_size<T>(from->size); !fine) return fail(fine.error());
    return read_sized<T>(from, from->size);
}

/// Fills a caller's structure of `size` bytes with ours; what we do not know becomes 0.
template <class T>
void write_sized(void* into, std::size_t size, T ours) noexcept {
    ours.size = size;
    auto* bytes = static_cast<std::byte*>(into);
    std::memcpy(bytes, &ours, std::min(size, sizeof ours));
    if (size > sizeof ours) std::memset(bytes + sizeof ours, 0, size - sizeof ours);
}

}  // namespace cmpool::c
