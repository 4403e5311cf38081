#pragma once

#include "byte_source.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cmpool::engine {

enum class Dtype : std::uint8_t { F32, Bf16, F16 };

[[nodiscard]] constexpr std::uint64_t bytes_of(Dtype dtype) noexcept { return dtype == Dtype::F32 ? 4 : 2; }
/// Exact: each value of a smaller type is also a float.
void to_floats(Dtype dtype, Bytes from, std::span<float> out);

/// One tensor of a file; [begin, end) counts from the file's beginning.
struct Tensor {
    Dtype dtype = Dtype::F32;
    std::vector<std::uint64_t> shape;
    std::uint64_t begin = 0, end = 0;
};

/// What a safetensors file says that it holds, by name: every tensor's bytes are as long as its shape
/// and type ask for, and the tensors lie one after the other from the header to the file's end.
///
///   Limits  Model::kHeaderBytesMax of header, kDimensionsMax dimensions; memory in proportion to the header
///   Errors  Invalid says what was expected and what was seen
///   Source  safetensors 0.4, README, "Format"
using TensorMap = std::map<std::string, Tensor, std::less<>>;

inline constexpr std::size_t kDimensionsMax = 8;

[[nodiscard]] Result<TensorMap> read_tensor_map(ByteSource& file);

}  // namespace cmpool::engine
