#pragma once

namespace cmpool {

/// Prints the broken invariant and aborts: what follows would work on wrong facts.
[[noreturn]] void assert_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace cmpool

/// A broken invariant of ours, on in production too. Expected failures are Result instead.
#define CMPOOL_ASSERT(expression) \
    ((expression) ? static_cast<void>(0) : ::cmpool::assert_failed(#expression, __FILE__, __LINE__))
