#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <cmpool/base/bytes.h>

// How facts lie in the store: a version byte, then fields in a fixed order. Numbers are 8 bytes little
// endian, texts a number and that many bytes.
namespace cmpool::meta {

inline constexpr char kRecordVersion = 1;

class RecordWriter {
public:
    RecordWriter& number(std::uint64_t value) {
        bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
        return *this;
    }
    RecordWriter& text(std::string_view value) {
        number(value.size());
        bytes_.append(value);
        return *this;
    }
    [[nodiscard]] std::string take() { return std::move(bytes_); }

private:
    std::string bytes_{kRecordVersion};
};

/// Reads what a RecordWriter wrote; after the first field that does not fit all others are empty.
class RecordReader {
public:
    explicit RecordReader(std::string_view bytes)
        : rest_(bytes), good_(!bytes.empty() && bytes.front() == kRecordVersion) {
        if (good_) rest_.remove_prefix(1);
    }
    std::uint64_t number() {
        std::uint64_t value = 0;
        const auto field = bytes(sizeof value);
        if (good_) std::memcpy(&value, field.data(), sizeof value);
        return value;
    }
    std::string_view text() { return bytes(number()); }
    template <std::size_t kSize>
    void fixed(std::array<std::byte, kSize>& out) {
        const auto field = text();
        good_ = good_ && field.size() == kSize;
        if (good_) std::memcpy(out.data(), field.data(), kSize);
    }
    /// Whether something is left: fields that came with a later version.
    [[nodiscard]] bool more() const { return good_ && !rest_.empty(); }
    /// Everything fitted, and nothing is left over.
    [[nodiscard]] bool complete() const { return good_ && rest_.empty(); }

private:
    std::string_view bytes(std::uint64_t count) {
        good_ = good_ && count <= rest_.size();
        if (!good_) return {};
        const auto field = rest_.substr(0, count);
        rest_.remove_prefix(count);
        return field;
    }

    std::string_view rest_;
    bool good_;
};

}  // namespace cmpool::meta
