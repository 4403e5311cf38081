#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/result.h>
#include <cmpool/engine/tokenizer.h>

#include <nlohmann/json_fwd.hpp>

namespace cmpool::serve {

/// What somebody did wrong, as OpenAI's API says it.
struct Refusal {
    int status = 400;
    std::string message;
    std::string type = "invalid_request_error";
    std::string param;  ///< empty: null
    std::string code;   ///< empty: null
};
[[nodiscard]] std::string to_json(const Refusal& refusal);

/// A completion request that is sound.
struct Completion {
    std::vector<std::uint32_t> prompt;
    std::size_t output_max = 16;
    std::vector<std::string> stops;  ///< texts before which generation ends
    bool stream = false;
    bool usage = false;  ///< a last event with the counts
};

inline constexpr std::size_t kStopsMax = 4;
inline constexpr std::size_t kStopBytesMax = 256;

/// Reads a request's body for a model of this name and context.
[[nodiscard]] tl::expected<Completion, Refusal> read_completion(const std::string& body,
                                                                const engine::Tokenizer& tokenizer,
                                                                const std::string& model,
                                                                std::uint32_t context);

/// Tokens in, text out, in pieces that end between characters, up to the first stop text.
class TextStream {
public:
    TextStream(const engine::Tokenizer& tokenizer, std::vector<std::string> stops,
               std::uint32_t last_prompt_token)
        : tokenizer_(tokenizer), stops_(std::move(stops)), last_(last_prompt_token) {}

    /// What can be shown now.
    [[nodiscard]] std::string add(std::uint32_t token);
    /// What was held back.
    [[nodiscard]] std::string end();
    [[nodiscard]] bool stopped() const noexcept { return stopped_; }

private:
    [[nodiscard]] std::size_t held() const;

    const engine::Tokenizer& tokenizer_;
    std::vector<std::string> stops_;
    std::uint32_t last_;
    std::string text_;  // not shown yet
    bool stopped_ = false;
};

}  // namespace cmpool::serve
