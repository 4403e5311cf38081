#include "completion.h"

#include <algorithm>

#include <nlohmann/json.hpp>

namespace cmpool::serve {

namespace {

using nlohmann::json;

Refusal wrong(std::string param, std::string message) {
    return {.message = std::move(message), .param = std::move(param)};
}

/// Fields that would change the answer if we knew them: only the value that means "as usual" is taken.
const Refusal* unsupported(const json& body) {
    static thread_local Refusal refusal;
    const struct {
        const char* name;
        json usual;
    } fields[] = {{"temperature", 0},      {"n", 1},       {"best_of", 1},
                  {"echo", false},         {"suffix", ""}, {"presence_penalty", 0},
                  {"frequency_penalty", 0}};
    for (const auto& [name, usual] : fields) {
        const auto found = body.find(name);
        if (found == body.end() || found->is_null() || *found == usual) continue;
        refusal = wrong(
            name, fmt::format("this server decodes greedily, one answer a prompt: expected {} to be {}, "
                              "saw {}",
                              name, usual.dump(), found->dump().substr(0, 100)));
        return &refusal;
    }
    const auto logprobs = body.find("logprobs");
    if (logprobs == body.end() || logprobs->is_null()) return nullptr;
    refusal = wrong("logprobs", "this server gives no logprobs");
    return &refusal;
}

tl::expected<std::vector<std::uint32_t>, Refusal> read_prompt(const json& body,
                                                              const engine::Tokenizer& tokenizer) {
    const auto found = body.find("prompt");
    const auto refuse = [] {
        return tl::unexpected(
            wrong("prompt", "expected a prompt: a text, a list of one text, or a list of token ids"));
    };
    if (found == body.end()) return refuse();
    if (found->is_string()) return tokenizer.encode(found->get_ref<const std::string&>());
    if (!found->is_array() || found->empty()) return refuse();
    if (found->front().is_string() && found->size() == 1)
        return tokenizer.encode(found->front().get_ref<const std::string&>());
    std::vector<std::uint32_t> tokens;
    for (const json& token : *found) {
        if (!token.is_number_unsigned()) return refuse();
        const auto id = token.get<std::uint64_t>();
        if (id >= tokenizer.vocab()) {
            return tl::unexpected(
                wrong("prompt", fmt::format("expected token ids below {}, saw {}", tokenizer.vocab(), id)));
        }
        tokens.push_back(static_cast<std::uint32_t>(id));
    }
    return tokens;
}

tl::expected<std::vector<std::string>, Refusal> read_stops(const json& body) {
    const auto found = body.find("stop");
    if (found == body.end() || found->is_null()) return {};
    const json list = found->is_array() ? *found : json::array({*found});
    std::vector<std::string> stops;
    for (const json& stop : list) {
        const bool sound = stop.is_string() && !stop.get_ref<const std::string&>().empty() &&
                           stop.get_ref<const std::string&>().size() <= kStopBytesMax;
        if (sound) stops.push_back(stop);
        if (sound && stops.size() <= kStopsMax) continue;
        return tl::unexpected(
            wrong("stop", fmt::format("expected up to {} texts of 1 to {} bytes", kStopsMax, kStopBytesMax)));
    }
    return stops;
}

/// Bytes at the end of `text` that may be the beginning of a character.
std::size_t unfinished(std::string_view text) {
    for (std::size_t back = 1; back <= std::min<std::size_t>(text.size(), 3); ++back) {
        const auto byte = static_cast<unsigned char>(text[text.size() - back]);
        if ((byte & 0xC0) == 0x80) continue;
        const std::size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
        return length > back ? back : 0;
    }
    return 0;
}

}  // namespace

std::string to_json(const Refusal& refusal) {
    const auto text = [](const std::string& value) { return value.empty() ? json(nullptr) : json(value); };
    const json error{{"message", refusal.message},
                     {"type", refusal.type},
                     {"param", text(refusal.param)},
                     {"code", text(refusal.code)}};
    return json{{"error", error}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

tl::expected<Completion, Refusal> read_completion(const std::string& text, const engine::Tokenizer& tokenizer,
                                                  const std::string& model, std::uint32_t context) {
    const json body = json::parse(text, nullptr, false);
    if (!body.is_object())
        return tl::unexpected(wrong("", "expected the body to be a JSON object; it cannot be read as one"));
    const auto name = body.find("model");
    if (name != body.end() && *name != model) {
        return tl::unexpected(
            Refusal{.status = 404,
                    .message = fmt::format("the model {} does not exist here; this server has \"{}\"",
                                           name->dump().substr(0, 200), model),
                    .param = "model",
                    .code = "model_not_found"});
    }
    if (const Refusal* refusal = unsupported(body)) return tl::unexpected(*refusal);
    Completion out;
    auto prompt = read_prompt(body, tokenizer);
    if (!prompt) return tl::unexpected(prompt.error());
    out.prompt = std::move(*prompt);
    if (out.prompt.size() > context) {
        Refusal refusal = wrong("prompt", fmt::format("this model's context is {} tokens, the prompt has {}",
                                                      context, out.prompt.size()));
        refusal.code = "context_length_exceeded";
        return tl::unexpected(std::move(refusal));
    }
    if (const auto most = body.find("max_tokens"); most != body.end() && !most->is_null()) {
        if (!most->is_number_unsigned() || most->get<std::uint64_t>() == 0)
            return tl::unexpected(
                wrong("max_tokens", "expected max_tokens to be a whole number of 1 or more"));
        out.output_max = std::min<std::uint64_t>(most->get<std::uint64_t>(), context);
    }
    auto stops = read_stops(body);
    if (!stops) return tl::unexpected(stops.error());
    out.stops = std::move(*stops);
    if (const auto stream = body.find("stream"); stream != body.end() && !stream->is_null()) {
        if (!stream->is_boolean())
            return tl::unexpected(wrong("stream", "expected stream to be true or false"));
        out.stream = *stream;
    }
    if (const auto options = body.find("stream_options"); options != body.end() && options->is_object())
        out.usage = options->value("include_usage", json(false)) == json(true);
    return out;
}

std::string TextStream::add(std::uint32_t token) {
    if (stopped_) return {};
    const std::uint32_t both[] = {last_, token};
    // After the begin of a text, a piece loses its leading space: nowhere else.
    const bool first = last_ == engine::kBosToken;
    text_ += tokenizer_.decode(first ? std::span(both) : std::span(both).subspan(1));
    last_ = token;
    for (const std::string& stop : stops_) {
        if (const auto at = text_.find(stop); at != std::string::npos) {
            text_.resize(at);
            stopped_ = true;
        }
    }
    const std::size_t show = stopped_ ? text_.size() : text_.size() - held();
    std::string shown = text_.substr(0, show);
    text_.erase(0, show);
    return shown;
}

std::size_t TextStream::held() const {
    std::size_t most = unfinished(text_);
    for (const std::string& stop : stops_) {
        for (std::size_t bytes = std::min(stop.size() - 1, text_.size()); bytes > most; --bytes) {
            if (text_.ends_with(stop.substr(0, bytes))) most = bytes;
        }
    }
    // Nor may what is shown end inside a character.
    const auto inside = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; };
    while (most > 0 && most < text_.size() && inside(text_[text_.size() - most])) ++most;
    return std::min(most, text_.size());
}

std::string TextStream::end() { return std::exchange(text_, {}); }

}  // namespace cmpool::serve
