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

/// The shape of a Llama-family model.
///
///   Units   all counts; `context` is the most tokens a sequence may have
///   Limits  dim 65,536, hidden 2^18, layers 1,024, heads 1,024, vocab and context 2^20
///   Errors  check() gives Invalid for a zero field, a field above its limit, heads that do not
///           divide dim, kv_heads that do not divide heads, or an odd head size
struct ModelConfig {
    std::uint32_t dim, hidden, layers, heads, kv_heads, vocab, context;
    bool shared_embedding;  ///< the output matrix is the embedding table

    [[nodiscard]] constexpr std::uint32_t head_dim() const noexcept { return dim / heads; }
    [[nodiscard]] constexpr std::uint32_t kv_dim() const noexcept { return head_dim() * kv_heads; }
    [[nodiscard]] constexpr BlockShape block_shape(std::uint32_t block_tokens) const noexcept {
        return {layers, block_tokens, kv_heads, head_dim(), sizeof(float)};
    }
    [[nodiscard]] std::uint64_t parameters() const noexcept;
    [[nodiscard]] Result<void> check() const;
};

struct Weights;

inline constexpr std::uint64_t kSyntheticParameters = 15'000'000;
inline constexpr std::uint64_t kSyntheticParametersMin = 10'000;
inline constexpr std::uint64_t kSyntheticParametersMax = 2'000'000'000;

/// A Llama-family model whose weights are in memory; copies share them.
///
///   Threads  immutable: any thread
///   Limits   a file of at most kFileBytesMax; memory in proportion to the file
///   Errors   Invalid says what was expected and what was seen
///   Source   file: llama2.c, legacy export (run.c, memory_map_weights), little endian
class Model {
public:
    static constexpr std::uint64_t kFileBytesMax = 16 * GiB;

    /// "synthetic", "synthetic:15M" or the path of a llama2.c file.
    [[nodiscard]] static Result<Model> open(const std::string& spec);
    [[nodiscard]] static Result<Model> load(const std::filesystem::path& path);
    /// A llama2.c file's bytes. The header must account for every byte.
    [[nodiscard]] static Result<Model> parse(Bytes file);
    /// Seeded weights of about `parameters` values, for the bytes tokenizer. The same arguments
    /// give the same weights on every machine.
    [[nodiscard]] static Result<Model> synthetic(std::uint64_t parameters = kSyntheticParameters,
                                                 std::uint64_t seed = 1);

    [[nodiscard]] const ModelConfig& config() const noexcept { return config_; }
    /// Names everything that decides the KV bytes but the block size: arithmetic and weights.
    /// Two models with the same identity may share blocks.
    [[nodiscard]] const std::string& identity() const noexcept { return identity_; }
    [[nodiscard]] const Weights& weights() const noexcept { return *weights_; }

private:
    Model(const ModelConfig& config, std::string identity, std::shared_ptr<const Weights> weights);

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
