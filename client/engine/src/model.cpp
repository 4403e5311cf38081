#include "file.h"
#include "weights.h"

#include <charconv>
#include <utility>

#include <cmpool/engine/model.h>

namespace cmpool::engine {

namespace {

constexpr std::string_view kSynthetic = "synthetic";

struct Limit {
    const char* name;
    std::uint32_t value, max;
};

}  // namespace

std::uint64_t ModelConfig::parameters() const noexcept {
    const std::uint64_t wide = dim;
    const std::uint64_t layer = 2 * wide + 2 * wide * dim + 2 * wide * kv_dim() + 3 * wide * hidden;
    return layers * layer + wide + (shared_embedding ? 1 : 2) * wide * vocab;
}

Result<void> ModelConfig::check() const {
    const Limit limits[] = {{"dim", dim, 1U << 16},           {"hidden", hidden, 1U << 18},
                            {"layers", layers, 1U << 10},     {"heads", heads, 1U << 10},
                            {"kv_heads", kv_heads, 1U << 10}, {"vocab", vocab, 1U << 20},
                            {"context", context, 1U << 20}};
    for (const auto& [name, value, max] : limits) {
        if (value == 0 || value > max)
            return fail(Errc::Invalid, "expected {} between 1 and {}, saw {}", name, max, value);
    }
    if (dim % heads != 0 || heads % kv_heads != 0 || head_dim() % 2 != 0) {
        return fail(Errc::Invalid,
                    "expected kv_heads to divide heads, and heads dim into even parts, saw {} in {} in {}",
                    kv_heads, heads, dim);
    }
    return {};
}

Model::Model(const ModelConfig& config, std::string identity, std::shared_ptr<const Weights> weights)
    : config_(config), identity_(std::move(identity)), weights_(std::move(weights)) {}

Result<Model> Model::open(const std::string& spec) {
    if (!is_synthetic(spec)) return load(spec);
    const auto parameters = parse_synthetic(spec);
    if (!parameters) return fail(parameters.error());
    return synthetic(*parameters);
}

Result<Model> Model::load(const std::filesystem::path& path) {
    const auto content = read_file(path, kFileBytesMax);
    if (!content) return fail(content.error());
    return name_file(parse(*content), path);
}

bool is_synthetic(std::string_view spec) noexcept {
    return spec == kSynthetic || (spec.starts_with(kSynthetic) && spec[kSynthetic.size()] == ':');
}

Result<std::uint64_t> parse_synthetic(std::string_view spec) {
    if (spec == kSynthetic) return kSyntheticParameters;
    const std::string_view size = is_synthetic(spec) ? spec.substr(kSynthetic.size() + 1) : spec;
    std::uint64_t count = 0;
    const char* end = size.data() + size.size();
    const auto [rest, error] = std::from_chars(size.data(), end, count);
    const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
    std::uint64_t scale = 0;
    if (unit.empty()) scale = 1;
    if (unit == "K" || unit == "k") scale = 1'000;
    if (unit == "M" || unit == "m") scale = 1'000'000;
    if (unit == "G" || unit == "g") scale = 1'000'000'000;
    const bool fits = error == std::errc{} && scale != 0 && count <= kSyntheticParametersMax / scale;
    if (!fits || count * scale < kSyntheticParametersMin) {
        return fail(
            Errc::Invalid,
            "expected synthetic or synthetic:SIZE with a SIZE such as 300K, 15M or 1G between {} and {} "
            "parameters, saw \"{}\"",
            kSyntheticParametersMin, kSyntheticParametersMax, spec);
    }
    return count * scale;
}

}  // namespace cmpool::engine
