#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::engine {

inline constexpr std::uint32_t kBosToken = 1;
inline constexpr std::uint32_t kEosToken = 2;
/// Ids 0 to 2 are unknown, begin and end; then come the 256 bytes.
inline constexpr std::uint32_t kFirstByteToken = 3;
inline constexpr std::uint32_t kByteVocab = kFirstByteToken + 256;

/// Text to token ids and back, by merging the best-scored pairs of pieces.
///
///   Threads  immutable: any thread
///   Limits   kByteVocab to 2^20 pieces of at most kPieceBytesMax bytes each; encode() takes time
///            n log n in the text's bytes
///   Errors   parse() gives Invalid for a table that is not exactly `vocab` pieces long
///   Source   llama2.c, tokenizer.bin (tokenizer.py, export)
class Tokenizer {
public:
    static constexpr std::uint32_t kPieceBytesMax = 1024;
    static constexpr std::uint64_t kFileBytesMax = 256 * 1024 * 1024;

    [[nodiscard]] static Result<Tokenizer> load(const std::filesystem::path& path, std::uint32_t vocab);
    [[nodiscard]] static Result<Tokenizer> parse(Bytes file, std::uint32_t vocab);
    /// One token a byte: for models that have no table.
    [[nodiscard]] static Tokenizer bytes();

    [[nodiscard]] std::uint32_t vocab() const noexcept { return static_cast<std::uint32_t>(pieces_.size()); }
    /// Begins with kBosToken. Text in a table with a piece " " is read as if a space stood before it.
    [[nodiscard]] std::vector<std::uint32_t> encode(std::string_view text) const;
    /// The pieces' text, without that space; bytes that are not UTF-8 come out as they are.
    /// Control tokens and ids beyond the table are silent.
    [[nodiscard]] std::string decode(std::span<const std::uint32_t> tokens) const;

private:
    struct Piece {
        std::string text;
        float score;
    };

    void add(std::string text, float score);
    [[nodiscard]] const std::uint32_t* find(const std::string& text) const;
    [[nodiscard]] std::vector<std::uint32_t> characters(std::string_view text) const;
    void merge(std::vector<std::uint32_t>& tokens) const;

    std::vector<Piece> pieces_;
    std::unordered_map<std::string, std::uint32_t> ids_;  // of equal pieces, the lowest
};

}  // namespace cmpool::engine
