#pragma once

#include "roles.h"

#include <cstdint>
#include <string>
#include <vector>

#include <cmpool/base/result.h>

namespace cmpool::serve {

struct GenerateOptions {
    std::string model;
    std::string tokenizer;             ///< a table's path; empty: tok<vocab>.bin beside the model
    std::vector<std::string> prompts;  ///< texts, or @FILE for a file's content
    std::uint32_t max_tokens = 64;
    std::uint32_t block_tokens = 16;
    std::uint32_t threads = default_threads();
    std::string pool = "none";
    bool json = false;
};

/// Answers the prompts one after the other on standard output: a JSON object a line, or text.
[[nodiscard]] Result<void> generate(const GenerateOptions& options);

}  // namespace cmpool::serve
