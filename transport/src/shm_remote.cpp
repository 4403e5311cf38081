#include "shm_remote.h"

#include <sys/stat.h>

namespace cmpool::transport {

Result<MutableBytes> ShmRemote::mapped() const {
    if (std::byte* start = start_.load(std::memory_order_acquire)) return MutableBytes(start, name_.length);
    if (window()) return fail(Errc::Unsupported, "a window into a process is read, never mapped");
    const std::scoped_lock lock(mutex_);
    if (memory_.bytes().empty()) {
        struct stat status {};
        if (::fstat(fd_.get(), &status) != 0 || static_cast<std::uint64_t>(status.st_size) < name_.length) {
            return fail(Errc::Corrupt, "a segment of {} bytes in a file of {}", name_.length, status.st_size);
        }
        const bool writable = allows(name_.access, Access::ReadWrite);
        auto memory = OwnedMemory::file(fd_.get(), name_.length, writable);
        if (!memory) return fail(memory.error());
        // Who writes has the owner's pages in its tables before the first byte is on its way: finding them
        // one by one takes longer than the bytes do.
        if (writable) {
            if (auto found = memory->prefault(); !found) return fail(found.error());
        }
        memory_ = std::move(*memory);
        start_.store(memory_.bytes().data(), std::memory_order_release);
    }
    return memory_.bytes();
}

}  // namespace cmpool::transport
