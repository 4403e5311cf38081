// Messages from a peer: whatever arrives is refused, or reads as a value that encodes and decodes to
// itself. Its corpus is one message of each kind, from CMPOOL_WRITE_CORPUS=FOLDER bin/test_meta.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/wire/messages.h>

using namespace cmpool;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // Aligned, as lanes hand them over; a copy in words also shows a read beyond the end.
    std::vector<std::uint64_t> words(size / 8 + 1);
    if (size > 0) std::memcpy(words.data(), data, size);
    const Bytes buffer = std::as_bytes(std::span(words)).first(size);

    wire::Decoder decoder;
    const auto message = decoder.decode(buffer);
    if (!message) {
        CMPOOL_ASSERT(message.error().code == Errc::Invalid);
        return 0;
    }
    wire::Encoder encoder;
    const auto first = encoder.encode(*message);
    wire::Decoder again;
    const auto back = again.decode(first);
    CMPOOL_ASSERT(back.has_value() && back->body.index() == message->body.index());
    wire::Encoder other;
    const auto second = other.encode(*back);
    CMPOOL_ASSERT(first.size() == second.size() &&
                  std::memcmp(first.data(), second.data(), first.size()) == 0);
    return 0;
}
