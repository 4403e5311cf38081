#include "safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include <cmpool/engine/model.h>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

namespace cmpool::engine {

namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::string_view kMetadata = "__metadata__";

std::optional<Dtype> dtype_of(std::string_view name) {
    if (name == "F32") return Dtype::F32;
    if (name == "BF16") return Dtype::Bf16;
    if (name == "F16") return Dtype::F16;
    return std::nullopt;
}

/// Takes the header apart as it is parsed, so that nothing but what the format has is ever built.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
public:
    [[nodiscard]] Result<std::vector<std::pair<std::string, Tensor>>> take(std::string_view text) {
        if (!nlohmann::json::sax_parse(text, this))
            return fail(Errc::Invalid, "expected a safetensors header, saw {}", wrong_);
        return std::move(tensors_);
    }

    bool key(string_t& name) override {
        if (at_ == At::Tensors) {
            at_ = name == kMetadata ? At::Metadata : At::Tensor;
            if (at_ == At::Tensor) tensors_.emplace_back(name, Tensor{});
            dtype_ = shape_ = offsets_ = false;
            return true;
        }
        if (at_ == At::MetadataText) return true;
        if (at_ == At::Fields && name == "dtype" && !std::exchange(dtype_, true)) return go(At::Dtype);
        if (at_ == At::Fields && name == "shape" && !std::exchange(shape_, true)) return go(At::Shape);
        if (at_ == At::Fields && name == "data_offsets" && !std::exchange(offsets_, true))
            return go(At::Offsets);
        return refuse(fmt::format("\"{}\" in {}", name.substr(0, kShownBytes), where()));
    }
    bool start_object(std::size_t) override {
        if (at_ == At::Start) return go(At::Tensors);
        if (at_ == At::Metadata) return go(At::MetadataText);
        if (at_ == At::Tensor) return go(At::Fields);
        return refuse("an object in " + where());
    }
    bool end_object() override {
        if (at_ == At::Fields && !(dtype_ && shape_ && offsets_))
            return refuse(where() + " without all of dtype, shape and data_offsets");
        return go(at_ == At::Tensors ? At::End : At::Tensors);
    }
    bool start_array(std::size_t) override {
        if (at_ == At::Shape) return go(At::Dimensions);
        if (at_ == At::Offsets) {
            numbers_ = 0;
            return go(At::Numbers);
        }
        return refuse("an array in " + where());
    }
    bool end_array() override {
        if (at_ == At::Numbers && numbers_ != 2) return refuse("no two data_offsets in " + where());
        return go(At::Fields);
    }
    bool number_unsigned(number_unsigned_t value) override {
        Tensor* tensor = tensors_.empty() ? nullptr : &tensors_.back().second;
        if (at_ == At::Dimensions && tensor->shape.size() < kDimensionsMax) {
            tensor->shape.push_back(value);
            return true;
        }
        if (at_ == At::Numbers && numbers_ < 2) {
            (numbers_++ == 0 ? tensor->begin : tensor->end) = value;
            return true;
        }
        return refuse("a number too many in " + where());
    }
    bool string(string_t& text) override {
        if (at_ == At::MetadataText) return true;
        const auto dtype = at_ == At::Dtype ? dtype_of(text) : std::nullopt;
        if (!dtype) {
            return refuse(fmt::format("\"{}\" in {}, where types are F32, BF16 and F16",
                                      text.substr(0, kShownBytes), where()));
        }
        tensors_.back().second.dtype = *dtype;
        return go(At::Fields);
    }
    bool null() override { return refuse("null in " + where()); }
    bool boolean(bool) override { return refuse("a boolean in " + where()); }
    bool number_integer(number_integer_t) override { return refuse("a negative number in " + where()); }
    bool number_float(number_float_t, const string_t&) override { return refuse("a fraction in " + where()); }
    bool binary(binary_t&) override { return refuse("binary data in " + where()); }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
        return refuse(fmt::format("no JSON at byte {}", position));
    }

private:
    enum class At : std::uint8_t {
        Start,
        Tensors,
        Metadata,
        MetadataText,
        Tensor,
        Fields,
        Dtype,
        Shape,
        Dimensions,
        Offsets,
        Numbers,
        End
    };
    static constexpr std::size_t kShownBytes = 80;

    bool go(At at) {
        at_ = at;
        return true;
    }
    bool refuse(std::string wrong) {
        wrong_ = std::move(wrong);
        return false;
    }
    [[nodiscard]] std::string where() const {
        const bool inside = at_ != At::Start && at_ != At::Tensors && at_ != At::End && at_ != At::Metadata &&
                            at_ != At::MetadataText && !tensors_.empty();
        return inside ? "tensor " + tensors_.back().first.substr(0, kShownBytes) : "the header";
    }

    At at_ = At::Start;
    bool dtype_ = false, shape_ = false, offsets_ = false;
    std::size_t numbers_ = 0;
    std::vector<std::pair<std::string, Tensor>> tensors_;
    std::string wrong_;
};

/// Nothing when it is no number of 64 bits.
std::optional<std::uint64_t> expected_bytes(const Tensor& tensor) {
    std::uint64_t bytes = bytes_of(tensor.dtype);
    for (const std::uint64_t dimension : tensor.shape) {
        if (__builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
    }
    return bytes;
}

Result<void> check_places(std::vector<std::pair<std::string, Tensor>>& tensors, std::uint64_t data_bytes) {
    std::ranges::sort(tensors, {},
                      [](const auto& one) { return std::pair(one.second.begin, one.second.end); });
    std::uint64_t end = 0;
    for (const auto& [name, tensor] : tensors) {
        if (tensor.begin != end || tensor.end < tensor.begin) {
            return fail(Errc::Invalid, "tensor {}: expected data_offsets to begin at {}, saw [{}, {}]", name,
                        end, tensor.begin, tensor.end);
        }
        const auto bytes = expected_bytes(tensor);
        if (!bytes || *bytes != tensor.end - tensor.begin) {
            return fail(Errc::Invalid,
                        "tensor {}: expected the bytes of its shape [{}], saw data_offsets [{}, {}]", name,
                        fmt::join(tensor.shape, ", "), tensor.begin, tensor.end);
        }
        end = tensor.end;
    }
    if (end != data_bytes)
        return fail(Errc::Invalid, "expected {} bytes of tensors by the header, saw {}", end, data_bytes);
    return {};
}

Result<TensorMap> parse_header(std::string_view text, std::uint64_t data_begin, std::uint64_t data_bytes) {
    auto tensors = HeaderReader().take(text);
    if (!tensors) return fail(tensors.error());
    if (auto sound = check_places(*tensors, data_bytes); !sound) return fail(sound.error());
    TensorMap map;
    for (auto& [name, tensor] : *tensors) {
        tensor.begin += data_begin;
        tensor.end += data_begin;
        const auto [at, added] = map.try_emplace(std::move(name), std::move(tensor));
        if (!added) return fail(Errc::Invalid, "expected each tensor once, saw {} twice", at->first);
    }
    return map;
}

float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000U) << 16;
    const std::uint32_t exponent = half >> 10 & 0x1fU;
    const std::uint32_t fraction = half & 0x3ffU;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000U | fraction << 13);
    if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -small : small;
}

}  // namespace

void to_floats(Dtype dtype, Bytes from, std::span<float> out) {
    if (dtype == Dtype::F32) {
        std::memcpy(out.data(), from.data(), out.size_bytes());
        return;
    }
    for (std::size_t index = 0; index < out.size(); ++index) {
        std::uint16_t value;
        std::memcpy(&value, from.data() + index * sizeof(value), sizeof(value));
        out[index] =
            dtype == Dtype::F16 ? half_to_float(value) : std::bit_cast<float>(std::uint32_t{value} << 16);
    }
}

Result<TensorMap> read_tensor_map(ByteSource& file) {
    if (file.size() < kLengthBytes) {
        return fail(Errc::Invalid, "{}: expected a safetensors header, saw a file of {} bytes", file.name(),
                    file.size());
    }
    std::array<std::byte, kLengthBytes> prefix;
    if (auto read = file.read(0, prefix); !read) return fail(read.error());
    std::uint64_t header_bytes;
    std::memcpy(&header_bytes, prefix.data(), sizeof(header_bytes));
    const std::uint64_t limit = std::min(Model::kHeaderBytesMax, file.size() - kLengthBytes);
    if (header_bytes > limit) {
        return fail(Errc::Invalid, "{}: expected a header of at most {} bytes, saw {}", file.name(), limit,
                    header_bytes);
    }
    std::string text(header_bytes, '\0');
    if (auto read = file.read(kLengthBytes, std::as_writable_bytes(std::span(text))); !read)
        return fail(read.error());
    const std::uint64_t data_begin = kLengthBytes + header_bytes;
    auto map = parse_header(text, data_begin, file.size() - data_begin);
    if (!map) return fail(map.error().code, "{}: {}", file.name(), map.error().detail);
    return map;
}

}  // namespace cmpool::engine
