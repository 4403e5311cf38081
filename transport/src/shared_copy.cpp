#include "shared_copy.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace cmpool::transport {

namespace {

constexpr std::size_t kWord = sizeof(std::uint64_t);

template <class T>
std::atomic_ref<T> shared_at(const std::byte* at) noexcept {
    return std::atomic_ref<T>(*reinterpret_cast<T*>(const_cast<std::byte*>(at)));
}

// Bytes before the first aligned word of the shared side.
std::size_t ragged_front(const std::byte* shared, std::size_t bytes) noexcept {
    const auto past = reinterpret_cast<std::uintptr_t>(shared) % kWord;
    return past == 0 ? 0 : std::min(bytes, kWord - past);
}

void put_word(std::byte* shared, const std::byte* from) noexcept {
    std::uint64_t word;
    std::memcpy(&word, from, kWord);
    shared_at<std::uint64_t>(shared).store(word, std::memory_order_relaxed);
}

#if defined(__SSE2__)
// From here on what is written is read much later: it goes past the caches, and no line is fetched before it
// is overwritten.
constexpr std::size_t kStreamBytesMin = 128 * 1024;
constexpr std::size_t kLine = 64;

// Whole lines; returns how many bytes. An aligned store of 16 bytes moves each of its words whole.
std::size_t stream_lines(std::byte* shared, const std::byte* from, std::size_t bytes) noexcept {
    std::size_t at = 0;
    for (; at + kLine <= bytes; at += kLine) {
        const auto* line = reinterpret_cast<const __m128i*>(from + at);
        auto* to = reinterpret_cast<__m128i*>(shared + at);
        const __m128i first = _mm_loadu_si128(line);
        const __m128i second = _mm_loadu_si128(line + 1);
        const __m128i third = _mm_loadu_si128(line + 2);
        const __m128i fourth = _mm_loadu_si128(line + 3);
        _mm_stream_si128(to, first);
        _mm_stream_si128(to + 1, second);
        _mm_stream_si128(to + 2, third);
        _mm_stream_si128(to + 3, fourth);
    }
    _mm_sfence();  // such stores keep no order with others
    return at;
}
#endif

}  // namespace

void copy_from_shared(std::byte* into, const std::byte* shared, std::size_t bytes) noexcept {
    std::size_t at = 0;
    for (const auto front = ragged_front(shared, bytes); at < front; ++at)
        into[at] = shared_at<std::byte>(shared + at).load(std::memory_order_relaxed);
    for (; at + kWord <= bytes; at += kWord) {
        const auto word = shared_at<std::uint64_t>(shared + at).load(std::memory_order_relaxed);
        std::memcpy(into + at, &word, kWord);
    }
    for (; at < bytes; ++at) into[at] = shared_at<std::byte>(shared + at).load(std::memory_order_relaxed);
    // What is loaded after this copy is at least as new as what it copied.
    std::atomic_thread_fence(std::memory_order_acquire);
}

void copy_to_shared(std::byte* shared, const std::byte* from, std::size_t bytes) noexcept {
    std::size_t at = 0;
    for (const auto front = ragged_front(shared, bytes); at < front; ++at)
        shared_at<std::byte>(shared + at).store(from[at], std::memory_order_relaxed);
#if defined(__SSE2__)
    if (bytes >= kStreamBytesMin) {
        for (; reinterpret_cast<std::uintptr_t>(shared + at) % kLine != 0; at += kWord)
            put_word(shared + at, from + at);
        at += stream_lines(shared + at, from + at, bytes - at);
    }
#endif
    for (; at + kWord <= bytes; at += kWord) put_word(shared + at, from + at);
    for (; at < bytes; ++at) shared_at<std::byte>(shared + at).store(from[at], std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
}

std::uint64_t load_word(const std::byte* shared) noexcept {
    return shared_at<std::uint64_t>(shared).load(std::memory_order_acquire);
}

void store_word(std::byte* shared, std::uint64_t word) noexcept {
    shared_at<std::uint64_t>(shared).store(word, std::memory_order_release);
}

std::uint64_t compare_swap_word(std::byte* shared, std::uint64_t expected, std::uint64_t desired) noexcept {
    shared_at<std::uint64_t>(shared).compare_exchange_strong(expected, desired);
    return expected;
}

std::uint64_t fetch_add_word(std::byte* shared, std::uint64_t added) noexcept {
    return shared_at<std::uint64_t>(shared).fetch_add(added);
}

}  // namespace cmpool::transport
