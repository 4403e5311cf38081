#include "descriptor.h"

#include "wire.h"

namespace cmpool::transport {

namespace {

// Layout: magic u32, version u16, kind u16, segment u64, base u64, length u64, access u8.
constexpr std::uint32_t kMagic = 0x44534d43;  // "CMSD"
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kDescriptorBytes = 33;

bool known(Access access) noexcept {
    return access == Access::None || access == Access::Read || access == Access::ReadWrite ||
           access == Access::Atomic;
}

}  // namespace

Descriptor describe(const SegmentName& name) {
    Descriptor descriptor{std::vector<std::byte>(kDescriptorBytes)};
    store(descriptor.bytes, 0, kMagic);
    store(descriptor.bytes, 4, kVersion);
    store(descriptor.bytes, 6, name.kind);
    store(descriptor.bytes, 8, name.segment);
    store(descriptor.bytes, 16, name.base);
    store(descriptor.bytes, 24, name.length);
    store(descriptor.bytes, 32, name.access);
    return descriptor;
}

Result<SegmentName> open_descriptor(const Descriptor& descriptor) {
    const Bytes bytes = descriptor.bytes;
    if (bytes.size() != kDescriptorBytes || load<std::uint32_t>(bytes, 0) != kMagic) {
        return fail(Errc::Invalid, "{} bytes that are no segment descriptor", bytes.size());
    }
    if (const auto version = load<std::uint16_t>(bytes, 4); version != kVersion) {
        return fail(Errc::Mismatch, "segment descriptor of version {}, ours is {}", version, kVersion);
    }
    const SegmentName name{.kind = SegmentKind{load<std::uint16_t>(bytes, 6)},
                           .access = Access{load<std::uint8_t>(bytes, 32)},
                           .segment = load<std::uint64_t>(bytes, 8),
                           .base = load<std::uint64_t>(bytes, 16),
                           .length = load<std::uint64_t>(bytes, 24)};
    if (!known(name.access) || name.length > INT64_MAX) {
        return fail(Errc::Invalid, "segment descriptor with access {} and length {}",
                    static_cast<unsigned>(name.access), name.length);
    }
    return name;
}

}  // namespace cmpool::transport
