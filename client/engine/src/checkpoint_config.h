#pragma once

#include <cstdint>
#include <string_view>

#include <cmpool/engine/model.h>

namespace cmpool::engine {

/// Families whose tensors have names that we know. They differ in attention and in what they call an expert.
enum class Family : std::uint8_t { Llama, DeepseekV2, Qwen3Moe };

struct CheckpointConfig {
    Family family;
    ModelConfig model;
};

/// A checkpoint's config.json.
///
///   Errors  Invalid for a field that is missing or out of range; Unsupported for one that asks for
///           arithmetic that this engine does not have
///   Source  the transformers library's configuration classes of these families
[[nodiscard]] Result<CheckpointConfig> parse_checkpoint_config(std::string_view text);

}  // namespace cmpool::engine
