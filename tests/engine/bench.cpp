// How fast the engine is on this machine, with one thread: products of the synthetic model's shapes and
// a whole prefill, against OpenBLAS' sgemm where it was found, and decoding after a long prompt.
// Not a test: build/release/bin/bench_engine [MODEL] prints a table.
#include "kernels.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/engine/forward.h>

#ifdef CMPOOL_OPENBLAS
#include <cblas.h>
#endif

using namespace cmpool;
using namespace cmpool::engine;

namespace {

constexpr std::size_t kPrefillTokens = 512;
constexpr std::size_t kLongTokens = 2000;
constexpr std::size_t kDecodedTokens = 32;
constexpr int kRounds = 7;

template <class Work>
double seconds(const Work& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// The best of some rounds: what a neighbour on the machine took away is not ours.
template <class Work>
double best_seconds(const Work& work) {
    work();
    double best = 1e9;
    for (int round = 0; round < kRounds; ++round) best = std::min(best, seconds(work));
    return best;
}

std::vector<float> seeded(std::size_t count) {
    Rng rng(count);
    std::vector<float> values(count);
    for (auto& value : values) value = static_cast<float>(rng.below(2000)) / 1000 - 1;
    return values;
}

struct Shape {
    const char* name;
    std::size_t outputs, inputs, times;  ///< in all layers
};

std::vector<Shape> shapes_of(const ModelConfig& config) {
    const std::size_t layers = config.layers;
    return {{"query, output", config.query_dim(), config.dim, 2 * layers},
            {"key, value", config.kv_dim(), config.dim, 2 * layers},
            {"gate, up", config.hidden, config.dim, 2 * layers},
            {"down", config.dim, config.hidden, layers}};
}

/// Nothing without OpenBLAS.
double blas_seconds(const Shape& shape, std::size_t rows) {
#ifdef CMPOOL_OPENBLAS
    openblas_set_num_threads(1);
    const auto m = static_cast<blasint>(rows);
    const auto n = static_cast<blasint>(shape.outputs);
    const auto k = static_cast<blasint>(shape.inputs);
    const auto weights = seeded(shape.outputs * shape.inputs);
    const auto x = seeded(rows * shape.inputs);
    std::vector<float> y(rows * shape.outputs);
    // y[rows][outputs] = x[rows][inputs] * weights[outputs][inputs] transposed
    return best_seconds([&] {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, x.data(), k, weights.data(), k,
                    0.0f, y.data(), n);
    });
#else
    static_cast<void>(shape), static_cast<void>(rows);
    return 0;
#endif
}

double our_seconds(const Shape& shape, std::size_t rows) {
    const std::size_t outputs = lanes_up(shape.outputs);
    const std::vector<Line> weights(outputs / kLanes * shape.inputs);
    const Panels panels{reinterpret_cast<const float*>(weights.data()), shape.inputs * kLanes, kLanes,
                        outputs / kLanes, shape.inputs};
    const auto x = seeded(rows * shape.inputs);
    std::vector<float> y(rows * outputs);
    const Kernels& kernels = best_kernels();
    return best_seconds([&] {
        kernels.multiply(panels, {x.data(), shape.inputs}, rows, {y.data(), outputs});
    });
}

/// Prints a line per shape; returns the seconds of OpenBLAS for a prefill's products.
double bench_products(const ModelConfig& config, std::size_t rows) {
    std::printf("products of %zu rows with %s kernels, one thread\n", rows, best_kernels().name);
    std::printf("%-14s %8s %8s %12s %16s %7s\n", "", "outputs", "inputs", "GFLOP/s", "OpenBLAS GFLOP/s",
                "ratio");
    double ours_all = 0;
    double blas_all = 0;
    for (const Shape& shape : shapes_of(config)) {
        const double flops = 2e-9 * double(rows) * double(shape.outputs) * double(shape.inputs);
        const double ours = our_seconds(shape, rows);
        const double blas = blas_seconds(shape, rows);
        std::printf("%-14s %8zu %8zu %12.1f %16.1f %7.2f\n", shape.name, shape.outputs, shape.inputs,
                    flops / ours, blas > 0 ? flops / blas : 0, blas / ours);
        ours_all += ours * double(shape.times);
        blas_all += blas * double(shape.times);
    }
    std::printf("%-14s %44.2f ms %7.2f ms: %.2f of OpenBLAS\n", "a prefill", ours_all * 1e3, blas_all * 1e3,
                blas_all / ours_all);
    return blas_all;
}

std::vector<std::uint32_t> seeded_prompt(const ModelConfig& config, std::size_t count) {
    Rng rng(count);
    std::vector<std::uint32_t> tokens(count);
    for (auto& token : tokens) token = static_cast<std::uint32_t>(rng.below(config.vocab));
    return tokens;
}

void prefill(Forward& forward, const std::vector<std::uint32_t>& prompt, const BlockTable& table) {
    for (std::size_t start = 0; start < prompt.size(); start += forward.rows_max()) {
        const std::size_t count = std::min(forward.rows_max(), prompt.size() - start);
        const Slice slice{std::span(prompt).subspan(start, count), start, table.blocks()};
        forward.step({&slice, 1});
    }
}

void bench_forward(const Model& model, double blas) {
    constexpr std::uint32_t kBlockTokens = 16;
    const ModelConfig& config = model.config();
    const std::size_t prompt_tokens = std::min<std::size_t>(kPrefillTokens, config.context / 2);
    const std::size_t long_tokens = std::min<std::size_t>(kLongTokens, config.context - kDecodedTokens);
    auto kv = PagedKv::create(config.block_shape(kBlockTokens),
                              static_cast<std::uint32_t>((long_tokens + kDecodedTokens) / kBlockTokens + 1))
                  .value();
    BlockTable table(kv);
    if (!table.reserve(long_tokens + kDecodedTokens)) return;

    for (const std::size_t chunk : {std::size_t{128}, prompt_tokens}) {
        Forward forward(model, kv, chunk);
        const auto prompt = seeded_prompt(config, prompt_tokens);
        const double took = best_seconds([&] { prefill(forward, prompt, table); });
        std::printf("prefill of %zu tokens, %zu a step: %.2f ms, %.0f tokens/s", prompt_tokens, chunk,
                    took * 1e3, double(prompt_tokens) / took);
        if (blas > 0) std::printf(", %.2f of the products alone in OpenBLAS", blas / took);
        std::printf("\n");
    }

    Forward forward(model, kv, 128);
    const auto prompt = seeded_prompt(config, long_tokens);
    const double took = seconds([&] { prefill(forward, prompt, table); });
    std::printf("prefill of %zu tokens, 128 a step: %.2f ms, %.0f tokens/s\n", long_tokens, took * 1e3,
                double(long_tokens) / took);
    double best = 1e9;
    for (std::size_t index = 0; index < kDecodedTokens; ++index) {
        const std::uint32_t token = prompt[index];
        const Slice slice{{&token, 1}, long_tokens + index, table.blocks()};
        best = std::min(best, seconds([&] { forward.step({&slice, 1}); }));
    }
    std::printf("decode after %zu tokens: %.2f ms a token, %.0f tokens/s\n", long_tokens, best * 1e3,
                1 / best);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string spec = argc > 1 ? argv[1] : "synthetic";
    const auto model = Model::open(spec);
    if (!model) {
        std::fprintf(stderr, "%s\n", model.error().detail.c_str());
        return 1;
    }
    const double blas = bench_products(model->config(), kPrefillTokens);
    bench_forward(*model, blas);
    return 0;
}
