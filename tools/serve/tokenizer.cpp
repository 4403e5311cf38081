#include "tokenizer.h"

#include <filesystem>

#include <cmpool/engine/model.h>

namespace cmpool::serve {

Result<engine::Tokenizer> open_tokenizer(const std::string& path, const std::string& model,
                                         std::uint32_t vocab) {
    if (!path.empty()) return engine::Tokenizer::load(path, vocab);
    if (engine::is_synthetic(model)) return engine::Tokenizer::bytes();
    const auto beside = std::filesystem::path(model).replace_filename(fmt::format("tok{}.bin", vocab));
    if (std::filesystem::exists(beside)) return engine::Tokenizer::load(beside, vocab);
    return fail(Errc::Invalid, "expected --tokenizer PATH, or {} beside the model; saw neither",
                beside.filename().string());
}

std::vector<std::uint32_t> stop_tokens_of(const std::string& model) {
    if (engine::is_synthetic(model)) return {};
    return {engine::kBosToken, engine::kEosToken};
}

}  // namespace cmpool::serve
