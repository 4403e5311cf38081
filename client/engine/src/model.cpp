#include "file.h"
#include "weights.h"

#include <charconv>
#include <system_error>
#include <utility>
#include <vector>

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
    const std::uint64_t query_rank = latent.query_rank;
    const std::uint64_t query = query_rank == 0 ? wide * query_dim() : query_rank * (wide + 1 + query_dim());
    std::uint64_t attention = query + wide * mixed_dim();
    if (is_latent()) {
        attention += wide * latent.width() + latent.rank +
                     std::uint64_t{heads} * (latent.unrotated + latent.value) * latent.rank;
    } else {
        attention += 2 * wide * kv_dim();
    }
    if (head_norms) attention += 2 * std::uint64_t{head_dim()};
    std::uint64_t sum = wide + (shared_embedding ? 1 : 2) * wide * vocab;
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
        const std::uint64_t feed = is_dense(layer) ? 3 * wide * hidden
                                                   : wide * experts.count + 3 * wide * experts.shared_hidden +
                                                         3 * wide * experts.hidden * experts.count;
        sum += 2 * wide + attention + feed;
    }
    return sum;
}

Result<void> RotationConfig::check() const {
    // Comparisons are false for what is no number.
    const bool sound = base > 1 && base <= 1e12 && factor >= 1 && factor <= 1e6 && amplitude > 0 &&
                       amplitude <= 1e6 && (factor == 1 || original_context > 0) && fast > 0 && slow > 0 &&
                       fast <= 1e6 && slow <= fast;
    if (sound) return {};
    return fail(
        Errc::Invalid,
        "expected a rotation with a base above 1 and up to 1e12, a factor and an amplitude up to 1e6 and an "
        "original context, saw base {}, factor {}, original context {}, fast {}, slow {}, amplitude {}",
        base, factor, original_context, fast, slow, amplitude);
}

Result<void> ModelConfig::check() const {
    constexpr std::uint32_t kHeadMax = 1U << 12;
    std::vector<Limit> limits{{"dim", dim, 1U << 16},           {"hidden", hidden, 1U << 18},
                              {"layers", layers, 1U << 10},     {"heads", heads, 1U << 10},
                              {"kv_heads", kv_heads, 1U << 10}, {"vocab", vocab, 1U << 20},
                              {"context", context, 1U << 20}};
    if (head_size != 0) limits.push_back({"head size", head_size, kHeadMax});
    if (is_latent()) {
        limits.insert(limits.end(), {{"latent rank", latent.rank, 1U << 16},
                                     {"rotated head size", latent.rotated, kHeadMax},
                                     {"unrotated head size", latent.unrotated, kHeadMax},
                                     {"value head size", latent.value, kHeadMax},
                                     {"query rank + 1", latent.query_rank + 1, (1U << 16) + 1}});
    }
    if (experts.count != 0) {
        limits.insert(limits.end(),
                      {{"experts", experts.count, 1U << 10},
                       {"experts used", experts.used, experts.count},
                       {"expert hidden", experts.hidden, 1U << 18},
                       {"groups of experts", experts.groups, experts.count},
                       {"groups used", experts.groups_used, experts.groups},
                       {"shared expert hidden + 1", experts.shared_hidden + 1, (1U << 18) + 1}});
    }
    for (const auto& [name, value, max] : limits) {
        if (value == 0 || value > max)
            return fail(Errc::Invalid, "expected {} between 1 and {}, saw {}", name, max, value);
    }
    const bool divided = head_size != 0 || is_latent() || dim % heads == 0;
    if (!divided || heads % kv_heads != 0 || rotated_dim() % 2 != 0) {
        return fail(Errc::Invalid,
                    "expected kv_heads to divide heads, and heads dim into even parts, saw {} in {} in {}",
                    kv_heads, heads, dim);
    }
    if (experts.count != 0 &&
        (experts.count % experts.groups != 0 ||
         experts.used > std::uint64_t{experts.count / experts.groups} * experts.groups_used)) {
        return fail(Errc::Invalid, "expected {} groups of equal size with {} experts in {} of them, saw {}",
                    experts.groups, experts.used, experts.groups_used, experts.count);
    }
    const bool epsilons = norm_epsilon > 0 && norm_epsilon < 1 && latent.norm_epsilon > 0;
    if (!epsilons || !(experts.scale > 0 && experts.scale < 1e6f)) {
        return fail(Errc::Invalid,
                    "expected a norm epsilon between 0 and 1 and an expert scale above 0, saw {} and {}",
                    norm_epsilon, experts.scale);
    }
    return rotation.check();
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
    std::error_code none;
    if (std::filesystem::is_directory(path, none)) return load_checkpoint(path);
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
