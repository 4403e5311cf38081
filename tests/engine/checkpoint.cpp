#include "checkpoint.h"

#include "checkpoint_files.h"
#include "safetensors.h"

#include <algorithm>

#include <cmpool/testing/temp_folder.h>

#include <doctest/doctest.h>

using namespace cmpool;
using namespace std::string_literals;
using engine::Model;
using testing::FileTensor;
using testing::safetensors_of;

namespace {

Result<Model> parse(const std::string& config, const std::string& weights) {
    return Model::parse_checkpoint(as_bytes(config), as_bytes(weights));
}

void check_refused(const Result<Model>& model, const std::string& why, Errc code = Errc::Invalid) {
    REQUIRE_FALSE(model);
    CAPTURE(model.error().detail);
    CHECK(model.error().code == code);
    CHECK(model.error().detail.find(why) != std::string::npos);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

FileTensor& named(std::vector<FileTensor>& tensors, std::string_view name) {
    return *std::ranges::find_if(tensors, [&](const auto& one) { return one.name == name; });
}

}  // namespace

TEST_CASE("a checkpoint of each family is read when every tensor has its place") {
    const auto llama = testing::seeded_checkpoint(testing::kLlamaConfig).config();
    CHECK(llama.block_shape(16) == engine::BlockShape{2, 16, 2, 6, 4});
    CHECK_FALSE(llama.shared_embedding);
    const auto deepseek = testing::seeded_checkpoint(testing::kDeepseekConfig).config();
    CHECK(deepseek.block_shape(16) == engine::BlockShape::latent(3, 16, 17 + 6, 4));
    CHECK(deepseek.experts.dense_layers == 1);
    const auto qwen = testing::seeded_checkpoint(testing::kQwenConfig).config();
    CHECK(qwen.block_shape(16) == engine::BlockShape{2, 16, 2, 10, 4});
    CHECK(qwen.shared_embedding);
    // The sums that every family's file has to have.
    for (const auto& config : {testing::kLlamaConfig, testing::kDeepseekConfig, testing::kQwenConfig}) {
        std::size_t bytes = 0;
        for (const auto& tensor : testing::seeded_tensors(config)) bytes += tensor.bytes.size();
        CHECK(testing::seeded_checkpoint(config).config().parameters() * 4 == bytes);
    }
}

// The values below are exact in all three types, so the weights, and with them the name, are the same.
TEST_CASE("types are converted, and do not make another model") {
    const auto whole = testing::seeded_checkpoint(testing::kDeepseekConfig, "F32");
    CHECK(testing::seeded_checkpoint(testing::kDeepseekConfig, "BF16").identity() == whole.identity());
    CHECK(testing::seeded_checkpoint(testing::kDeepseekConfig, "F16").identity() == whole.identity());
    auto tensors = testing::seeded_tensors(testing::kDeepseekConfig);
    tensors[3].bytes[0] ^= 1;
    CHECK(parse(testing::kDeepseekConfig, safetensors_of(tensors))->identity() != whole.identity());
    const auto other = replaced(testing::kDeepseekConfig, "1.25", "1.5");
    CHECK(parse(other, safetensors_of(testing::seeded_tensors(other)))->identity() != whole.identity());
}

TEST_CASE("known values of 16-bit types") {
    const std::uint16_t halves[] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x8001, 0x0400, 0x7c00, 0xfc00, 0x0000};
    const float half_values[] = {1, -2, 65504, 0x1p-24f, -0x1p-24f, 0x1p-14f, INFINITY, -INFINITY, 0};
    std::vector<float> out(std::size(halves));
    engine::to_floats(engine::Dtype::F16, std::as_bytes(std::span(halves)), out);
    CHECK(std::ranges::equal(out, half_values));
    const std::uint16_t brains[] = {0x3f80, 0xc000, 0x0080};
    const float brain_values[] = {1, -2, 0x1p-126f};
    out.resize(3);
    engine::to_floats(engine::Dtype::Bf16, std::as_bytes(std::span(brains)), out);
    CHECK(std::ranges::equal(out, brain_values));
}

TEST_CASE("the order of tensors, metadata and what old exporters saved of the rotation do not matter") {
    auto tensors = testing::seeded_tensors(testing::kLlamaConfig);
    const auto identity = parse(testing::kLlamaConfig, safetensors_of(tensors))->identity();
    std::ranges::reverse(tensors);
    tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {3}, std::string(12, 'x')});
    std::string data;
    for (const auto& tensor : tensors) data += tensor.bytes;
    const auto header =
        replaced(testing::header_of(tensors), "{", R"({"__metadata__":{"format":"pt"},)") + "  ";
    const auto model = parse(testing::kLlamaConfig, safetensors_of(header, data));
    REQUIRE_MESSAGE(model, model.error().detail);
    CHECK(model->identity() == identity);
}

TEST_CASE("a file that is cut off anywhere, or too long, is refused") {
    const auto whole = safetensors_of(testing::seeded_tensors(testing::kLlamaConfig, "BF16"));
    const auto header_bytes =
        testing::header_of(testing::seeded_tensors(testing::kLlamaConfig, "BF16")).size();
    for (std::size_t bytes = 0; bytes < whole.size(); bytes += bytes < header_bytes + 16 ? 1 : 97) {
        CAPTURE(bytes);
        const auto model = parse(testing::kLlamaConfig, whole.substr(0, bytes));
        REQUIRE_FALSE(model);
        CHECK(model.error().code == Errc::Invalid);
    }
    check_refused(parse(testing::kLlamaConfig, whole + "x"), "of tensors by the header, saw");
}

TEST_CASE("a tensor that is missing, extra, of another shape or type is named") {
    const auto sound = testing::seeded_tensors(testing::kDeepseekConfig);
    const std::string name = "model.layers.1.mlp.experts.4.up_proj.weight";
    const auto parse_changed = [&](const auto& change) {
        auto tensors = sound;
        change(tensors);
        return parse(testing::kDeepseekConfig, safetensors_of(tensors));
    };
    for (std::size_t index = 0; index < sound.size(); ++index) {
        check_refused(parse_changed([&](auto& tensors) { tensors.erase(tensors.begin() + index); }),
                      "expected a tensor " + sound[index].name + ", saw none");
    }
    check_refused(parse_changed([&](auto& tensors) {
                      tensors.push_back({"more", "F32", {1}, "1234"});
                  }),
                  "no use for, saw more");
    check_refused(parse_changed([&](auto& tensors) {
                      named(tensors, name).shape = {24, 7};
                  }),
                  name + ": expected the shape [7, 24] by config.json, saw [24, 7]");
    check_refused(parse_changed([&](auto& tensors) { named(tensors, name).dtype = "I64"; }),
                  "\"I64\" in tensor " + name);
    check_refused(parse_changed([&](auto& tensors) { named(tensors, name).dtype = "F16"; }),
                  name + ": expected the bytes of its shape [7, 24]");
    check_refused(parse_changed([&](auto& tensors) { tensors.push_back(sound[2]); }), "twice");
}

TEST_CASE("offsets that lie are refused: gaps, overlaps, beyond the end, backwards") {
    const std::string config = testing::kLlamaConfig;
    const auto sound = testing::header_of(testing::seeded_tensors(config));
    std::string data;
    for (const auto& tensor : testing::seeded_tensors(config)) data += tensor.bytes;
    REQUIRE(parse(config, safetensors_of(sound, data)));
    // The first two tensors lie at [0, 2976) and [2976, 5280).
    const std::string first = "[0,2976]";
    const std::string second = "[2976,5280]";
    for (const char* offsets : {"[0,2972]", "[0,2980]", "[4,2976]", "[4,2980]", "[0,18446744073709551615]",
                                "[18446744073709551612,2976]", "[2976,0]"})
        check_refused(parse(config, safetensors_of(replaced(sound, first, offsets), data)), "data_offsets");
    check_refused(parse(config, safetensors_of(replaced(sound, second, first), data)), "data_offsets");
    // A shape whose product wraps around to the right number of bytes.
    check_refused(
        parse(config, safetensors_of(replaced(sound, "[31,24]", "[31,24,4611686018427387905]"), data)),
        "bytes of its shape");
}

TEST_CASE("a header that is no header of tensors is refused") {
    const std::string config = testing::kLlamaConfig;
    const std::string one = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
    for (const std::string& header :
         {std::string(""),
          std::string("{"),
          std::string("[]"),
          std::string("1"),
          std::string("null"),
          std::string("{}}"),
          R"({"a":1})"s,
          R"({"a":{}})"s,
          R"({"a":[]})"s,
          R"({"a":{"dtype":"F32"}})"s,
          R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})"s,
          R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})"s,
          R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})"s,
          R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})"s,
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})"s,
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})"s,
          R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})"s,
          R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})"s,
          R"({"a":{"more":1,)"s + one + "}}",
          R"({"__metadata__":{"a":1},"a":{)" + one + "}}",
          R"({"__metadata__":{"a":{}}})"s,
          R"({"__metadata__":1})"s,
          "{\"\xff\":{" + one + "}}",
          std::string(100'000, '[')}) {
        CAPTURE(header.substr(0, 100));
        const auto model = parse(config, safetensors_of(header, "1234"));
        REQUIRE_FALSE(model);
        CHECK(model.error().code == Errc::Invalid);
    }
    // A length that reaches beyond the file, or is a lie of 2^63.
    for (const std::uint64_t bytes : {std::uint64_t{5}, std::uint64_t{1} << 40, UINT64_MAX}) {
        std::string file = safetensors_of("{}", "12");
        std::memcpy(file.data(), &bytes, sizeof(bytes));
        check_refused(parse(config, file), "expected a header of at most 4 bytes, saw");
    }
}

TEST_CASE("a configuration with a field that is missing, absurd or of another kind is refused") {
    const auto weights = safetensors_of(testing::seeded_tensors(testing::kLlamaConfig));
    for (const char* config : {"", "[]", "{", "{}", "null", R"({"model_type":1})"})
        check_refused(parse(config, weights), "config.json",
                      std::string(config).starts_with("{") && std::string(config).ends_with("}")
                          ? Errc::Unsupported
                          : Errc::Invalid);
    for (const char* name : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                             "vocab_size", "max_position_embeddings"}) {
        for (const char* value : {"0", "-1", "4294967295", "1e30", "\"8\"", "null", "1.5", "{}"}) {
            CAPTURE(name);
            CAPTURE(value);
            const auto added = fmt::format("{{\"{}\":{},", name, value);
            auto config = replaced(testing::kLlamaConfig, fmt::format("\"{}\":", name), "\"unused\":");
            const auto model = parse(replaced(config, "{", added), weights);
            REQUIRE_FALSE(model);
            CHECK(model.error().code == Errc::Invalid);
        }
    }
    const auto deep = std::string(400'000, '[') + std::string(400'000, ']');
    check_refused(
        parse(replaced(testing::kLlamaConfig, "\"hidden_size\":24", "\"hidden_size\":" + deep), weights),
        "saw an array");
    const auto with = [&](const std::string& text) {
        return replaced(testing::kLlamaConfig, "{", "{" + text + ",");
    };
    check_refused(parse(with(R"("rope_theta":0)"), weights), "base 0");
    check_refused(parse(with(R"("rms_norm_eps":-1)"), weights), "epsilon");
    check_refused(parse(with(R"("head_dim":7)"), weights), "even");
    check_refused(
        parse(with(R"("rope_scaling":{"rope_type":"yarn","factor":0,"original_max_position_embeddings":4})"),
              weights),
        "factor 0");
}

// It would run, and say something else than the model.
TEST_CASE("a configuration that asks for other arithmetic is refused with the field's name") {
    const auto llama = [&](const std::string& text) {
        const auto weights = safetensors_of(testing::seeded_tensors(testing::kLlamaConfig));
        return parse(replaced(testing::kLlamaConfig, "{", "{" + text + ","), weights);
    };
    for (const auto& [name, value] :
         std::map<std::string, std::string>{{"hidden_act", R"("gelu")"},
                                            {"attention_bias", "true"},
                                            {"sliding_window", "4096"},
                                            {"quantization_config", "{}"},
                                            {"rope_scaling", R"({"type":"linear"})"}})
        check_refused(llama(fmt::format("\"{}\":{}", name, value)), name, Errc::Unsupported);
    for (const auto& [name, value] : std::map<std::string, std::string>{{"topk_method", R"("noaux_tc")"},
                                                                        {"scoring_func", R"("sigmoid")"},
                                                                        {"norm_topk_prob", "true"},
                                                                        {"moe_layer_freq", "2"}}) {
        const auto weights = safetensors_of(testing::seeded_tensors(testing::kDeepseekConfig));
        check_refused(
            parse(replaced(testing::kDeepseekConfig, "{", fmt::format("{{\"{}\":{},", name, value)), weights),
            name, Errc::Unsupported);
    }
    const std::string& large = testing::kDeepseekLargeConfig;
    check_refused(parse(replaced(large, R"("n_group":3)", R"("n_group":4)"), ""), "groups of equal size");
    check_refused(parse(replaced(large, R"("n_group":3)", R"("n_group":0)"), ""), "groups of experts");
    check_refused(parse(replaced(large, R"("topk_group":2)", R"("topk_group":1)"), ""), "in 1 of them");
    check_refused(parse(replaced(large, R"("topk_group":2)", R"("topk_group":4)"), ""), "groups used");
    check_refused(parse(replaced(large, R"("q_lora_rank":11)", R"("q_lora_rank":70000)"), ""), "query rank");
    const auto gpt = replaced(testing::kLlamaConfig, "\"llama\"", "\"gpt2\"");
    check_refused(parse(gpt, ""), "qwen3_moe, saw \"gpt2\"", Errc::Unsupported);
}

// Sizes in config.json that no file backs must not make the reader allocate.
TEST_CASE("the largest configuration is refused before anything is allocated") {
    const std::string config =
        R"({"model_type":"qwen3_moe","hidden_size":65536,"intermediate_size":262144,"num_hidden_layers":1024,)"
        R"("num_attention_heads":1024,"head_dim":4096,"vocab_size":1048576,"max_position_embeddings":1048576,)"
        R"("num_experts":1024,"num_experts_per_tok":1024,"moe_intermediate_size":262144})";
    check_refused(parse(config, safetensors_of(testing::seeded_tensors(testing::kLlamaConfig))), "shape");
    check_refused(parse(config, safetensors_of("{}", "")), "expected a tensor model.embed_tokens.weight");
}

TEST_CASE("a folder is read in one file or in shards, and is the same model") {
    const auto tensors = testing::seeded_tensors(testing::kQwenConfig);
    testing::TempFolder whole;
    testing::write_file(whole / "config.json", testing::kQwenConfig);
    check_refused(Model::open(whole.path().string()), "saw neither");
    testing::write_file(whole / "model.safetensors", safetensors_of(tensors));
    const auto model = Model::open(whole.path().string());
    REQUIRE_MESSAGE(model, model.error().detail);

    testing::TempFolder parts;
    testing::write_file(parts / "config.json", testing::kQwenConfig);
    std::vector<std::vector<FileTensor>> shards(3);
    for (std::size_t index = 0; index < tensors.size(); ++index) shards[index % 3].push_back(tensors[index]);
    std::string map;
    for (std::size_t shard = 0; shard < shards.size(); ++shard) {
        const auto file = fmt::format("part-{}.safetensors", shard);
        testing::write_file(parts / file, safetensors_of(shards[shard]));
        for (const auto& tensor : shards[shard])
            map += fmt::format("{}\"{}\":\"{}\"", map.empty() ? "" : ",", tensor.name, file);
    }
    const auto index = [&](const std::string& text) {
        testing::write_file(parts / "model.safetensors.index.json", R"({"weight_map":{)" + text + "}}");
        return Model::open(parts.path().string());
    };
    const auto sharded = index(map);
    REQUIRE_MESSAGE(sharded, sharded.error().detail);
    CHECK(sharded->identity() == model->identity());

    check_refused(index(replaced(map, "part-1", "part-2")), "by the index, saw it in");
    check_refused(index(replaced(map, "part-1", "part-9")), "part-9.safetensors");
    check_refused(index(replaced(map, "model.norm.weight", "model.other")), "in the index, saw");
    testing::write_file(parts / "part-2.safetensors", safetensors_of(tensors));
    check_refused(index(map), "expected each tensor in one shard");
    check_refused(Model::open(parts / "nowhere"), "nowhere");
}

TEST_CASE("an index that leads out of its folder, or is none, is refused") {
    for (const char* text :
         {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})", R"({"weight_map":{"a":1}})",
          R"({"weight_map":{"a":"../x.safetensors"}})", R"({"weight_map":{"a":"/x.safetensors"}})",
          R"({"weight_map":{"a":"x\u0000/y.safetensors"}})", R"({"weight_map":{"a":"x.bin"}})"}) {
        CAPTURE(text);
        const auto index = engine::parse_shard_index(text);
        REQUIRE_FALSE(index);
        CHECK(index.error().code == Errc::Invalid);
    }
    std::string map;
    for (std::size_t index = 0; index <= Model::kShardsMax; ++index)
        map += fmt::format("{}\"{}\":\"{}.safetensors\"", index == 0 ? "" : ",", index, index);
    CHECK(engine::parse_shard_index(R"({"weight_map":{)" + map + "}}").error().detail.find("1024 shards") !=
          std::string::npos);
}

// CMPOOL_WRITE_CORPUS=tests/fuzz/corpus/checkpoint makes the fuzzer's first inputs anew.
TEST_CASE("one checkpoint of each family is written where the fuzzer's corpus is wanted") {
    const char* folder = std::getenv("CMPOOL_WRITE_CORPUS");
    if (folder == nullptr) return;
    const std::string sizes =
        R"("hidden_size":2,"intermediate_size":1,"num_hidden_layers":1,"num_attention_heads":1,)"
        R"("vocab_size":3,"max_position_embeddings":4,"head_dim":2)";
    const std::string experts = R"("num_experts_per_tok":1,"moe_intermediate_size":1)";
    const std::map<std::string, std::string> configs{
        {"llama", R"({"model_type":"llama",)" + sizes + "}"},
        {"qwen3_moe", R"({"model_type":"qwen3_moe","num_experts":2,)" + sizes + "," + experts + "}"},
        {"deepseek_v2",
         R"({"model_type":"deepseek_v2","kv_lora_rank":2,"qk_rope_head_dim":2,"qk_nope_head_dim":1,)"
         R"("v_head_dim":1,"n_routed_experts":2,"n_shared_experts":1,"rope_scaling":{"type":"yarn",)"
         R"("factor":4,"original_max_position_embeddings":4},)" +
             sizes + "," + experts + "}"}};
    const std::map<std::string, std::string> dtypes{{"llama", "F16"}, {"qwen3_moe", "BF16"}};
    for (const auto& [family, config] : configs) {
        const auto dtype = dtypes.contains(family) ? dtypes.at(family) : "F32";
        const auto weights = safetensors_of(testing::seeded_tensors(config, dtype));
        REQUIRE(parse(config, weights));
        testing::write_file(std::filesystem::path(folder) / family, config + '\0' + weights);
    }
    testing::write_file(std::filesystem::path(folder) / "index",
                        R"({"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}})");
}
