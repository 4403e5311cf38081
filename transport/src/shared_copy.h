#pragma once

#include <cstdint>

#include <cmpool/base/bytes.h>

namespace cmpool::transport {

// Copies between private memory and memory that others load from and store to at the same time.
// Aligned 8-byte words of the shared side move whole; nothing else is promised, and a whole copy
// may well mix old and new words.

void copy_from_shared(std::byte* into, const std::byte* shared, std::size_t bytes) noexcept;
void copy_to_shared(std::byte* shared, const std::byte* from, std::size_t bytes) noexcept;

// Aligned words of shared memory, with the order that a peer's CPU may rely on.
[[nodiscard]] std::uint64_t load_word(const std::byte* shared) noexcept;
void store_word(std::byte* shared, std::uint64_t word) noexcept;
/// Both return the word before.
std::uint64_t compare_swap_word(std::byte* shared, std::uint64_t expected, std::uint64_t desired) noexcept;
std::uint64_t fetch_add_word(std::byte* shared, std::uint64_t added) noexcept;

}  // namespace cmpool::transport
