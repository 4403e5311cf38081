#include "loop_generated.h"

#include <algorithm>
#include <cstring>

#include <cmpool/loop/messages.h>

namespace cmpool::loop {
namespace {

constexpr std::size_t kTablesMax = 4;
constexpr std::size_t kDepthMax = 4;

/// Byte by byte: the verifier does not look how a list's elements are aligned.
template <class T>
std::vector<T> list(const flatbuffers::Vector<T>* values) {
    std::vector<T> copy(values == nullptr ? 0 : values->size());
    if (!copy.empty()) std::memcpy(copy.data(), values->Data(), copy.size() * sizeof(T));
    return copy;
}

std::size_t length(const auto* values) { return values == nullptr ? 0 : values->size(); }

bool within_limits(const fb::Message& in) {
    const auto* names = in.names();
    if (length(names) > kStatisticsMax || length(in.values()) != length(names)) return false;
    for (std::size_t index = 0; index < length(names); ++index) {
        if (names->Get(static_cast<flatbuffers::uoffset_t>(index))->size() > kTextBytesMax) return false;
    }
    return length(in.tokens()) <= kTokensMax && length(in.pages()) <= kTokensMax &&
           length(in.stop_tokens()) <= kStopTokensMax && length(in.text()) <= kTextBytesMax &&
           length(in.descriptor()) <= kDescriptorBytesMax && in.kind() >= std::uint8_t(Kind::Hello) &&
           in.kind() <= std::uint8_t(Kind::Stats);
}

}  // namespace

std::vector<std::byte> encode(const Message& message) {
    flatbuffers::FlatBufferBuilder builder;
    const auto tokens = builder.CreateVector(message.tokens);
    const auto pages = builder.CreateVector(message.pages);
    const auto stop_tokens = builder.CreateVector(message.stop_tokens);
    const auto text = builder.CreateString(message.text.substr(0, kTextBytesMax));
    const auto descriptor = builder.CreateVector(
        reinterpret_cast<const std::uint8_t*>(message.descriptor.data()), message.descriptor.size());
    const auto names = builder.CreateVectorOfStrings(message.names);
    const auto values = builder.CreateVector(message.values);
    builder.Finish(fb::CreateMessage(builder, std::uint8_t(message.kind), message.id, message.session,
                                     message.secret, tokens, pages, stop_tokens, message.output_max,
                                     message.finish, message.code, text, message.reused, message.pending,
                                     descriptor, names, values));
    const auto bytes = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
    return {bytes.begin(), bytes.end()};
}

Result<Message> decode(Bytes head) {
    // The verifier wants the alignment that the sender's buffer had.
    const std::vector<std::uint64_t> aligned = [&] {
        std::vector<std::uint64_t> copy((head.size() + 7) / 8);
        std::ranges::copy(head, std::as_writable_bytes(std::span(copy)).begin());
        return copy;
    }();
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(aligned.data());
    flatbuffers::Verifier verifier(bytes, head.size(), kDepthMax, kTablesMax);
    if (head.empty() || !fb::VerifyMessageBuffer(verifier))
        return fail(Errc::Invalid, "{} bytes that are no message of ours", head.size());
    const fb::Message& in = *fb::GetMessage(bytes);
    if (!within_limits(in)) return fail(Errc::Invalid, "a message of kind {} beyond its limits", in.kind());
    Message out{.kind = Kind(in.kind()),
                .id = in.id(),
                .session = in.session(),
                .secret = in.secret(),
                .tokens = list(in.tokens()),
                .pages = list(in.pages()),
                .stop_tokens = list(in.stop_tokens()),
                .output_max = in.output_max(),
                .finish = in.finish(),
                .code = in.code(),
                .text = in.text() == nullptr ? std::string{} : in.text()->str(),
                .reused = in.reused(),
                .pending = in.pending(),
                .values = list(in.values())};
    for (const std::uint8_t byte : list(in.descriptor())) out.descriptor.push_back(std::byte{byte});
    for (std::size_t index = 0; index < length(in.names()); ++index)
        out.names.push_back(in.names()->Get(static_cast<flatbuffers::uoffset_t>(index))->str());
    return out;
}

}  // namespace cmpool::loop
