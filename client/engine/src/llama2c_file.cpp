#include "arithmetic.h"
#include "weights.h"

#include <array>
#include <cstring>
#include <utility>

#include <cmpool/engine/model.h>

#include <sodium.h>

namespace cmpool::engine {

namespace {

constexpr std::size_t kHeaderFields = 7;
constexpr std::size_t kHeaderBytes = kHeaderFields * sizeof(std::int32_t);

Result<ModelConfig> read_header(Bytes file) {
    if (file.size() < kHeaderBytes) {
        return fail(Errc::Invalid, "expected a llama2.c header of {} bytes, saw a file of {}", kHeaderBytes,
                    file.size());
    }
    std::array<std::int32_t, kHeaderFields> field;
    std::memcpy(field.data(), file.data(), kHeaderBytes);
    // A negative vocabulary says that a separate output matrix ends the file.
    const bool shared = field[5] > 0;
    const auto count = [&](std::size_t index) { return static_cast<std::uint32_t>(field[index]); };
    const ModelConfig config{
        count(0), count(1), count(2), count(3), count(4), shared ? count(5) : 0 - count(5), count(6), shared};
    if (auto sound = config.check(); !sound) return fail(sound.error());
    return config;
}

// The two rotation tables in the file are not needed, but they are there.
std::uint64_t expected_bytes(const ModelConfig& config) {
    const std::uint64_t rotations = std::uint64_t{config.context} * config.head_dim();
    return kHeaderBytes + (config.parameters() + rotations) * sizeof(float);
}

/// Takes floats off the front of the file; whoever reads has compared the sizes before.
class FloatReader {
public:
    explicit FloatReader(Bytes bytes) noexcept : rest_(bytes) {}

    void read(std::span<float> out) noexcept {
        std::memcpy(out.data(), rest_.data(), out.size_bytes());
        rest_ = rest_.subspan(out.size_bytes());
    }
    void skip(std::uint64_t floats) noexcept { rest_ = rest_.subspan(floats * sizeof(float)); }
    void read(Matrix& matrix) {
        std::vector<float> row(matrix.inputs());
        for (std::size_t output = 0; output < matrix.outputs(); ++output) {
            read(std::span(row));
            matrix.set_row(output, row);
        }
    }

private:
    Bytes rest_;
};

void read_tensors(FloatReader reader, const ModelConfig& config, Weights& weights) {
    const auto per_layer = [&](auto part_of) {
        for (auto& layer : weights.layers) reader.read(part_of(layer));
    };
    reader.read(weights.embedding);
    per_layer([](auto& layer) -> auto& { return layer.attention_gain; });
    per_layer([](auto& layer) -> auto& { return layer.query; });
    per_layer([](auto& layer) -> auto& { return layer.key; });
    per_layer([](auto& layer) -> auto& { return layer.value; });
    per_layer([](auto& layer) -> auto& { return layer.output; });
    per_layer([](auto& layer) -> auto& { return layer.feed_gain; });
    per_layer([](auto& layer) -> auto& { return layer.feed.gate; });
    per_layer([](auto& layer) -> auto& { return layer.feed.down; });
    per_layer([](auto& layer) -> auto& { return layer.feed.up; });
    reader.read(weights.final_gain);
    reader.skip(std::uint64_t{config.context} * config.head_dim());
    if (!config.shared_embedding) return reader.read(weights.classifier);
    weights.share_embedding();
}

std::string content_digest(Bytes content) {
    std::array<std::byte, 32> digest;
    crypto_generichash(reinterpret_cast<unsigned char*>(digest.data()), digest.size(),
                       reinterpret_cast<const unsigned char*>(content.data()), content.size(), nullptr, 0);
    return to_hex(digest);
}

}  // namespace

Result<Model> Model::parse(Bytes file) {
    const auto config = read_header(file);
    if (!config) return fail(config.error());
    const std::uint64_t expected = expected_bytes(*config);
    if (file.size() != expected) {
        return fail(
            Errc::Invalid,
            "expected {} bytes by the header (dim {}, hidden {}, layers {}, vocab {}, context {}), saw {}",
            expected, config->dim, config->hidden, config->layers, config->vocab, config->context,
            file.size());
    }
    auto weights = std::make_shared<Weights>(*config);
    read_tensors(FloatReader(file.subspan(kHeaderBytes)), *config, *weights);
    return Model(*config, fmt::format("{} llama2c {}", kArithmetic, content_digest(file)),
                 std::move(weights));
}

}  // namespace cmpool::engine
