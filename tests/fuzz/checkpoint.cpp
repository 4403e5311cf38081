// A model's folder: config.json up to the first zero byte, then model.safetensors. Whatever it says,
// it is refused or is a model that computes a token; and what was read is named by what was in it.
// Its corpus is one input of each family, from CMPOOL_WRITE_CORPUS=FOLDER bin/test_engine.
#include "checkpoint.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <cmpool/base/assert.h>
#include <cmpool/engine/forward.h>

using namespace cmpool;

namespace {

constexpr std::uint64_t kForwardParametersMax = 100'000;

void compute_token(const engine::Model& model) {
    const auto shape = model.config().block_shape(1);
    // Few weights can still ask for wide rows: only sizes are bounded here.
    if (model.config().parameters() > kForwardParametersMax || !shape.check()) return;
    auto kv = engine::PagedKv::create(shape, 1).value();
    engine::Forward forward(model, kv, 1);
    const std::uint32_t token = 0;
    const std::uint32_t block = 0;
    const engine::Slice slice{{&token, 1}, 0, {&block, 1}};
    forward.step({&slice, 1});
    CMPOOL_ASSERT(forward.logits(0).size() == model.config().vocab);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Bytes input = std::as_bytes(std::span(data, size));
    const auto zero = static_cast<std::size_t>(std::ranges::find(input, std::byte{0}) - input.begin());
    const Bytes config = input.first(zero);
    const Bytes weights = input.subspan(std::min(size, zero + 1));

    const auto index =
        engine::parse_shard_index({reinterpret_cast<const char*>(config.data()), config.size()});
    CMPOOL_ASSERT(index.has_value() || index.error().code == Errc::Invalid);

    const auto model = engine::Model::parse_checkpoint(config, weights);
    if (!model) {
        CMPOOL_ASSERT(model.error().code == Errc::Invalid || model.error().code == Errc::Unsupported);
        return 0;
    }
    // No weight without a byte of the file.
    CMPOOL_ASSERT(model->config().check().has_value());
    CMPOOL_ASSERT(model->config().parameters() * 2 <= weights.size());
    CMPOOL_ASSERT(engine::Model::parse_checkpoint(config, weights)->identity() == model->identity());
    compute_token(*model);
    return 0;
}
