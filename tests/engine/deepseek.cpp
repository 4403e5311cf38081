// What the large DeepSeek-V2 models add, for which there are no reference logits.
#include "checkpoint_files.h"
#include "feed.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <cmpool/engine/forward.h>

#include <doctest/doctest.h>

using namespace cmpool;
using testing::FileTensor;

namespace {

constexpr std::size_t kDim = 24;

std::vector<float> logits_of(const std::string& config, const std::vector<FileTensor>& tensors) {
    const auto model =
        engine::Model::parse_checkpoint(as_bytes(config), as_bytes(testing::safetensors_of(tensors))).value();
    auto kv = engine::PagedKv::create(model.config().block_shape(8), 8).value();
    engine::BlockTable table(kv);
    std::vector<std::uint32_t> tokens(20);
    std::iota(tokens.begin(), tokens.end(), 3U);
    REQUIRE(table.reserve(tokens.size()));
    engine::Forward forward(model, kv);
    const engine::Slice slice{tokens, 0, table.blocks()};
    forward.step({&slice, 1});
    return {forward.logits(0).begin(), forward.logits(0).end()};
}

FileTensor floats(const std::string& name, std::vector<std::uint64_t> shape,
                  const std::vector<float>& values) {
    return {name, "F32", std::move(shape), testing::to_bytes(values, "F32")};
}

/// The same model with a latent as wide as the stream, which passes the stream on, `gain` times.
std::vector<FileTensor> with_query_latent(const std::vector<FileTensor>& tensors, float gain) {
    std::vector<float> same(kDim * kDim, 0.0f);
    for (std::size_t at = 0; at < kDim; ++at) same[at * kDim + at] = 1;
    std::vector<FileTensor> out;
    for (FileTensor tensor : tensors) {
        const auto at = tensor.name.find("q_proj");
        if (at != std::string::npos) {
            const std::string prefix = tensor.name.substr(0, at);
            out.push_back(floats(prefix + "q_a_proj.weight", {kDim, kDim}, same));
            out.push_back(floats(prefix + "q_a_layernorm.weight", {kDim}, std::vector<float>(kDim, gain)));
            tensor.name = prefix + "q_b_proj.weight";
        }
        out.push_back(std::move(tensor));
    }
    return out;
}

double largest_difference(const std::vector<float>& one, const std::vector<float>& other) {
    double largest = 0;
    for (std::size_t index = 0; index < one.size(); ++index)
        largest = std::max(largest, std::abs(double(one[index]) - double(other[index])));
    return largest;
}

/// y = down(silu(gate x) * (up x)), in double precision.
std::vector<double> expert_of(const std::vector<std::vector<double>>& gate,
                              const std::vector<std::vector<double>>& up,
                              const std::vector<std::vector<double>>& down, const std::vector<double>& x) {
    const auto dot = [](const std::vector<double>& row, const std::vector<double>& values) {
        return std::inner_product(row.begin(), row.end(), values.begin(), 0.0);
    };
    std::vector<double> inner;
    for (std::size_t at = 0; at < gate.size(); ++at) {
        const double value = dot(gate[at], x);
        inner.push_back(value / (1 + std::exp(-value)) * dot(up[at], x));
    }
    std::vector<double> out;
    for (const auto& row : down) out.push_back(dot(row, inner));
    return out;
}

}  // namespace

// The stream is normed already, so norming it again with a gain of one changes next to nothing.
TEST_CASE("queries that come from a latent are what they are without it, where it passes the stream on") {
    auto tensors = testing::seeded_tensors(testing::kDeepseekConfig);
    for (FileTensor& tensor : tensors) {
        if (tensor.name.find("input_layernorm") != std::string::npos)
            tensor.bytes = testing::to_bytes(std::vector<float>(kDim, 1.0f), "F32");
    }
    std::string config = testing::kDeepseekConfig;
    config.replace(config.find("\"q_lora_rank\":null"), 18, "\"q_lora_rank\":24");
    const auto plain = logits_of(testing::kDeepseekConfig, tensors);
    CHECK(largest_difference(logits_of(config, with_query_latent(tensors, 1)), plain) < 1e-3);
    CHECK(largest_difference(logits_of(config, with_query_latent(tensors, 2)), plain) > 1e-2);
}

TEST_CASE("of experts in groups, those of the groups with the likeliest ones are taken") {
    using Rows = std::vector<std::vector<double>>;
    const engine::ModelConfig config{
        .dim = 8,
        .hidden = 8,
        .layers = 1,
        .heads = 1,
        .kv_heads = 1,
        .vocab = 3,
        .context = 8,
        .shared_embedding = false,
        .experts = {.count = 6, .used = 3, .hidden = 5, .scale = 1.5f, .groups = 3, .groups_used = 2}};
    REQUIRE(config.check());
    Rng rng(1);
    const auto fill = [&](engine::Matrix& matrix) {
        Rows rows;
        for (std::size_t output = 0; output < matrix.outputs(); ++output) {
            std::vector<float> row(matrix.inputs());
            for (auto& value : row) value = (static_cast<float>(rng.below(2001)) - 1000) / 1000;
            matrix.set_row(output, row);
            rows.emplace_back(row.begin(), row.end());
        }
        return rows;
    };
    engine::LayerWeights weights(config, 0);
    const Rows router = fill(weights.router);
    std::vector<Rows> gates, ups, downs;
    for (auto& expert : weights.experts) {
        gates.push_back(fill(expert.gate));
        ups.push_back(fill(expert.up));
        downs.push_back(fill(expert.down));
    }
    engine::Crew crew(1);
    engine::Feed feed(config, 1, crew);
    int left_out = 0;  // how often a group was, although one of its experts was among the likeliest
    for (int round = 0; round < 50; ++round) {
        engine::Activations in(1, config.dim), out(1, config.dim);
        std::vector<double> x;
        for (std::size_t at = 0; at < config.dim; ++at) {
            in.row(0)[at] = (static_cast<float>(rng.below(2001)) - 1000) / 500;
            x.push_back(double(in.row(0)[at]));
        }
        feed.run(weights, in.read(), 1, out.from());

        std::vector<double> likely;
        for (const auto& row : router)
            likely.push_back(std::exp(std::inner_product(row.begin(), row.end(), x.begin(), 0.0)));
        const double total = std::accumulate(likely.begin(), likely.end(), 0.0);
        const double worst = std::min(
            {std::max(likely[0], likely[1]), std::max(likely[2], likely[3]), std::max(likely[4], likely[5])});
        std::vector<std::size_t> order(6), allowed;
        std::iota(order.begin(), order.end(), 0U);
        std::ranges::sort(order, std::ranges::greater{}, [&](std::size_t at) { return likely[at]; });
        for (const std::size_t expert : order) {
            if (std::max(likely[expert / 2 * 2], likely[expert / 2 * 2 + 1]) > worst)
                allowed.push_back(expert);
        }
        left_out += allowed[2] != order[2] ? 1 : 0;
        std::vector<double> expected(config.dim, 0.0);
        for (std::size_t at = 0; at < 3; ++at) {
            const std::size_t expert = allowed[at];
            const auto answer = expert_of(gates[expert], ups[expert], downs[expert], x);
            for (std::size_t index = 0; index < config.dim; ++index)
                expected[index] += likely[expert] / total * 1.5 * answer[index];
        }
        for (std::size_t index = 0; index < config.dim; ++index)
            CHECK(std::abs(double(out.row(0)[index]) - expected[index]) < 1e-4);
    }
    CHECK(left_out > 0);
}
