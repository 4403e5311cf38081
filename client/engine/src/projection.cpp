#include "projection.h"

#include <cmath>
#include <cstring>

namespace cmpool::engine {

namespace {

class PlainProjection final : public Projection {
public:
    PlainProjection(const ModelConfig& config, std::size_t rows_max, Crew& crew)
        : crew_(crew),
          config_(config),
          query_(rows_max, config.query_dim()),
          key_(rows_max, config.kv_dim()),
          value_(key_),
          mixed_(query_) {}

    AttentionShape shape() const noexcept override {
        const std::size_t width = config_.head_dim();
        return {.heads = config_.heads,
                .kv_heads = config_.kv_heads,
                .key_width = width,
                .value_width = width,
                .value_part = 1,
                .query_stride = width,
                .out_stride = width,
                .scale = 1.0f / std::sqrt(static_cast<float>(width))};
    }

    void project(const LayerWeights& weights, Rows<const float> x, std::size_t rows,
                 const Rotation& rotation) override {
        crew_.multiply(weights.query.panels(), x, rows, query_.from());
        crew_.multiply(weights.key.panels(), x, rows, key_.from());
        crew_.multiply(weights.value.panels(), x, rows, value_.from());
        crew_.rows(rows, [&](std::size_t row, std::size_t end) {
            for (; row < end; ++row) {
                if (config_.head_norms) {
                    norm_heads(query_.row(row), config_.heads, weights.query_gain);
                    norm_heads(key_.row(row), config_.kv_heads, weights.key_gain);
                }
                rotation.turn(row, query_.row(row), config_.heads, config_.head_dim());
                rotation.turn(row, key_.row(row), config_.kv_heads, config_.head_dim());
            }
        });
    }

    void keep(std::size_t row, const KvView& view, std::size_t position) override {
        std::memcpy(view.at(position, 0), key_.row(row), config_.kv_dim() * sizeof(float));
        std::memcpy(view.at(position, 1), value_.row(row), config_.kv_dim() * sizeof(float));
    }

    Rows<const float> queries(std::size_t row) override { return query_.read(row); }
    Rows<float> results(std::size_t row) override { return mixed_.from(row); }
    Rows<const float> mix(const LayerWeights&, std::size_t) override { return mixed_.read(); }

private:
    void norm_heads(float* heads, std::size_t count, std::span<const float> gain) const noexcept {
        for (; count > 0; --count, heads += gain.size()) rms_norm(heads, gain, config_.norm_epsilon, heads);
    }

    Crew& crew_;
    const ModelConfig config_;
    Activations query_, key_, value_, mixed_;
};

// Attention works on latents: all heads read the one row that is kept of a token.
class LatentProjection final : public Projection {
public:
    LatentProjection(const ModelConfig& config, std::size_t rows_max, Crew& crew)
        : crew_(crew),
          sizes_(config.latent),
          heads_(config.heads),
          narrow_(sizes_.query_rank == 0 ? 0 : rows_max, sizes_.query_rank),
          query_(rows_max, config.query_dim()),
          kept_(rows_max, sizes_.width()),
          absorbed_(rows_max, heads_ * query_stride()),
          results_(rows_max, heads_ * result_stride()),
          mixed_(rows_max, config.mixed_dim() + kLanes) {}

    AttentionShape shape() const noexcept override {
        return {.heads = heads_,
                .kv_heads = 1,
                .key_width = sizes_.width(),
                .value_width = sizes_.rank,
                .value_part = 0,
                .query_stride = query_stride(),
                .out_stride = result_stride(),
                .scale = 1.0f / std::sqrt(static_cast<float>(head_width()))};
    }

    void project(const LayerWeights& weights, Rows<const float> x, std::size_t rows,
                 const Rotation& rotation) override {
        make_queries(weights, x, rows);
        crew_.multiply(weights.latent.compress.panels(), x, rows, kept_.from());
        crew_.rows(rows, [&](std::size_t row, std::size_t end) {
            for (; row < end; ++row) {
                rms_norm(kept_.row(row), weights.latent.gain, sizes_.norm_epsilon, kept_.row(row));
                rotation.turn(row, kept_.row(row) + sizes_.rank, 1, 0);
                rotation.turn(row, query_.row(row) + sizes_.unrotated, heads_, head_width());
            }
        });
        crew_.run(heads_,
                  [&](std::size_t head, std::size_t) { absorb(weights.latent.absorb[head], head, rows); });
    }

    void keep(std::size_t row, const KvView& view, std::size_t position) override {
        std::memcpy(view.at(position, 0), kept_.row(row), sizes_.width() * sizeof(float));
    }

    Rows<const float> queries(std::size_t row) override { return absorbed_.read(row); }
    Rows<float> results(std::size_t row) override { return results_.from(row); }

    // A product fills whole panels, so each head's spills into the next one's place: in that order.
    Rows<const float> mix(const LayerWeights& weights, std::size_t rows) override {
        crew_.rows(rows, [&](std::size_t row, std::size_t end) {
            const auto results = results_.read(row);
            const auto mixed = mixed_.from(row);
            for (std::size_t head = 0; head < heads_; ++head) {
                kernels_.multiply(weights.latent.expand[head].panels(),
                                  {results.data + head * result_stride(), results.stride}, end - row,
                                  {mixed.data + head * sizes_.value, mixed.stride});
            }
        });
        return mixed_.read();
    }

private:
    [[nodiscard]] std::size_t head_width() const noexcept { return sizes_.unrotated + sizes_.rotated; }
    [[nodiscard]] std::size_t query_stride() const noexcept { return lanes_up(sizes_.width()); }
    [[nodiscard]] std::size_t result_stride() const noexcept { return lanes_up(sizes_.rank); }

    void make_queries(const LayerWeights& weights, Rows<const float> x, std::size_t rows) {
        if (sizes_.query_rank == 0) return crew_.multiply(weights.query.panels(), x, rows, query_.from());
        const LatentWeights& latent = weights.latent;
        crew_.multiply(latent.query.panels(), x, rows, narrow_.from());
        crew_.rows(rows, [&](std::size_t row, std::size_t end) {
            for (; row < end; ++row)
                rms_norm(narrow_.row(row), latent.query_gain, sizes_.norm_epsilon, narrow_.row(row));
        });
        crew_.multiply(weights.query.panels(), narrow_.read(), rows, query_.from());
    }
    // The unrotated part of a head's queries goes to the latent's space; the turned part follows it.
    void absorb(const Matrix& weights, std::size_t head, std::size_t rows) {
        const auto query = query_.read();
        const float* from = query.data + head * head_width();
        const auto absorbed = absorbed_.from();
        float* to = absorbed.data + head * query_stride();
        kernels_.multiply(weights.panels(), {from, query.stride}, rows, {to, absorbed.stride});
        for (std::size_t row = 0; row < rows; ++row) {
            std::memcpy(to + row * absorbed.stride + sizes_.rank,
                        from + row * query.stride + sizes_.unrotated, sizes_.rotated * sizeof(float));
        }
    }

    const Kernels& kernels_ = best_kernels();
    Crew& crew_;
    const LatentConfig sizes_;
    const std::size_t heads_;
    Activations narrow_;  // the queries' latent, where there is one
    Activations query_, kept_;
    Activations absorbed_;  // [rows][heads][latent, turned]
    Activations results_;   // [rows][heads][latent]
    Activations mixed_;
};

}  // namespace

std::unique_ptr<Projection> make_projection(const ModelConfig& config, std::size_t rows_max, Crew& crew) {
    if (config.is_latent()) return std::make_unique<LatentProjection>(config, rows_max, crew);
    return std::make_unique<PlainProjection>(config, rows_max, crew);
}

}  // namespace cmpool::engine
