#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <cmpool/base/rng.h>

using namespace cmpool;
using namespace cmpool::engine;

namespace {

std::vector<float> seeded(std::size_t count, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> out(count);
    for (auto& value : out) value = (static_cast<float>(rng.below(2000)) - 1000.0f) / 250.0f;
    return out;
}

bool same_bytes(const std::vector<float>& one, const std::vector<float>& other) {
    return std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

std::vector<Line> lines_of(const std::vector<float>& values) {
    std::vector<Line> lines(values.size() / kLanes);
    std::memcpy(static_cast<void*>(lines.data()), values.data(), values.size() * sizeof(float));
    return lines;
}

}  // namespace

// Blocks computed on one host are used on another, whose CPU may be older.
TEST_CASE("all instruction sets give the same bytes") {
    constexpr std::size_t kInputs = 37;
    constexpr std::size_t kPanels = 7;
    constexpr std::size_t kRows = 15;
    const auto lines = lines_of(seeded(kInputs * kPanels * kLanes, 1));
    const auto x = seeded(kRows * kInputs, 2);
    std::vector<std::vector<float>> products, sums, gates;
    for (const Kernels* kernels : all_kernels()) {
        MESSAGE("this CPU runs " << std::string(kernels->name));
        std::vector<float> y(kRows * kPanels * kLanes);
        kernels->multiply({lines.data(), kInputs, kPanels, kInputs}, {x.data(), kInputs}, kRows,
                          {y.data(), kPanels * kLanes});
        products.push_back(y);
        auto values = seeded(kLanes * 3, 3);
        values.push_back(kernels->exponentials(values.data(), 41, 0.3f));
        sums.push_back(values);
        auto gate = seeded(kLanes * 2, 4);
        kernels->silu_multiply(gate.data(), x.data(), 2 * kLanes);
        gates.push_back(gate);
    }
    for (std::size_t index = 1; index < products.size(); ++index) {
        CHECK(same_bytes(products[index], products[0]));
        CHECK(same_bytes(sums[index], sums[0]));
        CHECK(same_bytes(gates[index], gates[0]));
    }
}

TEST_CASE("a row's product is the same alone and among any number of others") {
    constexpr std::size_t kInputs = 50;
    constexpr std::size_t kPanels = 5;
    constexpr std::size_t kRows = 21;
    const auto lines = lines_of(seeded(kInputs * kPanels * kLanes, 5));
    const auto x = seeded(kRows * kInputs, 6);
    const Panels panels{lines.data(), kInputs, kPanels, kInputs};
    for (const Kernels* kernels : all_kernels()) {
        std::vector<float> together(kRows * kPanels * kLanes);
        kernels->multiply(panels, {x.data(), kInputs}, kRows, {together.data(), kPanels * kLanes});
        for (std::size_t step = 1; step < kRows; ++step) {
            std::vector<float> apart(together.size());
            for (std::size_t row = 0; row < kRows; row += step) {
                kernels->multiply(panels, {x.data() + row * kInputs, kInputs}, std::min(step, kRows - row),
                                  {apart.data() + row * kPanels * kLanes, kPanels * kLanes});
            }
            CHECK(same_bytes(apart, together));
        }
    }
}

TEST_CASE("kernels compute what their names say") {
    const Kernels& kernels = best_kernels();
    auto values = seeded(kLanes, 8);
    const auto before = values;
    const float sum = kernels.exponentials(values.data(), 11, 0.5f);
    const float largest = *std::max_element(before.begin(), before.begin() + 11);
    double expected = 0;
    for (std::size_t index = 0; index < 11; ++index) {
        const double exact = std::exp(0.5 * (double{before[index]} - double{largest}));
        CHECK(double{values[index]} == doctest::Approx(exact).epsilon(1e-6));
        expected += exact;
    }
    CHECK(double{sum} == doctest::Approx(expected).epsilon(1e-6));
    CHECK(values[11] == 0);
    CHECK(values[15] == 0);

    std::vector<float> gate{0, 1, -1, 200, -200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    const std::vector<float> up(kLanes, 2.0f);
    kernels.silu_multiply(gate.data(), up.data(), kLanes);
    CHECK(gate[0] == 0);
    CHECK(gate[1] == doctest::Approx(1.4621172));
    CHECK(gate[2] == doctest::Approx(-0.5378828));
    CHECK(gate[3] == doctest::Approx(400));
    CHECK(gate[4] == doctest::Approx(0));
}
