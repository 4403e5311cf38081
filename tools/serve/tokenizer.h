#pragma once

#include <string>

#include <cmpool/engine/tokenizer.h>

namespace cmpool::serve {

/// The tokenizer of a model: a table's path, or empty for tok<vocab>.bin beside the model, or for the bytes
/// tokenizer of a synthetic one. Errors: Invalid says what was looked for.
[[nodiscard]] Result<engine::Tokenizer> open_tokenizer(const std::string& path, const std::string& model,
                                                       std::uint32_t vocab);
/// Seeded weights mean nothing by the end of a text; a trained model does.
[[nodiscard]] std::vector<std::uint32_t> stop_tokens_of(const std::string& model);

}  // namespace cmpool::serve
