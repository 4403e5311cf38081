// In place of bench_redis.cpp where hiredis was not found.
#include "bench_rival.h"

namespace cmpool::cli {

Result<std::unique_ptr<Rival>> start_redis() {
    return fail(Errc::Unsupported,
                "expected a cmpool-cli with hiredis in it to compare with redis, saw one without: install "
                "hiredis (Debian: libhiredis-dev), then configure and build again");
}

}  // namespace cmpool::cli
