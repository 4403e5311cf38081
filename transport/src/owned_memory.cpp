#include "owned_memory.h"

#include <cerrno>
#include <cstring>

#include <cmpool/base/units.h>

#include <sys/mman.h>
#include <unistd.h>

namespace cmpool::transport {

namespace {

constexpr std::uint64_t kSegmentBytesMax = std::uint64_t{1} << 46;

Result<MutableBytes> map(int fd, std::uint64_t bytes, int protection, int flags) {
    void* at = ::mmap(nullptr, bytes, protection, flags, fd, 0);
    if (at == MAP_FAILED) {
        return fail(Errc::NoCapacity, "mapping {}: {}", format_bytes(bytes), std::strerror(errno));
    }
    // Advice: where huge pages are off this does nothing, and nothing depends on it.
    ::madvise(at, bytes, MADV_HUGEPAGE);
    return MutableBytes(static_cast<std::byte*>(at), bytes);
}

}  // namespace

Result<std::uint64_t> whole_pages(std::uint64_t bytes) {
    if (bytes == 0 || bytes > kSegmentBytesMax) return fail(Errc::Invalid, "a segment of {} bytes", bytes);
    return round_up(bytes, static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
}

OwnedMemory::~OwnedMemory() {
    if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

Result<OwnedMemory> OwnedMemory::anonymous(std::uint64_t bytes, bool prefault) {
    auto whole = whole_pages(bytes);
    if (!whole) return fail(whole.error());
    auto mapped = map(-1, *whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    if (!mapped) return fail(mapped.error());
    OwnedMemory memory(*mapped);
    if (prefault) {
        if (auto touched = memory.prefault(); !touched) return fail(touched.error());
    }
    return memory;
}

Result<OwnedMemory> OwnedMemory::file(int fd, std::uint64_t bytes, bool writable) {
    auto mapped = map(fd, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED);
    if (!mapped) return fail(mapped.error());
    return OwnedMemory(*mapped);
}

Result<void> OwnedMemory::prefault() const {
    if (::madvise(bytes_.data(), bytes_.size(), MADV_POPULATE_WRITE) == 0) return {};
    if (errno != EINVAL) {
        return fail(Errc::NoCapacity, "not enough memory for a segment of {}: {}",
                    format_bytes(bytes_.size()), std::strerror(errno));
    }
    // A kernel before 5.14: touch each page by hand.
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    for (std::size_t at = 0; at < bytes_.size(); at += page) {
        auto* byte = reinterpret_cast<volatile std::byte*>(bytes_.data() + at);
        *byte = *byte;
    }
    return {};
}

}  // namespace cmpool::transport
