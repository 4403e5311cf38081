#include "checkpoint_config.h"

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

namespace cmpool::engine {

namespace {

using nlohmann::json;

// What is nested is only named: printing it would go as deep as a hostile file does.
std::string shown(const json& value) {
    constexpr std::size_t kShownBytes = 80;
    if (value.is_structured() && !value.empty()) return fmt::format("an {}", value.type_name());
    return value.dump(-1, ' ', true).substr(0, kShownBytes);
}

/// Reads fields until one is wrong; after that it gives zeros, and the error is what came first.
class Fields {
public:
    explicit Fields(const json& object) : object_(object) {}

    std::uint32_t count(const char* name, std::optional<std::uint32_t> otherwise = std::nullopt) {
        const json* value = find(name);
        if (value == nullptr && otherwise) return *otherwise;
        const bool whole = value != nullptr && value->is_number_unsigned() &&
                           value->get<std::uint64_t>() <= std::numeric_limits<std::uint32_t>::max();
        if (whole) return value->get<std::uint32_t>();
        wrong(Errc::Invalid, name, "a whole number", value);
        return 0;
    }
    double number(const char* name, std::optional<double> otherwise = std::nullopt) {
        const json* value = find(name);
        if (value == nullptr && otherwise) return *otherwise;
        if (value != nullptr && value->is_number()) return value->get<double>();
        wrong(Errc::Invalid, name, "a number", value);
        return 0;
    }
    bool flag(const char* name, bool otherwise) {
        const json* value = find(name);
        if (value == nullptr) return otherwise;
        if (value->is_boolean()) return value->get<bool>();
        wrong(Errc::Invalid, name, "true or false", value);
        return false;
    }
    /// A field that is absent, null or of this value; another would be computed wrongly.
    void only(const char* name, const json& expected) {
        const json* value = find(name);
        if (value != nullptr && *value != expected) wrong(Errc::Unsupported, name, shown(expected), value);
    }
    void none(const char* name) {
        const json* value = find(name);
        if (value != nullptr) wrong(Errc::Unsupported, name, "nothing", value);
    }
    /// Nothing when absent or null.
    [[nodiscard]] const json* find(const char* name) const {
        const auto found = object_.find(name);
        return found == object_.end() || found->is_null() ? nullptr : &*found;
    }
    void wrong(Errc code, const char* name, const std::string& expected, const json* value) {
        if (error_) return;
        error_ = Error{code, fmt::format("expected \"{}\" to be {}, saw {}", name, expected,
                                         value == nullptr ? "none" : shown(*value))};
    }
    void take(std::optional<Error> error) {
        if (!error_) error_ = std::move(error);
    }
    [[nodiscard]] const std::optional<Error>& error() const noexcept { return error_; }

private:
    const json& object_;
    std::optional<Error> error_;
};

double yarn_amplitude(double factor, double scale) { return 0.1 * scale * std::log(factor) + 1; }

RotationConfig read_yarn(Fields& fields, double base) {
    RotationConfig rotation{.base = base,
                            .factor = fields.number("factor"),
                            .original_context = fields.count("original_max_position_embeddings"),
                            .fast = fields.number("beta_fast", 32),
                            .slow = fields.number("beta_slow", 1)};
    fields.only("truncate", true);
    const double scale = fields.number("mscale", 0);
    const double scale_all = fields.number("mscale_all_dim", 0);
    const double both = scale != 0 && scale_all != 0 ? yarn_amplitude(rotation.factor, scale) /
                                                           yarn_amplitude(rotation.factor, scale_all)
                                                     : yarn_amplitude(rotation.factor, 1);
    rotation.amplitude = fields.number("attention_factor", both);
    return rotation;
}

// Newer files keep the base among the parameters, older ones beside the scaling.
RotationConfig read_rotation(Fields& fields) {
    RotationConfig rotation{.base = fields.number("rope_theta", 10000)};
    const char* name = fields.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
    const json* object = fields.find(name);
    if (object == nullptr) return rotation;
    if (!object->is_object()) {
        fields.wrong(Errc::Invalid, name, "an object", object);
        return rotation;
    }
    Fields inner(*object);
    rotation.base = inner.number("rope_theta", rotation.base);
    const json* type = inner.find("rope_type");
    if (type == nullptr) type = inner.find("type");
    if (type != nullptr && *type == "yarn") {
        rotation = read_yarn(inner, rotation.base);
    } else if (type == nullptr || *type != "default") {
        fields.wrong(Errc::Unsupported, name, "of the type default or yarn", object);
    }
    fields.take(inner.error());
    return rotation;
}

ModelConfig read_common(Fields& fields) {
    fields.none("quantization_config");
    for (const char* name : {"attention_bias", "mlp_bias"}) fields.only(name, false);
    fields.only("hidden_act", "silu");
    fields.only("partial_rotary_factor", 1.0);
    const std::uint32_t heads = fields.count("num_attention_heads");
    return {.dim = fields.count("hidden_size"),
            .hidden = fields.count("intermediate_size"),
            .layers = fields.count("num_hidden_layers"),
            .heads = heads,
            .kv_heads = fields.count("num_key_value_heads", heads),
            .vocab = fields.count("vocab_size"),
            .context = fields.count("max_position_embeddings"),
            .shared_embedding = fields.flag("tie_word_embeddings", false),
            .head_size = fields.count("head_dim", 0),
            .norm_epsilon = static_cast<float>(fields.number("rms_norm_eps", 1e-6)),
            .rotation = read_rotation(fields)};
}

void read_qwen3_moe(Fields& fields, ModelConfig& model) {
    fields.only("use_sliding_window", false);
    fields.only("decoder_sparse_step", 1);
    fields.only("mlp_only_layers", json::array());
    model.head_norms = true;
    model.experts = {.count = fields.count("num_experts"),
                     .used = fields.count("num_experts_per_tok"),
                     .hidden = fields.count("moe_intermediate_size"),
                     .normalised = fields.flag("norm_topk_prob", false)};
}

void read_deepseek_v2(Fields& fields, ModelConfig& model) {
    fields.only("moe_layer_freq", 1);
    fields.only("norm_topk_prob", false);
    fields.only("scoring_func", "softmax");
    model.head_size = 0;  // newer files say in head_dim what is turned of a head
    model.kv_heads = 1;
    model.latent = {.rank = fields.count("kv_lora_rank"),
                    .rotated = fields.count("qk_rope_head_dim"),
                    .unrotated = fields.count("qk_nope_head_dim"),
                    .value = fields.count("v_head_dim"),
                    .query_rank = fields.count("q_lora_rank", 0)};
    if (model.latent.rank == 0)
        fields.wrong(Errc::Invalid, "kv_lora_rank", "above 0", fields.find("kv_lora_rank"));
    if (fields.find("n_routed_experts") == nullptr) return;
    const std::uint32_t hidden = fields.count("moe_intermediate_size");
    const std::uint64_t shared = std::uint64_t{hidden} * fields.count("n_shared_experts", 0);
    if (shared > std::numeric_limits<std::uint32_t>::max() / 2)
        fields.wrong(Errc::Invalid, "n_shared_experts", "fewer", fields.find("n_shared_experts"));
    model.experts = {.count = fields.count("n_routed_experts"),
                     .used = fields.count("num_experts_per_tok"),
                     .hidden = hidden,
                     .shared_hidden = static_cast<std::uint32_t>(shared),
                     .dense_layers = fields.count("first_k_dense_replace", 0),
                     .scale = static_cast<float>(fields.number("routed_scaling_factor", 1))};
    const json* method = fields.find("topk_method");
    if (method == nullptr || *method == "greedy") return;
    if (*method != "group_limited_greedy")
        fields.wrong(Errc::Unsupported, "topk_method", "greedy or group_limited_greedy", method);
    model.experts.groups = fields.count("n_group");
    model.experts.groups_used = fields.count("topk_group");
}

}  // namespace

Result<CheckpointConfig> parse_checkpoint_config(std::string_view text) {
    const json object = json::parse(text, nullptr, false);
    if (!object.is_object()) return fail(Errc::Invalid, "config.json: expected a JSON object, saw none");
    Fields fields(object);
    CheckpointConfig config{Family::Llama, read_common(fields)};
    const json* type = fields.find("model_type");
    if (type == nullptr || *type != "qwen3_moe") fields.none("sliding_window");
    if (type != nullptr && *type == "deepseek_v2") {
        config.family = Family::DeepseekV2;
        read_deepseek_v2(fields, config.model);
    } else if (type != nullptr && *type == "qwen3_moe") {
        config.family = Family::Qwen3Moe;
        read_qwen3_moe(fields, config.model);
    } else if (type == nullptr || *type != "llama") {
        return fail(Errc::Unsupported,
                    "config.json: expected a \"model_type\" of llama, deepseek_v2 or qwen3_moe, saw {}",
                    type == nullptr ? "none" : shown(*type));
    }
    if (fields.error()) return fail(fields.error()->code, "config.json: {}", fields.error()->detail);
    if (auto sound = config.model.check(); !sound)
        return fail(sound.error().code, "config.json: {}", sound.error().detail);
    return config;
}

}  // namespace cmpool::engine
