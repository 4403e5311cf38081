#include "replay.h"

#include <cstdio>
#include <cstring>
#include <memory>

#include <nlohmann/json.hpp>
#include <zstd.h>

namespace cmpool::cli {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 17;
constexpr unsigned char kZstdMagic[] = {0x28, 0xb5, 0x2f, 0xfd};

/// A file's text in pieces, unpacked where it is packed.
class Text {
public:
    static Result<Text> open(const std::string& path) {
        Text text;
        text.file_.reset(std::fopen(path.c_str(), "rb"));
        if (!text.file_) return fail(Errc::Invalid, "expected a trace that can be read, saw {}", path);
        text.fill();
        if (text.in_.size() >= sizeof kZstdMagic &&
            std::memcmp(text.in_.data(), kZstdMagic, sizeof kZstdMagic) == 0)
            text.packed_.reset(ZSTD_createDCtx());
        return text;
    }

    /// Appends the next piece; false at the end. Errors: Corrupt.
    Result<bool> read(std::string& out) {
        if (!packed_) {
            out += in_;
            const bool more = !in_.empty();
            fill();
            return more;
        }
        if (at_ == in_.size()) fill();
        if (in_.empty()) {
            if (open_frame_)
                return fail(Errc::Corrupt, "expected a whole zstd file, saw one that is cut off");
            return false;
        }
        std::string piece(kChunkBytes, '\0');
        ZSTD_inBuffer from{in_.data(), in_.size(), at_};
        ZSTD_outBuffer to{piece.data(), piece.size(), 0};
        const std::size_t left = ZSTD_decompressStream(packed_.get(), &to, &from);
        if (ZSTD_isError(left) != 0) return fail(Errc::Corrupt, "zstd: {}", ZSTD_getErrorName(left));
        open_frame_ = left != 0;
        at_ = from.pos;
        out.append(piece, 0, to.pos);
        return true;
    }

private:
    struct Close {
        void operator()(std::FILE* file) const noexcept { std::fclose(file); }
        void operator()(ZSTD_DCtx* context) const noexcept { ZSTD_freeDCtx(context); }
    };
    void fill() {
        in_.resize(kChunkBytes);
        in_.resize(std::fread(in_.data(), 1, in_.size(), file_.get()));
        at_ = 0;
    }

    std::unique_ptr<std::FILE, Close> file_;
    std::unique_ptr<ZSTD_DCtx, Close> packed_;
    std::string in_;
    std::size_t at_ = 0;
    bool open_frame_ = false;
};

Result<TraceRequest> parse(std::string_view line, std::size_t number) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    const auto wrong = [&](std::string_view what) {
        return fail(Errc::Invalid, "line {}: expected {}, saw {}", number, what, line.substr(0, 80));
    };
    if (!object.is_object()) return wrong("a JSON object");
    for (const char* name : {"timestamp", "input_length"}) {
        if (!object.contains(name) || !object[name].is_number() || object[name].get<double>() < 0)
            return wrong("timestamp and input_length, numbers from 0 on");
    }
    if (!object.contains("hash_ids") || !object["hash_ids"].is_array()) return wrong("hash_ids, a list");
    TraceRequest request{.at_ms = static_cast<std::uint64_t>(object["timestamp"].get<double>()),
                         .tokens = static_cast<std::uint32_t>(
                             std::min(object["input_length"].get<double>(), double{UINT32_MAX})),
                         .blocks = {}};
    for (const auto& id : object["hash_ids"]) {
        if (!id.is_number_unsigned()) return wrong("hash_ids that are numbers from 0 on");
        // What is longer than one call takes is cut off.
        if (request.blocks.size() < kTraceBlocksMax) request.blocks.push_back(id.get<std::uint64_t>());
    }
    return request;
}

}  // namespace

Result<std::vector<TraceRequest>> read_trace(const std::string& file, std::size_t limit) {
    auto text = Text::open(file);
    if (!text) return fail(text.error());
    std::vector<TraceRequest> requests;
    std::string rest;
    std::size_t number = 0;
    for (bool more = true; more && requests.size() < limit;) {
        const auto got = text->read(rest);
        if (!got) return fail(got.error());
        more = *got;
        if (!more && !rest.empty()) rest += '\n';
        std::size_t begin = 0;
        for (auto end = rest.find('\n'); end != std::string::npos && requests.size() < limit;
             begin = end + 1, end = rest.find('\n', begin)) {
            ++number;
            const auto line = std::string_view(rest).substr(begin, end - begin);
            if (line.find_first_not_of(" \r\t") == std::string_view::npos) continue;
            auto request = parse(line, number);
            if (!request) return fail(request.error());
            requests.push_back(std::move(*request));
        }
        rest.erase(0, begin);
        if (rest.size() > kTraceLineMax)
            return fail(Errc::Invalid, "line {}: expected at most {} bytes", number + 1, kTraceLineMax);
    }
    if (requests.empty()) return fail(Errc::Invalid, "expected requests in {}, saw none", file);
    return requests;
}

}  // namespace cmpool::cli
