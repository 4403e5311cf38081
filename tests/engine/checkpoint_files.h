#pragma once

#include "checkpoint_layout.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/base/rng.h>
#include <cmpool/engine/model.h>

namespace cmpool::testing {

/// A tensor as a file has it; the bytes need not fit what it says.
struct FileTensor {
    std::string name, dtype;
    std::vector<std::uint64_t> shape;
    std::string bytes;
};

/// The same values in one of the three types; those of two bytes are cut off, not rounded.
inline std::string to_bytes(std::span<const float> values, std::string_view dtype) {
    std::string out;
    for (const float value : values) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof(bits));
        // The exponents here are normal ones of a half.
        const std::uint32_t magnitude = bits & 0x7fffffffU;
        const std::uint32_t half =
            value == 0 ? 0 : ((bits >> 16) & 0x8000U) | ((magnitude - (112U << 23)) >> 13);
        const std::uint32_t word = dtype == "F32" ? bits : dtype == "BF16" ? bits >> 16 : half;
        out.append(reinterpret_cast<const char*>(&word), dtype == "F32" ? 4 : 2);
    }
    return out;
}

inline std::string header_of(const std::vector<FileTensor>& tensors) {
    std::string json = "{";
    std::size_t begin = 0;
    for (const auto& [name, dtype, shape, bytes] : tensors) {
        std::string dimensions;
        for (const auto size : shape) dimensions += (dimensions.empty() ? "" : ",") + std::to_string(size);
        json +=
            fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        json.size() == 1 ? "" : ",", name, dtype, dimensions, begin, begin + bytes.size());
        begin += bytes.size();
    }
    return json + "}";
}

/// A file of this header, whatever it says, and these bytes.
inline std::string safetensors_of(const std::string& header, const std::string& data) {
    const std::uint64_t bytes = header.size();
    return std::string(reinterpret_cast<const char*>(&bytes), sizeof(bytes)) + header + data;
}

inline std::string safetensors_of(const std::vector<FileTensor>& tensors) {
    std::string data;
    for (const auto& tensor : tensors) data += tensor.bytes;
    return safetensors_of(header_of(tensors), data);
}

inline const std::string kLlamaConfig =
    R"({"model_type":"llama","hidden_size":24,"intermediate_size":20,"num_hidden_layers":2,)"
    R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":31,"max_position_embeddings":256})";
inline const std::string kDeepseekConfig =
    R"({"model_type":"deepseek_v2","hidden_size":24,"intermediate_size":20,"num_hidden_layers":3,)"
    R"("num_attention_heads":3,"vocab_size":31,"max_position_embeddings":256,"kv_lora_rank":17,)"
    R"("qk_rope_head_dim":6,"qk_nope_head_dim":10,"v_head_dim":9,"q_lora_rank":null,)"
    R"("n_routed_experts":5,"n_shared_experts":1,"num_experts_per_tok":2,"moe_intermediate_size":7,)"
    R"("first_k_dense_replace":1,"routed_scaling_factor":1.25})";
/// As its large models are: queries of a latent, experts in groups.
inline const std::string kDeepseekLargeConfig =
    R"({"model_type":"deepseek_v2","hidden_size":24,"intermediate_size":20,"num_hidden_layers":2,)"
    R"("num_attention_heads":3,"vocab_size":31,"max_position_embeddings":256,"kv_lora_rank":17,)"
    R"("qk_rope_head_dim":6,"qk_nope_head_dim":10,"v_head_dim":9,"q_lora_rank":11,)"
    R"("n_routed_experts":6,"n_shared_experts":1,"num_experts_per_tok":3,"moe_intermediate_size":7,)"
    R"("topk_method":"group_limited_greedy","n_group":3,"topk_group":2,"routed_scaling_factor":1.25})";
inline const std::string kQwenConfig =
    R"({"model_type":"qwen3_moe","hidden_size":24,"intermediate_size":20,"num_hidden_layers":2,)"
    R"("num_attention_heads":4,"num_key_value_heads":2,"head_dim":10,"vocab_size":31,)"
    R"("max_position_embeddings":256,"num_experts":5,"num_experts_per_tok":2,"moe_intermediate_size":7,)"
    R"("norm_topk_prob":true,"tie_word_embeddings":true})";

/// All tensors that a configuration asks for, with seeded values that every type holds exactly.
inline std::vector<FileTensor> seeded_tensors(const std::string& config, std::string_view dtype = "F32",
                                              std::uint64_t seed = 1) {
    Rng rng(seed);
    std::vector<FileTensor> tensors;
    const auto parsed = engine::parse_checkpoint_config(config).value();
    const auto visited = engine::visit_layout(parsed, [&](const engine::LayoutTensor& tensor) {
        std::size_t count = 1;
        for (const auto size : tensor.shape) count *= size;
        std::vector<float> values(count);
        // Gains near one; weights of which a sum over inputs stays near one.
        const bool gain = tensor.shape.size() == 1;
        for (auto& value : values) {
            const float seven_bits = static_cast<float>(rng.below(127)) - 63;
            value = gain ? 1 + seven_bits / 128 : seven_bits / 128;
        }
        tensors.push_back({tensor.name, std::string(dtype), tensor.shape, to_bytes(values, dtype)});
        return Result<void>{};
    });
    CMPOOL_ASSERT(visited.has_value());
    return tensors;
}

inline engine::Model seeded_checkpoint(const std::string& config, std::string_view dtype = "F32") {
    return engine::Model::parse_checkpoint(as_bytes(config),
                                           as_bytes(safetensors_of(seeded_tensors(config, dtype))))
        .value();
}

inline void write_file(const std::filesystem::path& path, std::string_view content) {
    std::ofstream out(path, std::ios::binary);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    CMPOOL_ASSERT(out.good());
}

}  // namespace cmpool::testing
