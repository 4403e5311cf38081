#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/model/digest.h>
#include <cmpool/pool/directory.h>
#include <cmpool/transport/fabric.h>

#include <doctest/doctest.h>

namespace cmpool::testing {

/// A clock that moves only when the test says so.
class TestClock final : public Clock {
public:
    [[nodiscard]] Instant now() const noexcept override { return now_; }
    void advance(Nanos by) { now_ = now_ + by; }

private:
    Instant now_{1'000'000'000};
};

/// Memory of this process that looks like a segment; nobody can import it.
class HeapSegment final : public transport::Segment {
public:
    explicit HeapSegment(std::uint64_t bytes)
        : memory_(static_cast<std::byte*>(::operator new(bytes, kAlign)), bytes) {
        std::memset(memory_.data(), 0, bytes);
    }
    ~HeapSegment() override { ::operator delete(memory_.data(), kAlign); }
    HeapSegment(const HeapSegment&) = delete;
    HeapSegment& operator=(const HeapSegment&) = delete;

    [[nodiscard]] MutableBytes bytes() noexcept override { return memory_; }
    [[nodiscard]] const transport::Descriptor& descriptor() const noexcept override { return descriptor_; }
    [[nodiscard]] transport::Token token() const noexcept override { return {}; }
    [[nodiscard]] transport::Revocation revoke() override { return transport::Revocation::Hard; }
    void punch() noexcept override { std::memset(memory_.data(), 0, memory_.size()); }

private:
    static constexpr std::align_val_t kAlign{128};
    MutableBytes memory_;
    transport::Descriptor descriptor_;
};

/// Gives heap memory and no lanes. Counts what it gave, and can run out.
class HeapFabric final : public transport::Fabric {
public:
    [[nodiscard]] const transport::Caps& caps() const noexcept override { return caps_; }
    [[nodiscard]] Result<std::unique_ptr<transport::Segment>> allocate(
        const transport::SegmentSpec& spec) override {
        if (left == 0) return fail(Errc::NoCapacity, "the test has no more memory");
        --left;
        return std::make_unique<HeapSegment>(spec.bytes);
    }
    [[nodiscard]] Result<std::unique_ptr<transport::Segment>> register_memory(MutableBytes,
                                                                              transport::Access) override {
        return fail(Errc::Unsupported, "heap memory only");
    }
    [[nodiscard]] Result<std::unique_ptr<transport::Listener>> listen(std::string_view) override {
        return fail(Errc::Unsupported, "heap memory only");
    }
    [[nodiscard]] Result<std::unique_ptr<transport::Lane>> connect(std::string_view) override {
        return fail(Errc::Unsupported, "heap memory only");
    }

    std::size_t left = SIZE_MAX;  ///< allocations until NoCapacity

private:
    transport::Caps caps_;
};

/// Processes that run until the test ends them.
class FakeProcesses final : public pool::ProcessWatch {
public:
    [[nodiscard]] std::unique_ptr<Handle> watch(std::int32_t) override {
        return std::make_unique<Fake>(alive_);
    }
    [[nodiscard]] std::shared_ptr<Handle> handle() { return watch(1); }
    void end_all() { *alive_ = false; }

private:
    struct Fake final : Handle {
        explicit Fake(std::shared_ptr<bool> its) : its_alive(std::move(its)) {}
        [[nodiscard]] bool alive() const noexcept override { return *its_alive; }
        std::shared_ptr<bool> its_alive;
    };
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// A digest that a number names.
[[nodiscard]] inline model::Digest digest_of(std::uint64_t number) {
    return model::plain_digest(model::DigestKind::Content, std::as_bytes(std::span(&number, 1)));
}
/// Bytes that a number and a length name: two blocks never look alike.
[[nodiscard]] inline std::vector<std::byte> bytes_of(std::uint64_t number, std::size_t length) {
    std::vector<std::byte> bytes(length);
    Rng rng(number);
    for (std::size_t at = 0; at < length; at += sizeof(std::uint64_t)) {
        const std::uint64_t word = rng.next();
        std::memcpy(bytes.data() + at, &word, std::min(sizeof word, length - at));
    }
    return bytes;
}
[[nodiscard]] inline bool same(Bytes one, Bytes other) { return std::ranges::equal(one, other); }

}  // namespace cmpool::testing
