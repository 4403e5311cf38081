// cmpool-serve against one real cmpoold: the same answers with a pool as without one, word for word.
#include <fstream>
#include <map>

#include <cmpool/testing/daemon.h>
#include <cmpool/testing/shared_data.h>

#include <nlohmann/json.hpp>

using namespace cmpool;
using testing::Daemon;
using testing::Process;

namespace {

constexpr std::size_t kBlockTokens = 16;
constexpr std::chrono::milliseconds kServePatience{60'000};

using Tokens = std::vector<std::uint32_t>;

/// What one run of cmpool-serve answers to one prompt.
nlohmann::json serve(const std::vector<std::string>& model, const std::string& pool,
                     const std::string& prompt, std::size_t max_tokens) {
    std::vector<std::string> command{CMPOOL_SERVE, "generate"};
    command.insert(command.end(), model.begin(), model.end());
    command.insert(command.end(), {"--pool", pool, "--prompt", prompt, "--json", "--block-tokens",
                                   std::to_string(kBlockTokens), "--max-tokens", std::to_string(max_tokens)});
    Process server(command);
    const auto line = server.read_line(kServePatience);
    const auto code = server.wait();
    if (!line || code != 0) FAIL("cmpool-serve said: ", server.errors());
    return nlohmann::json::parse(*line);
}

/// The most of a prompt that can come from a pool: its last token is always computed.
std::size_t full_blocks(std::size_t prompt_tokens) {
    return (prompt_tokens - 1) / kBlockTokens * kBlockTokens;
}

const std::vector<std::string> kSynthetic{"--model", "synthetic:300K"};

}  // namespace

// Floats travel through the pool as bytes: one bit changed somewhere would show in some token.
TEST_CASE("a trained model answers from a pool what the reference says, cold and warm, on shm and over tcp") {
    const auto model = testing::shared_data("models/stories260K/stories260K.bin");
    const auto table = testing::shared_data("models/stories260K/tok512.bin");
    const auto golden = testing::shared_data("models/stories260K/golden.json");
    if (!model || !table || !golden) return;
    const std::vector<std::string> flags{"--model", model->string(), "--tokenizer", table->string()};
    const auto cases = nlohmann::json::parse(std::ifstream(*golden)).at("cases");
    REQUIRE(cases.size() == 8);

    for (const std::string transport : {"none", "shm", "tcp"}) {
        CAPTURE(transport);
        const auto daemon = transport == "none" ? nullptr : std::make_unique<Daemon>();
        const auto pool = daemon ? daemon->uri("?deadline_ms=5000&transport=" + transport) : transport;
        std::map<std::string, std::size_t> reused;
        for (const bool warm : {false, true}) {
            if (warm && !daemon) continue;
            for (const auto& expected : cases) {
                const auto name = expected.at("name").get<std::string>();
                CAPTURE(name);
                const Tokens output = expected.at("output_ids");
                const auto answer = serve(flags, pool, expected.at("prompt"), output.size());
                CHECK(answer.at("tokens").get<Tokens>() == output);
                CHECK(answer.at("text") == expected.at("text"));
                const std::size_t prompt_tokens = expected.at("prompt_ids").size();
                CHECK(answer.at("prompt_tokens") == prompt_tokens);
                reused[name] = answer.at("reused_tokens");
                if (warm) CHECK(reused[name] == full_blocks(prompt_tokens));
            }
            if (warm) continue;
            CHECK(reused.at("shared_prefix_a") == 0);
            CHECK(reused.at("shared_prefix_b") == (daemon ? 128 : 0));  // 136 ids in common
            CHECK(reused.at("shared_prefix_a_longer") == (daemon ? 128 : 0));
        }
        if (daemon) CHECK(daemon->stop());
    }
}

TEST_CASE("a synthetic model answers the same without a pool, cold and warm") {
    const std::string prompt = "The pool keeps what was computed once, so that nobody computes it again.";
    const auto expected = serve(kSynthetic, "none", prompt, 16).at("tokens").get<Tokens>();
    CHECK(expected.size() == 16);
    for (const std::string transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        Daemon daemon;
        const auto pool = daemon.uri("?deadline_ms=5000&transport=" + transport);
        for (const bool warm : {false, true}) {
            const auto answer = serve(kSynthetic, pool, prompt, 16);
            CHECK(answer.at("tokens").get<Tokens>() == expected);
            const std::size_t most = full_blocks(answer.at("prompt_tokens"));
            CHECK(answer.at("reused_tokens") == (warm ? most : 0));
        }
        CHECK(daemon.stop());
    }
}

TEST_CASE("a prompt that goes on where another ended reuses all of it, across processes") {
    Daemon daemon;
    const auto pool = daemon.uri("?deadline_ms=5000&transport=shm");
    const std::string begin(160, 'a');
    CHECK(serve(kSynthetic, pool, begin, 1).at("reused_tokens") == 0);
    // A token a byte, and one before them: ten full blocks, then one token.
    const auto longer = serve(kSynthetic, pool, begin + " and so on, and so on", 8);
    CHECK(longer.at("reused_tokens") == 160);
    CHECK(longer.at("tokens") == serve(kSynthetic, "none", begin + " and so on, and so on", 8).at("tokens"));
    CHECK(daemon.stop());
}
