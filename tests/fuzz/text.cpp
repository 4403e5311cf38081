// Text from command lines and files: sizes and hexadecimal. Whatever comes in, the readers answer
// yes or no, and a yes survives the way back.
#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/assert.h>
#include <cmpool/base/bytes.h>
#include <cmpool/base/units.h>

using namespace cmpool;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);

    if (const auto bytes = parse_bytes(text)) {
        CMPOOL_ASSERT(parse_bytes(std::to_string(*bytes)) == *bytes);
        CMPOOL_ASSERT(!format_bytes(*bytes).empty());
    } else {
        CMPOOL_ASSERT(bytes.error().code == Errc::Invalid);
    }

    std::vector<std::byte> decoded(size / 2);
    if (from_hex(text, decoded)) {
        const std::string back = to_hex(decoded);
        CMPOOL_ASSERT(std::equal(
            text.begin(), text.end(), back.begin(), back.end(),
            [](char seen, char wrote) { return std::tolower(static_cast<unsigned char>(seen)) == wrote; }));
    }
    // A reader that was promised one byte less has to refuse, not to overrun.
    decoded.resize(decoded.size() + 1);
    CMPOOL_ASSERT(!from_hex(text, decoded));
    return 0;
}
