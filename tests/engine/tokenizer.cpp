#include <cstring>

#include <cmpool/base/rng.h>
#include <cmpool/engine/tokenizer.h>

using namespace cmpool;
using engine::Tokenizer;
using Tokens = std::vector<std::uint32_t>;

namespace {

struct Piece {
    std::string text;
    float score;
};

template <class T>
void append(std::string& file, T value) {
    file.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// The controls and bytes that every table begins with, then these pieces from id 259 on.
std::string table_of(const std::vector<Piece>& pieces) {
    std::string file;
    append(file, std::int32_t{8});
    const auto add = [&](const std::string& text, float score) {
        append(file, score);
        append(file, static_cast<std::int32_t>(text.size()));
        file += text;
    };
    for (const char* control : {"<unk>", "<s>", "</s>"}) add(control, 0);
    for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), 0);
    for (const auto& piece : pieces) add(piece.text, piece.score);
    return file;
}

const std::vector<Piece> kPieces{{" ", -1},  {"a", -2},  {"b", -3},     {"ab", -9},
                                 {" a", -5}, {"ba", -5}, {"\u00e9", -4}};
enum : std::uint32_t { Space = 259, A, B, Ab, SpaceA, Ba, Accented };

Tokenizer small() { return Tokenizer::parse(as_bytes(table_of(kPieces)), 266).value(); }

}  // namespace

TEST_CASE("the best-scored pair merges first, the leftmost on a tie") {
    CHECK(small().encode("") == Tokens{1});
    CHECK(small().encode("a") == Tokens{1, SpaceA});
    CHECK(small().encode("ab") == Tokens{1, SpaceA, B});
    CHECK(small().encode("baba") == Tokens{1, Space, Ba, Ba});
    CHECK(small().encode("bbab") == Tokens{1, Space, B, Ba, B});
}

TEST_CASE("a character without a piece becomes its bytes") {
    CHECK(small().encode("b\u00e9") == Tokens{1, Space, B, Accented});
    CHECK(small().encode("z") == Tokens{1, Space, 3 + 'z'});
    CHECK(small().encode("\u20ac") == Tokens{1, Space, 3 + 0xe2, 3 + 0x82, 3 + 0xac});
    CHECK(small().encode("\xff") == Tokens{1, Space, 3 + 0xff});
}

TEST_CASE("decoding is the way back") {
    Rng rng(3);
    for (int round = 0; round < 200; ++round) {
        std::string text;
        for (std::uint64_t left = rng.below(40); left > 0; --left) text += "ab \xc3\xa9\x80z\n"[rng.below(9)];
        CHECK(small().decode(small().encode(text)) == text);
        CHECK(Tokenizer::bytes().decode(Tokenizer::bytes().encode(text)) == text);
    }
    CHECK(small().decode(Tokens{SpaceA}) == " a");
    CHECK(small().decode(Tokens{1, SpaceA, SpaceA, 2, 99999}) == "a a");
}

TEST_CASE("without a table a token is a byte") {
    CHECK(Tokenizer::bytes().vocab() == engine::kByteVocab);
    CHECK(Tokenizer::bytes().encode("A\xff") == Tokens{1, 3 + 'A', 3 + 0xff});
}

// A prompt can be long: the naive way would take minutes here.
TEST_CASE("a long text is encoded in less than quadratic time") {
    std::string text;
    for (int round = 0; round < 20'000; ++round) text += "baab ";
    CHECK(small().decode(small().encode(text)) == text);
}

TEST_CASE("a table that is cut off, too long or hostile is refused") {
    const std::string whole = table_of(kPieces);
    for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
        REQUIRE_FALSE(Tokenizer::parse(as_bytes(std::string_view(whole).substr(0, bytes)), 266));
    CHECK_FALSE(Tokenizer::parse(as_bytes(whole), 265));
    CHECK_FALSE(Tokenizer::parse(as_bytes(whole), 267));
    CHECK_FALSE(Tokenizer::parse(as_bytes(whole), 5));
    for (const std::int32_t bytes : {-1, 9, INT32_MAX, INT32_MIN}) {
        std::string hostile = whole;
        std::memcpy(hostile.data() + 8, &bytes, sizeof(bytes));
        CHECK_FALSE(Tokenizer::parse(as_bytes(hostile), 266));
    }
}
