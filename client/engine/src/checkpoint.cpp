#include "checkpoint.h"

#include "arithmetic.h"
#include "checkpoint_config.h"
#include "checkpoint_layout.h"
#include "file.h"
#include "safetensors.h"

#include <algorithm>
#include <array>
#include <set>
#include <system_error>
#include <utility>

#include <cmpool/engine/model.h>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <sodium.h>

namespace cmpool::engine {

namespace {

using Shards = std::vector<std::unique_ptr<ByteSource>>;

/// All tensors of all shards. What older exporters saved of the rotation follows from the configuration
/// and is left out.
class TensorTable {
public:
    struct Place {
        Tensor tensor;
        std::size_t shard;
        bool wanted = false;
    };

    [[nodiscard]] static Result<TensorTable> read(const Shards& shards) {
        TensorTable table;
        for (std::size_t shard = 0; shard < shards.size(); ++shard) {
            auto tensors = read_tensor_map(*shards[shard]);
            if (!tensors) return fail(tensors.error());
            for (auto& [name, tensor] : *tensors) {
                if (name.ends_with(".rotary_emb.inv_freq")) continue;
                const auto [at, added] = table.places_.try_emplace(name, Place{std::move(tensor), shard});
                if (!added) {
                    return fail(Errc::Invalid, "{}: expected each tensor in one shard, saw {} also in {}",
                                shards[shard]->name(), name, shards[at->second.shard]->name());
                }
            }
        }
        return table;
    }

    [[nodiscard]] Result<void> want(const LayoutTensor& wanted) {
        const auto found = places_.find(wanted.name);
        if (found == places_.end()) return fail(Errc::Invalid, "expected a tensor {}, saw none", wanted.name);
        if (found->second.tensor.shape != wanted.shape) {
            return fail(Errc::Invalid, "tensor {}: expected the shape [{}] by config.json, saw [{}]",
                        wanted.name, fmt::join(wanted.shape, ", "),
                        fmt::join(found->second.tensor.shape, ", "));
        }
        found->second.wanted = true;
        return {};
    }
    [[nodiscard]] Result<void> check_all_wanted() const {
        const auto extra = std::ranges::find_if(places_, [](const auto& one) { return !one.second.wanted; });
        if (extra == places_.end()) return {};
        return fail(Errc::Invalid, "expected no tensor that the model has no use for, saw {}", extra->first);
    }
    [[nodiscard]] const Place* find(std::string_view name) const {
        const auto found = places_.find(name);
        return found == places_.end() ? nullptr : &found->second;
    }
    [[nodiscard]] std::size_t size() const noexcept { return places_.size(); }

private:
    std::map<std::string, Place, std::less<>> places_;
};

/// Names weights by their values, whatever files and types they came in.
class WeightsDigest {
public:
    WeightsDigest() { crypto_generichash_init(&state_, nullptr, 0, kBytes); }

    void add(Bytes bytes) {
        crypto_generichash_update(&state_, reinterpret_cast<const unsigned char*>(bytes.data()),
                                  bytes.size());
    }
    [[nodiscard]] std::string hex() {
        std::array<std::byte, kBytes> digest;
        crypto_generichash_final(&state_, reinterpret_cast<unsigned char*>(digest.data()), digest.size());
        return to_hex(digest);
    }

private:
    static constexpr std::size_t kBytes = 32;
    crypto_generichash_state state_;
};

// Everything beside the weights that decides KV bytes.
std::string describe(const CheckpointConfig& config) {
    const ModelConfig& model = config.model;
    const RotationConfig& turn = model.rotation;
    return fmt::format(
        "family {} dim {} hidden {} layers {} heads {} kv {} size {} vocab {} shared {} norms {} epsilon {} "
        "rotation {} {} {} {} {} {} latent {} {} {} {} {} {} experts {} {} {} {} {} {} {} {} {}",
        static_cast<int>(config.family), model.dim, model.hidden, model.layers, model.heads, model.kv_heads,
        model.head_size, model.vocab, model.shared_embedding, model.head_norms, model.norm_epsilon, turn.base,
        turn.factor, turn.original_context, turn.fast, turn.slow, turn.amplitude, model.latent.rank,
        model.latent.rotated, model.latent.unrotated, model.latent.value, model.latent.query_rank,
        model.latent.norm_epsilon, model.experts.count, model.experts.used, model.experts.hidden,
        model.experts.shared_hidden, model.experts.dense_layers, model.experts.normalised,
        model.experts.scale, model.experts.groups, model.experts.groups_used);
}

/// Reads tensors some rows at a time.
class TensorReader {
public:
    TensorReader(const Shards& shards, const TensorTable& table, Weights& weights, WeightsDigest& digest)
        : shards_(shards), table_(table), weights_(weights), digest_(digest) {}

    [[nodiscard]] Result<void> read(const LayoutTensor& wanted) {
        const TensorTable::Place& place = *table_.find(wanted.name);
        const std::uint64_t width = wanted.shape.back();
        const std::uint64_t rows = wanted.shape.size() == 1 ? 1 : wanted.shape.front();
        const std::uint64_t row_bytes = width * bytes_of(place.tensor.dtype);
        const std::uint64_t batch_rows = std::max<std::uint64_t>(1, kBatchBytes / row_bytes);
        for (std::uint64_t row = 0, count = 0; row < rows; row += count) {
            count = std::min(batch_rows, rows - row);
            raw_.resize(count * row_bytes);
            floats_.resize(count * width);
            auto read = shards_[place.shard]->read(place.tensor.begin + row * row_bytes, raw_);
            if (!read) return read;
            to_floats(place.tensor.dtype, raw_, floats_);
            digest_.add(std::as_bytes(std::span(floats_)));
            for (std::uint64_t index = 0; index < count; ++index)
                wanted.put(weights_, row + index, std::span(floats_).subspan(index * width, width));
        }
        return {};
    }

private:
    static constexpr std::uint64_t kBatchBytes = 1 * MiB;

    const Shards& shards_;
    const TensorTable& table_;
    Weights& weights_;
    WeightsDigest& digest_;
    std::vector<std::byte> raw_;
    std::vector<float> floats_;
};

struct Checkpoint {
    ModelConfig config;
    std::string identity;
    std::shared_ptr<const Weights> weights;
};

Result<Checkpoint> read_checkpoint(const CheckpointConfig& config, const Shards& shards, TensorTable& table) {
    auto sound = visit_layout(config, [&](const LayoutTensor& tensor) { return table.want(tensor); });
    if (sound) sound = table.check_all_wanted();
    if (!sound) return fail(sound.error());

    // Now every weight is known to be there.
    auto weights = std::make_shared<Weights>(config.model);
    WeightsDigest digest;
    digest.add(as_bytes(describe(config)));
    TensorReader reader(shards, table, *weights, digest);
    auto read = visit_layout(config, [&](const LayoutTensor& tensor) { return reader.read(tensor); });
    if (!read) return fail(read.error());
    if (config.model.shared_embedding) weights->share_embedding();
    return Checkpoint{config.model, fmt::format("{} checkpoint {}", kArithmetic, digest.hex()),
                      std::move(weights)};
}

std::string_view text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

Result<std::string> read_text(const std::filesystem::path& path, std::uint64_t bytes_max) {
    const auto content = read_file(path, bytes_max);
    if (!content) return fail(content.error());
    return std::string(text_of(*content));
}

/// The files of a folder's weights; the index is empty where one file holds all.
struct Files {
    ShardIndex index;
    std::vector<std::string> shards;
};

Result<Files> find_files(const std::filesystem::path& folder) {
    constexpr const char* kSingle = "model.safetensors";
    constexpr const char* kIndex = "model.safetensors.index.json";
    std::error_code none;
    if (std::filesystem::exists(folder / kSingle, none)) return Files{{}, {kSingle}};
    if (!std::filesystem::exists(folder / kIndex, none)) {
        return fail(Errc::Invalid, "{}: expected {} or {} beside config.json, saw neither", folder.string(),
                    kSingle, kIndex);
    }
    const auto text = read_text(folder / kIndex, Model::kHeaderBytesMax);
    if (!text) return fail(text.error());
    auto index = name_file(parse_shard_index(*text), folder / kIndex);
    if (!index) return fail(index.error());
    std::set<std::string> names;
    for (const auto& [tensor, file] : *index) names.insert(file);
    return Files{std::move(*index), {names.begin(), names.end()}};
}

Result<Shards> open_shards(const std::filesystem::path& folder, const std::vector<std::string>& names) {
    Shards shards;
    std::uint64_t bytes = 0;
    for (const std::string& name : names) {
        auto file = open_file(folder / name);
        if (!file) return fail(file.error());
        bytes += (*file)->size();
        if (bytes > Model::kFileBytesMax) {
            return fail(Errc::Invalid, "{}: expected at most {} of weights, saw more", folder.string(),
                        format_bytes(Model::kFileBytesMax));
        }
        shards.push_back(std::move(*file));
    }
    return shards;
}

Result<void> check_index(const Files& files, const TensorTable& table) {
    std::size_t known = 0;
    for (const auto& [name, file] : files.index) {
        const auto* place = table.find(name);
        if (place == nullptr) continue;  // missed by name when the model wants it
        ++known;
        if (files.shards[place->shard] != file) {
            return fail(Errc::Invalid, "expected tensor {} in {} by the index, saw it in {}", name, file,
                        files.shards[place->shard]);
        }
    }
    if (files.index.empty() || known == table.size()) return {};
    return fail(Errc::Invalid, "expected the shards' {} tensors in the index, saw {} of them", table.size(),
                known);
}

}  // namespace

Result<ShardIndex> parse_shard_index(std::string_view text) {
    const auto object = nlohmann::json::parse(text, nullptr, false);
    const auto map = object.is_object() ? object.find("weight_map") : object.end();
    if (!object.is_object() || map == object.end() || !map->is_object() || map->empty())
        return fail(Errc::Invalid, "expected a JSON object with a \"weight_map\", saw none");
    ShardIndex index;
    std::set<std::string> files;
    for (const auto& [tensor, file] : map->items()) {
        const std::string name = file.is_string() ? file.get<std::string>() : "";
        if (!name.ends_with(".safetensors") || name.find_first_of("/\\\0", 0, 3) != std::string::npos) {
            return fail(Errc::Invalid,
                        "expected tensor {} in a safetensors file of the same folder, saw \"{}\"", tensor,
                        name);
        }
        index.emplace(tensor, name);
        files.insert(name);
        if (files.size() > Model::kShardsMax)
            return fail(Errc::Invalid, "expected at most {} shards, saw more", Model::kShardsMax);
    }
    return index;
}

Result<Model> Model::parse_checkpoint(Bytes config, Bytes weights) {
    if (config.size() > kConfigBytesMax) {
        return fail(Errc::Invalid, "config.json: expected at most {}, saw {}", format_bytes(kConfigBytesMax),
                    format_bytes(config.size()));
    }
    const auto parsed = parse_checkpoint_config(text_of(config));
    if (!parsed) return fail(parsed.error());
    Shards shards;
    shards.push_back(view_bytes("model.safetensors", weights));
    auto table = TensorTable::read(shards);
    if (!table) return fail(table.error());
    auto checkpoint = read_checkpoint(*parsed, shards, *table);
    if (!checkpoint) return fail(checkpoint.error());
    return Model(checkpoint->config, std::move(checkpoint->identity), std::move(checkpoint->weights));
}

Result<Model> Model::load_checkpoint(const std::filesystem::path& folder) {
    const auto text = read_text(folder / "config.json", kConfigBytesMax);
    if (!text) return fail(text.error());
    const auto config = name_file(parse_checkpoint_config(*text), folder);
    if (!config) return fail(config.error());
    const auto files = find_files(folder);
    if (!files) return fail(files.error());
    const auto shards = open_shards(folder, files->shards);
    if (!shards) return fail(shards.error());
    auto table = TensorTable::read(*shards);
    if (!table) return fail(table.error());
    if (auto sound = check_index(*files, *table); !sound)
        return fail(sound.error().code, "{}: {}", folder.string(), sound.error().detail);
    auto checkpoint = read_checkpoint(*config, *shards, *table);
    if (!checkpoint)
        return fail(checkpoint.error().code, "{}: {}", folder.string(), checkpoint.error().detail);
    return Model(checkpoint->config, std::move(checkpoint->identity), std::move(checkpoint->weights));
}

}  // namespace cmpool::engine
