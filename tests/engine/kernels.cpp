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

Panels panels_of(const std::vector<float>& values, std::size_t count, std::size_t inputs) {
    return {values.data(), inputs * kLanes, kLanes, count, inputs};
}

}  // namespace

// Blocks computed on one host are used on another, whose CPU may be older.
TEST_CASE("all instruction sets give the same bytes") {
    constexpr std::size_t kInputs = 37;
    constexpr std::size_t kPanels = 7;
    constexpr std::size_t kRows = 15;
    const auto weights = seeded(kInputs * kPanels * kLanes, 1);
    const auto x = seeded(kRows * kInputs, 2);
    std::vector<std::vector<float>> products, sums, gates;
    for (const Kernels* kernels : all_kernels()) {
        MESSAGE("this CPU runs " << std::string(kernels->name));
        std::vector<float> y(kRows * kPanels * kLanes);
        kernels->multiply(panels_of(weights, kPanels, kInputs), {x.data(), kInputs}, kRows,
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
    const auto weights = seeded(kInputs * kPanels * kLanes, 5);
    const auto x = seeded(kRows * kInputs, 6);
    const Panels panels = panels_of(weights, kPanels, kInputs);
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

// Attention reads values block by block: where a block ends must not show.
TEST_CASE("a chain that goes on in several runs is the chain in one") {
    constexpr std::size_t kInputs = 50;
    constexpr std::size_t kPanels = 3;
    constexpr std::size_t kRows = 13;
    const auto weights = seeded(kInputs * kPanels * kLanes, 9);
    const auto x = seeded(kRows * kInputs, 10);
    for (const Kernels* kernels : all_kernels()) {
        std::vector<float> whole(kRows * kPanels * kLanes);
        kernels->multiply(panels_of(weights, kPanels, kInputs), {x.data(), kInputs}, kRows,
                          {whole.data(), kPanels * kLanes});
        for (const std::size_t run : {1, 7, 16, 49}) {
            CAPTURE(run);
            std::vector<float> runs(whole.size());
            for (std::size_t first = 0; first < kInputs; first += run) {
                Panels part = panels_of(weights, kPanels, kInputs);
                part.data += first * kLanes;
                part.inputs = std::min(run, kInputs - first);
                (first == 0 ? kernels->multiply : kernels->multiply_on)(
                    part, {x.data() + first, kInputs}, kRows, {runs.data(), kPanels * kLanes});
            }
            CHECK(same_bytes(runs, whole));
        }
    }
}

TEST_CASE("rows become a panel, whatever their width") {
    for (const std::size_t width : {1, 4, 6, 8, 37}) {
        const auto values = seeded(kLanes * width, width);
        const float* rows[kLanes];
        for (std::size_t lane = 0; lane < kLanes; ++lane) rows[lane] = values.data() + lane * width;
        for (const Kernels* kernels : all_kernels()) {
            std::vector<Line> panel(width);
            kernels->to_panel(rows, width, panel.data());
            for (std::size_t at = 0; at < width; ++at) {
                for (std::size_t lane = 0; lane < kLanes; ++lane)
                    REQUIRE(panel[at].lane[lane] == rows[lane][at]);
            }
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
