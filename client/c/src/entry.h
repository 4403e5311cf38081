#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string_view>

#include <cmpool/base/result.h>
#include <cmpool/client/pool_client.h>

#include <cmpool.h>

namespace cmpool::c {

struct Core;

/// Fills `error`, if there is one; returns `code`.
cmpool_code tell(cmpool_error* error, cmpool_code code, std::string_view text) noexcept;

/// Runs the body of an entry of the library. What it returns, or throws, becomes a code and a sentence.
template <class Body>
cmpool_code guarded(cmpool_error* error, Body&& body) noexcept {
    try {
        const Result<void> ended = body();
        if (ended) return tell(error, CMPOOL_OK, {});
        return tell(error, static_cast<cmpool_code>(ended.error().code), ended.error().detail);
    } catch (const std::bad_alloc&) {
        return tell(error, CMPOOL_FAULT, "out of memory");
    } catch (const std::exception& fault) {
        return tell(error, CMPOOL_FAULT, fault.what());
    } catch (...) {
        return tell(error, CMPOOL_FAULT, "an exception without a word");
    }
}

/// The same of an entry that returns nothing of it.
template <class Body>
void guarded(Body&& body) noexcept {
    (void)guarded(nullptr, [&]() -> Result<void> {
        body();
        return {};
    });
}

/// INVALID, with the argument's name.
[[nodiscard]] Error missing(std::string_view argument);

/// A call's options, with all defaults filled in.
struct Options {
    client::CallOptions call;
    Nanos limit{};  ///< the call's deadline, from now
    std::uint32_t lease_ms = client::kLeaseMsDefault;
};
[[nodiscard]] Result<Options> read_options(const Core& core, const cmpool_options* options);

using Turn = std::unique_lock<std::timed_mutex>;
/// Waits until nobody else is at the pool; the wait is taken off the call's deadline.
/// Errors: Deadline.
[[nodiscard]] Result<Turn> take_turn(Core& core, Options& options);
/// The same where there is nothing to be late for: calls end, so this does.
[[nodiscard]] Turn take_turn(Core& core);

/// Both: what each call begins with.
struct Entered {
    Turn turn;
    Options options;
};
[[nodiscard]] Result<Entered> enter(const cmpool_pool* pool, const cmpool_options* options);

}  // namespace cmpool::c
