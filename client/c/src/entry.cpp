#include "entry.h"

#include "handles.h"
#include "sized.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>

namespace cmpool::c {

static_assert(static_cast<int>(Errc::Again) == CMPOOL_AGAIN);
static_assert(static_cast<int>(Errc::NoCapacity) == CMPOOL_NO_CAPACITY);
static_assert(static_cast<int>(Errc::Deadline) == CMPOOL_DEADLINE);
static_assert(static_cast<int>(Errc::LeaseLost) == CMPOOL_LEASE_LOST);
static_assert(static_cast<int>(Errc::PeerDown) == CMPOOL_PEER_DOWN);
static_assert(static_cast<int>(Errc::Corrupt) == CMPOOL_CORRUPT);
static_assert(static_cast<int>(Errc::Denied) == CMPOOL_DENIED);
static_assert(static_cast<int>(Errc::Mismatch) == CMPOOL_MISMATCH);
static_assert(static_cast<int>(Errc::Unsupported) == CMPOOL_UNSUPPORTED);
static_assert(static_cast<int>(Errc::Invalid) == CMPOOL_INVALID);

cmpool_code tell(cmpool_error* error, cmpool_code code, std::string_view text) noexcept {
    // Of one with a size that nobody can have set, nothing is known to be ours to write.
    if (error == nullptr || error->size < Sized<cmpool_error>::kFirst) return code;
    error->code = code;
    const std::size_t fits = std::min(text.size(), sizeof error->text - 1);
    std::memcpy(error->text, text.data(), fits);
    error->text[fits] = '\0';
    return code;
}

Error missing(std::string_view argument) {
    return {Errc::Invalid, fmt::format("expected `{}`, saw NULL", argument)};
}

Result<Options> read_options(const Core& core, const cmpool_options* options) {
    Options read{.limit = core.deadline};
    if (options == nullptr) return read;
    const auto asked = read_sized(options);
    if (!asked) return fail(asked.error());
    if (asked->deadline_ns < 0 || asked->deadline_ns > CMPOOL_DEADLINE_NS_MAX) {
        return fail(Errc::Invalid, "expected deadline_ns from 0 to {}, saw {}", CMPOOL_DEADLINE_NS_MAX,
                    asked->deadline_ns);
    }
    if (asked->parts > CMPOOL_BATCH_MAX)
        return fail(Errc::Invalid, "expected parts from 0 to {}, saw {}", CMPOOL_BATCH_MAX, asked->parts);
    if (asked->deadline_ns != 0) read.limit = Nanos{asked->deadline_ns};
    if (asked->lease_ms != 0) read.lease_ms = asked->lease_ms;
    if (asked->no_lease != 0) read.lease_ms = 0;
    read.call = {.verify = asked->verify != 0, .parts = std::max(asked->parts, 1U)};
    return read;
}

Result<Turn> take_turn(Core& core, Options& options) {
    Turn turn(core.turn, std::try_to_lock);
    if (!turn) {
        const auto begun = std::chrono::steady_clock::now();
        if (!turn.try_lock_for(options.limit))
            return fail(Errc::Deadline, "other calls on this pool took all of the deadline");
        options.limit = std::max<Nanos>(options.limit - (std::chrono::steady_clock::now() - begun), Nanos{1});
    }
    options.call.deadline = options.limit;
    return turn;
}

Turn take_turn(Core& core) { return Turn(core.turn); }

Result<Entered> enter(const cmpool_pool* pool, const cmpool_options* options) {
    if (pool == nullptr) return fail(missing("pool"));
    auto read = read_options(*pool->core, options);
    if (!read) return fail(read.error());
    auto turn = take_turn(*pool->core, *read);
    if (!turn) return fail(turn.error());
    return Entered{std::move(*turn), std::move(*read)};
}

}  // namespace cmpool::c

const char* cmpool_version(void) { return CMPOOL_VERSION; }

const char* cmpool_code_name(cmpool_code code) {
    switch (code) {
        case CMPOOL_OK:
            return "ok";
        case CMPOOL_AGAIN:
            return "again";
        case CMPOOL_NO_CAPACITY:
            return "no capacity";
        case CMPOOL_DEADLINE:
            return "deadline";
        case CMPOOL_LEASE_LOST:
            return "lease lost";
        case CMPOOL_PEER_DOWN:
            return "peer down";
        case CMPOOL_CORRUPT:
            return "corrupt";
        case CMPOOL_DENIED:
            return "denied";
        case CMPOOL_MISMATCH:
            return "mismatch";
        case CMPOOL_UNSUPPORTED:
            return "unsupported";
        case CMPOOL_INVALID:
            return "invalid";
        case CMPOOL_FAULT:
            return "fault";
        default:
            return "unknown";
    }
}
