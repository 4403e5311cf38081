// Messages between router and workers: whatever arrives is refused, or reads as a value that encodes and
// decodes to itself. Its corpus is one message of each kind, from CMPOOL_WRITE_CORPUS=FOLDER bin/test_loop.
#include <cstddef>
#include <cstdint>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/loop/messages.h>

using namespace cmpool;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // A copy of exactly this size shows a read beyond its end.
    const std::vector<std::uint8_t> bytes(data, data + size);
    const auto message = loop::decode(std::as_bytes(std::span(bytes)));
    if (!message) {
        CMPOOL_ASSERT(message.error().code == Errc::Invalid);
        return 0;
    }
    CMPOOL_ASSERT(message->tokens.size() <= loop::kTokensMax && message->pages.size() <= loop::kTokensMax);
    CMPOOL_ASSERT(message->names.size() == message->values.size());
    const auto again = loop::decode(loop::encode(*message));
    CMPOOL_ASSERT(again.has_value() && *again == *message);
    return 0;
}
