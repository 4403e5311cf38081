#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/engine/block_shape.h>

namespace cmpool::engine {

/// How positions turn queries and keys: of a width d, pair i (of neighbours) turns by
/// position * base^(-2i/d), and with a factor above 1 by yarn's blend of that and a slower turn.
///
///   Errors  check() gives Invalid for a base, factor or amplitude that is not finite or out of range
///   Source  rotary: Su et al., RoFormer, arXiv 2104.09864; yarn: Peng et al., arXiv 2309.00071
struct RotationConfig {
    double base = 10000;
    double factor = 1;                   ///< the context was stretched so many times
    std::uint32_t original_context = 0;  ///< before that
    double fast = 32, slow = 1;          ///< turns within it: above, as before; below, stretched
    double amplitude = 1;                ///< of what is turned

    [[nodiscard]] Result<void> check() const;
    friend bool operator==(const RotationConfig&, const RotationConfig&) noexcept = default;
};

/// Latent attention: a token keeps one latent and one turned key for all heads together.
///
///   Units   floats; a `rank` of 0 is none
///   Source  DeepSeek-V2, arXiv 2405.04434, sec. 2.1
struct LatentConfig {
    std::uint32_t rank = 0;
    std::uint32_t rotated = 0;     ///< the part of a head's query and key that positions turn
    std::uint32_t unrotated = 0;   ///< the part that they do not
    std::uint32_t value = 0;       ///< of a head
    std::uint32_t query_rank = 0;  ///< queries come from a latent of their own; 0: from the stream
    float norm_epsilon = 1e-6f;

    [[nodiscard]] constexpr std::uint32_t width() const noexcept { return rank + rotated; }
    friend bool operator==(const LatentConfig&, const LatentConfig&) noexcept = default;
};

/// Feed-forward by experts, in the layers from `dense_layers` on: a token takes the `used` that its
/// router finds likeliest (of equal ones the lowest), and one that all tokens take.
///
///   Units   counts; a `count` of 0 is none
struct ExpertsConfig {
    std::uint32_t count = 0, used = 0;
    std::uint32_t hidden = 0;         ///< of each
    std::uint32_t shared_hidden = 0;  ///< of the one for all; 0 is none
    std::uint32_t dense_layers = 0;
    bool normalised = false;  ///< the used ones' weights are scaled to a sum of 1
    float scale = 1;          ///< of their weights
    /// Experts come in groups of equal size: only those of the `groups_used` groups with the likeliest expert
    /// count.
    std::uint32_t groups = 1, groups_used = 1;

    friend bool operator==(const ExpertsConfig&, const ExpertsConfig&) noexcept = default;
};

/// The shape of a model of the Llama or DeepSeek-V2 family.
///
///   Units   all counts; `context` is the most tokens a sequence may have
///   Limits  dim 65,536, hidden 2^18, layers 1,024, heads 1,024, vocab and context 2^20; heads of 4,096,
///           a latent of 65,536, 1,024 experts
///   Errors  check() gives Invalid for a zero field, a field above its limit, heads that do not
///           divide dim (without a head_size), kv_heads that do not divide heads, or an odd turned width
struct ModelConfig {
    std::uint32_t dim, hidden, layers, heads, kv_heads, vocab, context;
    bool shared_embedding;        ///< the output matrix is the embedding table
    std::uint32_t head_size = 0;  ///< 0 is dim / heads
    bool head_norms = false;      ///< each head's query and key is normalised before it is turned
    float norm_epsilon = 1e-5f;
    RotationConfig rotation = {};
    LatentConfig latent = {};
    ExpertsConfig experts = {};

    [[nodiscard]] constexpr std::uint32_t head_dim() const noexcept {
        return head_size != 0 ? head_size : dim / heads;
    }
    [[nodiscard]] constexpr std::uint32_t kv_dim() const noexcept { return head_dim() * kv_heads; }
    [[nodiscard]] constexpr bool is_latent() const noexcept { return latent.rank != 0; }
    /// Of all heads together: queries, and what the output matrix takes.
    [[nodiscard]] constexpr std::uint64_t query_dim() const noexcept {
        return std::uint64_t{heads} * (is_latent() ? latent.unrotated + latent.rotated : head_dim());
    }
    [[nodiscard]] constexpr std::uint64_t mixed_dim() const noexcept {
        return std::uint64_t{heads} * (is_latent() ? latent.value : head_dim());
    }
    /// The width within a head that positions turn.
    [[nodiscard]] constexpr std::uint32_t rotated_dim() const noexcept {
        return is_latent() ? latent.rotated : head_dim();
    }
    [[nodiscard]] constexpr bool is_dense(std::uint32_t layer) const noexcept {
        return experts.count == 0 || layer < experts.dense_layers;
    }
    [[nodiscard]] constexpr BlockShape block_shape(std::uint32_t block_tokens) const noexcept {
        return is_latent() ? BlockShape::latent(layers, block_tokens, latent.width(), sizeof(float))
                           : BlockShape{layers, block_tokens, kv_heads, head_dim(), sizeof(float)};
    }
    [[nodiscard]] std::uint64_t parameters() const noexcept;
    [[nodiscard]] Result<void> check() const;
};

struct Weights;

inline constexpr std::uint64_t kSyntheticParameters = 15'000'000;
inline constexpr std::uint64_t kSyntheticParametersMin = 10'000;
inline constexpr std::uint64_t kSyntheticParametersMax = 2'000'000'000;

/// A model whose weights are in memory; copies share them. A folder is a checkpoint of a family that
/// is known (config.json's model_type: llama, deepseek_v2, qwen3_moe) in F32, BF16 or F16, its weights in
/// model.safetensors or in the shards that model.safetensors.index.json names. A file is llama2.c's.
///
///   Threads  immutable: any thread
///   Limits   a file, or all of a folder, of at most kFileBytesMax; kConfigBytesMax of config.json,
///            kHeaderBytesMax of a header or index, kShardsMax shards; memory in proportion to the weights
///   Errors   Invalid says what was expected and what was seen; Unsupported that the model is of a
///            kind that this engine would compute wrongly. Every tensor has its place, type, shape
///            and run of the file before memory for any of them is taken
///   Source   file: llama2.c, legacy export (run.c, memory_map_weights), little endian;
///            folder: safetensors 0.4 and the naming of the transformers library
class Model {
public:
    static constexpr std::uint64_t kFileBytesMax = 16 * GiB;
    static constexpr std::uint64_t kConfigBytesMax = 1 * MiB;
    static constexpr std::uint64_t kHeaderBytesMax = 32 * MiB;
    static constexpr std::size_t kShardsMax = 1024;

    /// "synthetic", "synthetic:15M" or the path of a llama2.c file or of a checkpoint's folder.
    [[nodiscard]] static Result<Model> open(const std::string& spec);
    [[nodiscard]] static Result<Model> load(const std::filesystem::path& path);
    /// A llama2.c file's bytes. The header must account for every byte.
    [[nodiscard]] static Result<Model> parse(Bytes file);
    /// A checkpoint of one shard: the bytes of its config.json and of its model.safetensors.
    [[nodiscard]] static Result<Model> parse_checkpoint(Bytes config, Bytes weights);
    /// Seeded weights of about `parameters` values, for the bytes tokenizer. The same arguments
    /// give the same weights on every machine.
    [[nodiscard]] static Result<Model> synthetic(std::uint64_t parameters = kSyntheticParameters,
                                                 std::uint64_t seed = 1);

    [[nodiscard]] const ModelConfig& config() const noexcept { return config_; }
    /// Names everything that decides the KV bytes but the block size: arithmetic and weights, whatever
    /// files and types they came in. Two models with the same identity may share blocks.
    [[nodiscard]] const std::string& identity() const noexcept { return identity_; }
    [[nodiscard]] const Weights& weights() const noexcept { return *weights_; }

private:
    Model(const ModelConfig& config, std::string identity, std::shared_ptr<const Weights> weights);
    [[nodiscard]] static Result<Model> load_checkpoint(const std::filesystem::path& folder);

    ModelConfig config_;
    std::string identity_;
    std::shared_ptr<const Weights> weights_;
};

/// Whether a model's spec asks for seeded weights rather than for a file.
[[nodiscard]] bool is_synthetic(std::string_view spec) noexcept;
/// The size in "synthetic" or "synthetic:SIZE"; SIZE is a count such as 20000, 300K, 15M or 1G.
/// Errors: Invalid for another spelling or a size outside the limits above.
[[nodiscard]] Result<std::uint64_t> parse_synthetic(std::string_view spec);

}  // namespace cmpool::engine
