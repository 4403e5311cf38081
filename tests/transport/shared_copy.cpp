// Copies to and from memory that others look at: the same bytes, and nothing beside them, however they lie.
#include "shared_copy.h"

#include <algorithm>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>

#include <doctest/doctest.h>

using namespace cmpool;
using namespace cmpool::transport;

TEST_CASE("small and large copies land whole, wherever they begin and end") {
    constexpr std::size_t kRoom = 256 * KiB;
    constexpr std::size_t kMargin = 128;
    Rng rng(1);
    std::vector<std::byte> bytes(kRoom);
    for (auto& one : bytes) one = static_cast<std::byte>(rng.next());
    for (const std::size_t length : {std::size_t{1}, std::size_t{63}, std::size_t{4} * KiB, 128 * KiB - 1,
                                     128 * KiB, 128 * KiB + 77, 200 * KiB}) {
        for (const std::size_t skip : {0, 1, 8, 15, 63}) {
            CAPTURE(length);
            CAPTURE(skip);
            std::vector<std::byte> shared(kRoom + 2 * kMargin, std::byte{0xee});
            std::byte* to = shared.data() + kMargin + skip;
            copy_to_shared(to, bytes.data() + skip / 2, length);
            CHECK(std::equal(to, to + length, bytes.data() + skip / 2));
            CHECK(std::count(shared.begin(), shared.begin() + (to - shared.data()), std::byte{0xee}) ==
                  to - shared.data());
            CHECK(std::all_of(to + length, shared.data() + shared.size(),
                              [](std::byte one) { return one == std::byte{0xee}; }));
            std::vector<std::byte> back(length);
            copy_from_shared(back.data(), to, length);
            CHECK(std::equal(back.begin(), back.end(), to));
        }
    }
}
