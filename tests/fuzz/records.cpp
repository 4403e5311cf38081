// What meta keeps on disk: whatever lies there is refused as corrupt, or reads as a record that is written to
// the same bytes.
#include "records.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <cmpool/base/assert.h>

using namespace cmpool;

namespace {

template <class Decode, class Encode>
void check(std::string_view bytes, Decode decode, Encode encode) {
    const auto record = decode(bytes);
    if (!record) {
        CMPOOL_ASSERT(record.error().code == Errc::Corrupt || record.error().code == Errc::Mismatch);
        return;
    }
    const auto again = decode(encode(*record));
    CMPOOL_ASSERT(again.has_value() && encode(*again) == encode(*record));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    check(bytes, meta::decode_node, meta::encode_node);
    check(bytes, meta::decode_counters, meta::encode_counters);
    check(bytes, meta::decode_tenant, meta::encode_tenant);
    check(bytes, meta::decode_namespace, meta::encode_namespace);
    check(bytes, meta::decode_view, meta::encode_view);
    return 0;
}
