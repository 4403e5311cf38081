#include "shm_segment.h"

#include "descriptor.h"
#include "runtime_dir.h"

#include <cerrno>
#include <cstring>

#include <cmpool/base/units.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace cmpool::transport {

namespace {

/// What ends with a segment.
struct ShmBacking {
    UniqueFd fd;        ///< ours, writable
    UniqueFd exported;  ///< what peers get
    OwnedMemory memory;
};

class ShmSegment final : public Segment {
public:
    ShmSegment(SegmentTable& table, ShmBacking backing, Access access, SegmentSecrets secrets)
        : table_(table),
          fd_(std::move(backing.fd)),
          memory_(std::move(backing.memory)),
          entry_(std::make_shared<SegmentEntry>(secrets.id, secrets.token, access, memory_.bytes(),
                                                std::move(backing.exported))),
          descriptor_(describe({.kind = SegmentKind::ShmFile,
                                .access = access,
                                .segment = secrets.id,
                                .length = memory_.bytes().size()})) {
        table_.add(entry_);
    }

    ~ShmSegment() override { table_.remove(entry_->id); }

    [[nodiscard]] MutableBytes bytes() noexcept override { return memory_.bytes(); }
    [[nodiscard]] const Descriptor& descriptor() const noexcept override { return descriptor_; }
    [[nodiscard]] Token token() const noexcept override { return entry_->token; }
    [[nodiscard]] Revocation revoke() override {
        entry_->revoke();
        return Revocation::Pending;
    }
    void punch() noexcept override {
        entry_->revoke();
        punch_all(fd_.get(), memory_.bytes().size());
    }

private:
    SegmentTable& table_;
    UniqueFd fd_;
    OwnedMemory memory_;
    std::shared_ptr<SegmentEntry> entry_;
    Descriptor descriptor_;
};

class ShmWindow final : public Segment {
public:
    ShmWindow(MutableBytes memory, SegmentSecrets secrets)
        : memory_(memory),
          token_(secrets.token),
          descriptor_(describe({.kind = SegmentKind::ShmWindow,
                                .access = Access::Read,
                                .segment = secrets.id,
                                .base = reinterpret_cast<std::uintptr_t>(memory.data()),
                                .length = memory.size()})) {}

    [[nodiscard]] MutableBytes bytes() noexcept override { return memory_; }
    [[nodiscard]] const Descriptor& descriptor() const noexcept override { return descriptor_; }
    [[nodiscard]] Token token() const noexcept override { return token_; }
    /// The kernel decides who may read this process; nothing here can change that.
    [[nodiscard]] Revocation revoke() override { return Revocation::Pending; }
    void punch() noexcept override {}

private:
    MutableBytes memory_;
    Token token_;
    Descriptor descriptor_;
};

Result<ShmBacking> back_by_file(const std::string& runtime_dir, const SegmentSpec& spec, std::uint64_t id,
                                std::uint64_t bytes) {
    auto file = create_segment_file(runtime_dir, spec.name, id, bytes);
    if (!file) return fail(file.error());
    auto memory = OwnedMemory::file(file->fd.get(), bytes, true);
    if (!memory) return fail(memory.error());
    return ShmBacking{std::move(file->fd), std::move(file->read_only), std::move(*memory)};
}

// Sealed before anybody sees it: a peer that could shrink it would kill us by SIGBUS.
Result<ShmBacking> back_by_memfd(const SegmentSpec& spec, std::uint64_t bytes) {
    ShmBacking backing;
    const std::string name = "cmpool-" + spec.name;
    backing.fd.reset(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
    const int fd = backing.fd.get();
    if (fd < 0 || ::fallocate(fd, 0, 0, static_cast<off_t>(bytes)) != 0 ||
        ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return fail(Errc::NoCapacity, "a shared segment of {}: {}", format_bytes(bytes),
                    std::strerror(errno));
    }
    auto memory = OwnedMemory::file(fd, bytes, true);
    if (!memory) return fail(memory.error());
    backing.memory = std::move(*memory);
    backing.exported.reset(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    return backing;
}

}  // namespace

Result<std::unique_ptr<Segment>> make_shm_segment(SegmentTable& table, const std::string& runtime_dir,
                                                  const SegmentSpec& spec, SegmentSecrets secrets) {
    auto bytes = whole_pages(spec.bytes);
    if (!bytes) return fail(bytes.error());
    const bool peers_write = allows(spec.access, Access::ReadWrite);
    auto backing =
        peers_write ? back_by_memfd(spec, *bytes) : back_by_file(runtime_dir, spec, secrets.id, *bytes);
    if (!backing) return fail(backing.error());
    if (spec.prefault) {
        if (auto touched = backing->memory.prefault(); !touched) return fail(touched.error());
    }
    return std::make_unique<ShmSegment>(table, std::move(*backing), spec.access, secrets);
}

std::unique_ptr<Segment> make_shm_window(MutableBytes memory, SegmentSecrets secrets) {
    return std::make_unique<ShmWindow>(memory, secrets);
}

}  // namespace cmpool::transport
