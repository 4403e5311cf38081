#include "breaker.h"

#include <array>

using namespace cmpool;
using namespace std::chrono_literals;
using client::Breaker;

TEST_CASE("one failure opens the breaker, and it asks again ever more rarely, but always again") {
    Breaker breaker;
    Instant now{1'000'000'000};
    CHECK_FALSE(breaker.open());
    CHECK_FALSE(breaker.due(now));
    CHECK(breaker.retry_at() == Instant::never());

    breaker.trip(now);
    CHECK(breaker.open());
    CHECK_FALSE(breaker.due(now));
    for (const auto wait : std::array{100ms, 200ms, 400ms, 800ms, 1600ms, 2000ms, 2000ms}) {
        CHECK(breaker.retry_at() == now + wait);
        CHECK_FALSE(breaker.due(now + wait - 1ns));
        now = now + wait;
        CHECK(breaker.due(now));
        breaker.trip(now);
    }
}

TEST_CASE("an answer closes the breaker, and the next failure is a first one again") {
    Breaker breaker;
    const Instant now{1'000'000'000};
    for (int failures = 0; failures < 5; ++failures) breaker.trip(now);
    breaker.close();
    CHECK_FALSE(breaker.open());
    CHECK_FALSE(breaker.due(now + 1h));
    breaker.trip(now);
    CHECK(breaker.retry_at() == now + 100ms);
}
