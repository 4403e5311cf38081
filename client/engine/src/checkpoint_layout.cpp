#include "checkpoint_layout.h"

#include <algorithm>
#include <utility>

namespace cmpool::engine {

namespace {

/// Where value or row `index` of a head goes. The Llama family turns the halves (i, i + d/2) of a head,
/// and we turn neighbours: a query's and a key's rows change places alike, so that no score changes.
std::size_t neighbour(std::size_t index, std::size_t width) {
    const std::size_t half = width / 2;
    return index < half ? 2 * index : 2 * (index - half) + 1;
}

std::size_t neighbour_row(std::size_t row, std::size_t width) {
    return row / width * width + neighbour(row % width, width);
}

class Layout {
public:
    Layout(const CheckpointConfig& config, const LayoutVisitor& visit)
        : config_(config.model), visit_(visit) {}

    Result<void> all() {
        const std::uint64_t vocab = config_.vocab;
        add("model.embed_tokens.weight", {vocab, config_.dim},
            [](Weights& weights, std::size_t row, std::span<const float> values) {
                std::ranges::copy(values, weights.embedding.begin() + row * values.size());
            });
        for (std::uint32_t layer = 0; layer < config_.layers && result_; ++layer) {
            layer_ = layer;
            prefix_ = fmt::format("model.layers.{}.", layer);
            config_.is_latent() ? latent_attention() : attention();
            vector(
                "input_layernorm", config_.dim, [](LayerWeights & to) -> auto& { return to.attention_gain; });
            vector(
                "post_attention_layernorm", config_.dim,
                [](LayerWeights & to) -> auto& { return to.feed_gain; });
            config_.is_dense(layer) ? feed("mlp.", config_.hidden) : experts();
        }
        add("model.norm.weight", {config_.dim},
            [](Weights& weights, std::size_t, std::span<const float> values) {
                std::ranges::copy(values, weights.final_gain.begin());
            });
        if (!config_.shared_embedding) {
            add("lm_head.weight", {vocab, config_.dim},
                [](Weights& weights, std::size_t row, std::span<const float> values) {
                    weights.classifier.set_row(row, values);
                });
        }
        return result_;
    }

private:
    template <class Put>
    void add(std::string name, std::vector<std::uint64_t> shape, Put put) {
        if (result_) result_ = visit_({std::move(name), std::move(shape), std::move(put)});
    }
    template <class Part>
    void matrix(const std::string& name, std::uint64_t outputs, std::uint64_t inputs, Part part,
                std::size_t turned_width = 0) {
        add(prefix_ + name + ".weight", {outputs, inputs},
            [=, layer = layer_](Weights& weights, std::size_t row, std::span<const float> values) {
                const std::size_t to = turned_width == 0 ? row : neighbour_row(row, turned_width);
                part(weights.layers[layer]).set_row(to, values);
            });
    }
    template <class Part>
    void vector(const std::string& name, std::uint64_t width, Part part, bool turned = false) {
        add(prefix_ + name + ".weight", {width},
            [=, layer = layer_](Weights& weights, std::size_t, std::span<const float> values) {
                auto& to = part(weights.layers[layer]);
                for (std::size_t index = 0; index < values.size(); ++index)
                    to[turned ? neighbour(index, values.size()) : index] = values[index];
            });
    }

    void attention() {
        const std::uint64_t dim = config_.dim;
        const std::size_t width = config_.head_dim();
        matrix(
            "self_attn.q_proj", config_.query_dim(), dim, [](LayerWeights & to) -> auto& { return to.query; },
            width);
        matrix(
            "self_attn.k_proj", config_.kv_dim(), dim, [](LayerWeights & to) -> auto& { return to.key; },
            width);
        matrix(
            "self_attn.v_proj", config_.kv_dim(), dim, [](LayerWeights & to) -> auto& { return to.value; });
        matrix(
            "self_attn.o_proj", dim, config_.mixed_dim(),
            [](LayerWeights & to) -> auto& { return to.output; });
        if (!config_.head_norms) return;
        vector(
            "self_attn.q_norm", width, [](LayerWeights & to) -> auto& { return to.query_gain; }, true);
        vector(
            "self_attn.k_norm", width, [](LayerWeights & to) -> auto& { return to.key_gain; }, true);
    }

    void latent_attention() {
        const std::uint64_t dim = config_.dim;
        const LatentConfig& sizes = config_.latent;
        const std::uint64_t query_rank = sizes.query_rank;
        if (query_rank > 0) {
            matrix(
                "self_attn.q_a_proj", query_rank, dim,
                [](LayerWeights & to) -> auto& { return to.latent.query; });
            vector(
                "self_attn.q_a_layernorm", query_rank,
                [](LayerWeights & to) -> auto& { return to.latent.query_gain; });
        }
        matrix(
            query_rank > 0 ? "self_attn.q_b_proj" : "self_attn.q_proj", config_.query_dim(),
            query_rank > 0 ? query_rank : dim, [](LayerWeights & to) -> auto& { return to.query; });
        matrix(
            "self_attn.kv_a_proj_with_mqa", sizes.width(), dim,
            [](LayerWeights & to) -> auto& { return to.latent.compress; });
        vector(
            "self_attn.kv_a_layernorm", sizes.rank,
            [](LayerWeights & to) -> auto& { return to.latent.gain; });
        const std::uint64_t per_head = sizes.unrotated + sizes.value;
        add(prefix_ + "self_attn.kv_b_proj.weight", {per_head * config_.heads, sizes.rank},
            [=, layer = layer_](Weights& weights, std::size_t row, std::span<const float> values) {
                LatentWeights& to = weights.layers[layer].latent;
                const std::size_t head = row / per_head;
                const std::size_t at = row % per_head;
                if (at >= sizes.unrotated) return to.expand[head].set_row(at - sizes.unrotated, values);
                for (std::size_t index = 0; index < values.size(); ++index)
                    to.absorb[head].set(index, at, values[index]);
            });
        matrix(
            "self_attn.o_proj", dim, config_.mixed_dim(),
            [](LayerWeights & to) -> auto& { return to.output; });
    }

    void feed(const std::string& name, std::uint64_t hidden) {
        add_feed(
            name, hidden, [](LayerWeights & to) -> auto& { return to.feed; });
    }

    template <class Part>
    void add_feed(const std::string& name, std::uint64_t hidden, Part part) {
        const std::uint64_t dim = config_.dim;
        matrix(
            name + "gate_proj", hidden, dim, [=](LayerWeights & to) -> auto& { return part(to).gate; });
        matrix(
            name + "up_proj", hidden, dim, [=](LayerWeights & to) -> auto& { return part(to).up; });
        matrix(
            name + "down_proj", dim, hidden, [=](LayerWeights & to) -> auto& { return part(to).down; });
    }

    void experts() {
        const ExpertsConfig& experts = config_.experts;
        matrix(
            "mlp.gate", experts.count, config_.dim, [](LayerWeights & to) -> auto& { return to.router; });
        for (std::uint32_t expert = 0; expert < experts.count && result_; ++expert) {
            add_feed(
                fmt::format("mlp.experts.{}.", expert),
                experts.hidden, [expert](LayerWeights & to) -> auto& { return to.experts[expert]; });
        }
        if (experts.shared_hidden > 0) feed("mlp.shared_experts.", experts.shared_hidden);
    }

    const ModelConfig& config_;
    const LayoutVisitor& visit_;
    Result<void> result_;
    std::uint32_t layer_ = 0;
    std::string prefix_;
};

}  // namespace

Result<void> visit_layout(const CheckpointConfig& config, const LayoutVisitor& visit) {
    return Layout(config, visit).all();
}

}  // namespace cmpool::engine
