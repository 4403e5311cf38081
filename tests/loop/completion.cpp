#include <completion.h>
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

using namespace cmpool;
using namespace cmpool::serve;

namespace {

const engine::Tokenizer& bytes_tokenizer() {
    static const auto tokenizer = engine::Tokenizer::bytes();
    return tokenizer;
}

/// What is shown, a piece a token, of a text whose tokens are its bytes.
std::vector<std::string> show(const std::string& text, std::vector<std::string> stops = {}) {
    TextStream stream(bytes_tokenizer(), std::move(stops), 50);
    std::vector<std::string> shown;
    for (const char byte : text)
        shown.push_back(stream.add(engine::kFirstByteToken + static_cast<unsigned char>(byte)));
    shown.push_back(stream.end());
    return shown;
}

std::string joined(const std::vector<std::string>& pieces) {
    std::string out;
    for (const auto& piece : pieces) out += piece;
    return out;
}

}  // namespace

TEST_CASE("a character is shown when its last byte is there") {
    CHECK(show("a\u00e4b") == std::vector<std::string>{"a", "", "\u00e4", "b", ""});
    CHECK(show("\U0001F600") == std::vector<std::string>{"", "", "", "\U0001F600", ""});
    CHECK(show("\xf0\x9f") == std::vector<std::string>{"", "", "\xf0\x9f"});  // it never came
}

TEST_CASE("nothing of a stop text is shown, and nothing else is held back") {
    CHECK(show("one two", {"tw"}) == std::vector<std::string>{"o", "n", "e", " ", "", "", "", ""});
    CHECK(show("one to", {"tw"}) == std::vector<std::string>{"o", "n", "e", " ", "", "to", ""});
    CHECK(joined(show("aaab", {"aab"})) == "a");
    CHECK(joined(show("xyz", {"nothing", "z"})) == "xy");
    CHECK(joined(show("\u00e4\u00e4", {"\xa4\xc3"})) == "\xc3");  // a stop text that is no text either
}

TEST_CASE("a request says what it wants") {
    const auto read = [](const std::string& body) {
        return read_completion(body, bytes_tokenizer(), "m", 100);
    };
    const auto sound = read(R"({"model":"m","prompt":"hi","max_tokens":1000,"stream":true,"stop":"x",
        "temperature":0,"stream_options":{"include_usage":true},"unknown":[]})");
    REQUIRE(sound);
    CHECK(sound->prompt == bytes_tokenizer().encode("hi"));
    CHECK(sound->output_max == 100);
    CHECK(sound->stream);
    CHECK(sound->usage);
    CHECK(sound->stops == std::vector<std::string>{"x"});
    CHECK(read(R"({"prompt":[5,6]})")->prompt == std::vector<std::uint32_t>{5, 6});
    CHECK(read(R"({"prompt":["hi"],"stop":null,"max_tokens":null})")->output_max == 16);

    const auto refused = [&](const std::string& body) { return read(body).error(); };
    CHECK(refused("").status == 400);
    CHECK(refused(R"({"model":"other","prompt":"hi"})").code == "model_not_found");
    CHECK(refused(R"({"prompt":")" + std::string(200, 'a') + "\"}").code == "context_length_exceeded");
    CHECK(refused(R"({"prompt":[5,-6]})").param == "prompt");
    CHECK(refused(R"({"prompt":[]})").param == "prompt");
    CHECK(refused(R"({"prompt":"a","temperature":1})").param == "temperature");
    CHECK(refused(R"({"prompt":"a","logprobs":1})").param == "logprobs");
    CHECK(refused(R"({"prompt":"a","stop":["a","b","c","d","e"]})").param == "stop");
    CHECK(refused(R"({"prompt":"a","stop":""})").param == "stop");
    CHECK(refused(R"({"prompt":"a","max_tokens":1.5})").param == "max_tokens");
    const auto error = nlohmann::json::parse(to_json(refused("{")));
    CHECK(error.at("error").at("type") == "invalid_request_error");
    CHECK(error.at("error").at("code").is_null());
}
