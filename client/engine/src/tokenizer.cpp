#include "file.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <queue>
#include <utility>

#include <cmpool/engine/tokenizer.h>

namespace cmpool::engine {

namespace {

constexpr std::uint32_t kVocabMax = 1U << 20;
constexpr std::size_t kCharacterBytesMax = 4;

/// Reads values off the front of a file and notices its end.
class Reader {
public:
    explicit Reader(Bytes bytes) noexcept : rest_(bytes) {}

    template <class T>
    [[nodiscard]] std::optional<T> value() noexcept {
        if (rest_.size() < sizeof(T)) return std::nullopt;
        T out;
        std::memcpy(&out, rest_.data(), sizeof(T));
        rest_ = rest_.subspan(sizeof(T));
        return out;
    }
    [[nodiscard]] std::optional<std::string> text(std::size_t bytes) {
        if (rest_.size() < bytes) return std::nullopt;
        std::string out(as_text(rest_.first(bytes)));
        rest_ = rest_.subspan(bytes);
        return out;
    }
    [[nodiscard]] std::size_t rest_bytes() const noexcept { return rest_.size(); }

private:
    Bytes rest_;
};

// "<0x0A>" stands for the byte 10.
std::optional<char> byte_of(std::string_view piece) {
    if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return std::nullopt;
    unsigned value = 0;
    const auto [rest, error] = std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
    if (error != std::errc{} || rest != piece.data() + 5) return std::nullopt;
    return static_cast<char>(value);
}

bool continues_character(char byte) noexcept { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& path, std::uint32_t vocab) {
    const auto content = read_file(path, kFileBytesMax);
    if (!content) return fail(content.error());
    return name_file(parse(*content, vocab), path);
}

Result<Tokenizer> Tokenizer::parse(Bytes file, std::uint32_t vocab) {
    if (vocab < kByteVocab || vocab > kVocabMax) {
        return fail(Errc::Invalid, "expected a vocabulary of {} to {} pieces, saw {}", kByteVocab, kVocabMax,
                    vocab);
    }
    Reader reader(file);
    const auto longest = reader.value<std::int32_t>();
    if (!longest || *longest < 1 || *longest > static_cast<std::int32_t>(kPieceBytesMax)) {
        return fail(Errc::Invalid, "expected a longest piece of 1 to {} bytes, saw {}", kPieceBytesMax,
                    longest.value_or(0));
    }
    Tokenizer table;
    for (std::uint32_t id = 0; id < vocab; ++id) {
        const auto score = reader.value<float>();
        const auto bytes = reader.value<std::int32_t>();
        if (!bytes) {
            return fail(Errc::Invalid,
                        "expected a table of {} pieces, saw one of {} bytes that ends in piece {}", vocab,
                        file.size(), id);
        }
        if (*bytes < 0 || *bytes > *longest || std::isnan(*score)) {
            return fail(Errc::Invalid, "piece {}: expected a score and 0 to {} bytes, saw {} and {}", id,
                        *longest, *score, *bytes);
        }
        auto text = reader.text(static_cast<std::size_t>(*bytes));
        if (!text) {
            return fail(Errc::Invalid, "piece {}: expected {} bytes, saw the file end after {}", id, *bytes,
                        reader.rest_bytes());
        }
        table.add(std::move(*text), *score);
    }
    if (reader.rest_bytes() != 0) {
        return fail(Errc::Invalid, "expected a table of {} pieces and no more, saw {} further bytes", vocab,
                    reader.rest_bytes());
    }
    return table;
}

Tokenizer Tokenizer::bytes() {
    Tokenizer table;
    for (const char* control : {"<unk>", "<s>", "</s>"}) table.add(control, 0);
    for (unsigned byte = 0; byte < 256; ++byte) table.add(fmt::format("<0x{:02X}>", byte), 0);
    return table;
}

void Tokenizer::add(std::string text, float score) {
    ids_.emplace(text, vocab());
    pieces_.push_back({std::move(text), score});
}

const std::uint32_t* Tokenizer::find(const std::string& text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? nullptr : &found->second;
}

std::vector<std::uint32_t> Tokenizer::encode(std::string_view text) const {
    std::vector<std::uint32_t> tokens{kBosToken};
    if (text.empty()) return tokens;
    if (const auto* space = find(" ")) tokens.push_back(*space);
    const auto rest = characters(text);
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    merge(tokens);
    return tokens;
}

std::vector<std::uint32_t> Tokenizer::characters(std::string_view text) const {
    std::vector<std::uint32_t> tokens;
    for (std::size_t start = 0, end = 0; start < text.size(); start = end) {
        end = start + 1;
        while (end < text.size() && end - start < kCharacterBytesMax && continues_character(text[end])) ++end;
        const std::string character(text.substr(start, end - start));
        if (const auto* id = find(character)) {
            tokens.push_back(*id);
            continue;
        }
        for (const char byte : character)
            tokens.push_back(kFirstByteToken + static_cast<unsigned char>(byte));
    }
    return tokens;
}

// Pairs wait in a heap, best score first, then leftmost. Tokens are a linked list in which a merged
// pair lives on at its left place; a waiting pair whose places have changed since is passed over.
void Tokenizer::merge(std::vector<std::uint32_t>& tokens) const {
    struct Pair {
        float score;
        std::size_t left, right;
        std::uint32_t left_id, right_id, joined;
        bool operator<(const Pair& other) const {
            return score != other.score ? score < other.score : left > other.left;
        }
    };
    constexpr std::uint32_t kGone = UINT32_MAX;
    const std::size_t end = tokens.size();
    std::vector<std::size_t> next(end), previous(end);
    std::priority_queue<Pair> pairs;
    const auto consider = [&](std::size_t left, std::size_t right) {
        const auto* joined = find(pieces_[tokens[left]].text + pieces_[tokens[right]].text);
        if (joined) pairs.push({pieces_[*joined].score, left, right, tokens[left], tokens[right], *joined});
    };
    for (std::size_t place = 0; place < end; ++place) {
        next[place] = place + 1;
        previous[place] = place == 0 ? end : place - 1;
        if (place > 0) consider(place - 1, place);
    }
    while (!pairs.empty()) {
        const Pair best = pairs.top();
        pairs.pop();
        if (tokens[best.left] != best.left_id || tokens[best.right] != best.right_id ||
            next[best.left] != best.right)
            continue;
        tokens[best.left] = best.joined;
        tokens[best.right] = kGone;
        next[best.left] = next[best.right];
        if (next[best.left] != end) {
            previous[next[best.left]] = best.left;
            consider(best.left, next[best.left]);
        }
        if (previous[best.left] != end) consider(previous[best.left], best.left);
    }
    std::erase(tokens, kGone);
}

std::string Tokenizer::decode(std::span<const std::uint32_t> tokens) const {
    std::string text;
    std::uint32_t before = 0;
    for (const std::uint32_t token : tokens) {
        const bool first = std::exchange(before, token) == kBosToken;
        if (token == kBosToken || token == kEosToken || token >= vocab()) continue;
        const std::string_view piece = pieces_[token].text;
        if (const auto byte = byte_of(piece)) {
            text += *byte;
        } else {
            text += first && piece.starts_with(' ') ? piece.substr(1) : piece;
        }
    }
    return text;
}

}  // namespace cmpool::engine
