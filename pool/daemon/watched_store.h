#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include <cmpool/base/clock.h>
#include <cmpool/meta/store.h>

namespace cmpool::daemon {

/// The same store, of which somebody says when it begins to fail and when it is well again, a line each;
/// `failures` counts every call that failed. What fails is told to whoever asked, too: serving goes on
/// meanwhile.
///
///   Lifetime  clock and `failures` outlive it
[[nodiscard]] std::unique_ptr<meta::Store> watched(std::unique_ptr<meta::Store> store, const Clock& clock,
                                                   std::atomic<std::uint64_t>& failures);

}  // namespace cmpool::daemon
